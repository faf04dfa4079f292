"""`torchvgg evaluate`: the numbers are Keras's, each class is told by its name, and the right preprocessing is found."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from torchvgg import VGG16, VGG19, evaluate, evaluate_each, extract_features, load_model, optimize_for_inference
from torchvgg.command_line import main
from torchvgg.convert import convert
from torchvgg.evaluation import Evaluation
from torchvgg.image_files import pipeline_for
from torchvgg.imagenet import labels

from ..helpers.photos import photo

PLACES = {"astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png", "retina": "retina.jpg"}
SIZE = (28, 32)
layers = keras.layers


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def write_crops(folder: Path, number: int, seed: int) -> Path:
    """Small crops of photographs, as losslessly stored files, in a folder for each photograph."""
    random = np.random.default_rng(seed)
    for name, file in PLACES.items():
        source = photo(file, (150, 150))
        (folder / name).mkdir(parents=True)
        for index in range(number):
            left, top = random.integers(0, 150 - 48), random.integers(0, 150 - 40)
            source.crop((left, top, left + 48, top + 40)).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops that no model here was trained on, and one file that is no image."""
    folder = write_crops(tmp_path_factory.mktemp("crops") / "val", 20, seed=1)
    (folder / "cat" / "bad.png").write_text("no image")
    return folder


def small_network(classes: int = 4, activation: str | None = "softmax", **arguments: Any) -> Any:
    return keras.Sequential(
        [
            layers.Input((*SIZE, 3)),
            layers.Conv2D(8, 3, strides=2, **arguments),
            layers.BatchNormalization(momentum=0.8),
            layers.Activation("relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation=activation),
        ]
    )


def keras_images(folder: Path, mode: str | None, **reading: Any) -> tuple[np.ndarray, np.ndarray]:
    """The good images of a folder and their classes, as Keras reads and preprocesses them."""
    paths = [path for path in sorted(folder.glob("*/*")) if path.name != "bad.png"]
    x = np.stack([keras.utils.img_to_array(keras.utils.load_img(path, target_size=SIZE, **reading)) for path in paths])
    x = (
        x / 255
        if mode == "unit"
        else x
        if mode is None
        else keras.applications.imagenet_utils.preprocess_input(x, mode=mode)
    )
    names = sorted(path.name for path in folder.iterdir())
    return x, np.array([names.index(path.parent.name) for path in paths])


# What torchvgg calls it, and Keras; and how the images are resized.
TRAINED: dict[str, tuple[str | None, dict[str, Any]]] = {
    "vgg": ("caffe", {}),
    "unit": ("unit", {"interpolation": "bilinear"}),
    "signed": ("tf", {"interpolation": "bilinear", "keep_aspect_ratio": True}),
    "torchvision": ("torch", {"interpolation": "bilinear"}),
    "none": (None, {}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """Makes the Keras model trained under a pipeline, and its converted file."""
    home = tmp_path_factory.mktemp("trained")
    crops, known = write_crops(home / "train", 40, seed=0), {}

    def train(how: str) -> tuple[Any, Path]:
        if how not in known:
            keras.utils.set_random_seed(0)
            mode, reading = TRAINED[how]
            x, y = keras_images(crops, mode, **reading)
            model = small_network()
            model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
            model.fit(x, y, epochs=15, batch_size=20, verbose=0)
            model.save(home / f"{how}.keras")
            known[how] = model, Path(convert(home / f"{how}.keras", check=False).output)
        return known[how]

    return train


@pytest.mark.parametrize("how", TRAINED)
def test_the_preprocessing_of_the_training_is_found(
    how: str, trained: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, weights = trained(how)
    arguments = ("evaluate", folder, "--weights", weights, "--preprocess", "each", "--sample", "60", "--workers", "0")
    assert run(*arguments, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == 5 * 4
    assert results[0]["pipeline"]["preprocessing"] == how
    assert results[0]["top1"] > 0.85
    others = [each["top1"] for each in results if each["pipeline"]["preprocessing"] != how]
    assert results[0]["top1"] > max(others)
    assert run(*arguments) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2:4] == ["--preprocess", how]


@pytest.mark.parametrize("how", ["vgg", "unit", "signed"])
def test_accuracy_is_keras(how: str, trained: Any, folder: Path, tmp_path: Path) -> None:
    """And the loss, to float32's rounding, with every option that Keras has; a bad image counts in neither."""
    theirs, weights = trained(how)
    mode, reading = TRAINED[how]
    x, y = keras_images(folder, mode, **reading)
    loss, accuracy = theirs.evaluate(x, y, verbose=0)
    predicted = np.asarray(theirs.predict(x, verbose=0)).argmax(1)
    with pytest.warns(
        UserWarning, match="classes 0 to 3 are taken to be astronaut, cat, coffee, retina, in alphabetical order"
    ):
        result = evaluate(load_model(weights), folder, preprocessing=how, batch_size=7, workers=1, **reading)
    assert (result.images, result.bad, result.top5) == (81, 1, 1.0)
    assert [error.image for error in result.errors] == [str(folder / "cat" / "bad.png")]
    assert result.errors[0].error.startswith("can't be read as an image")
    assert result.top1 == pytest.approx(accuracy, abs=1e-6)
    assert result.loss == pytest.approx(loss, rel=1e-4)
    for row in result.classes:
        assert row.name == sorted(PLACES)[row.number]
        assert (row.images, row.right) == (20, (predicted[y == row.number] == row.number).sum())
        assert row.accuracy == row.right / 20
    wrong = {(true, guess): ((y == true) & (predicted == guess)).sum() for true in range(4) for guess in range(4)}
    assert {each[:2]: each[2] for each in result.confusions} == {
        pair: count for pair, count in wrong.items() if count and pair[0] != pair[1]
    }
    counts = [each[2] for each in result.confusions]
    assert counts == sorted(counts, reverse=True)


def test_what_is_printed(trained: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, weights = trained("vgg")
    assert run("evaluate", folder, "--weights", weights, "--json", "--workers", "0") == 0
    printed, error = capsys.readouterr()
    known = json.loads(printed)
    first, second = error.splitlines()
    assert first.startswith(
        "warning: the classes 0 to 3 are taken to be astronaut, cat, coffee, retina, in alphabetical order"
    )
    assert (
        second
        == f"1 of 81 images is bad; for example {folder}/cat/bad.png: can't be read as an image (it isn't one that Pillow knows)"
    )
    assert known["pipeline"]["resize"] == list(SIZE)
    assert known["images_per_second"] > 0
    assert known["errors"][0]["image"] == f"{folder}/cat/bad.png"
    assert run("evaluate", folder, "--weights", weights, "--workers", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["accuracy", "right", "images", "class"]
    for line, row in zip(lines[1:5], known["classes"], strict=True):
        assert line.split() == [f"{row['accuracy']:.1%}", str(row["right"]), "20", row["name"]]
    names = [row["name"] for row in known["classes"]]
    shown = [f"  {each['count']:6}  {names[each['true']]} → {names[each['predicted']]}" for each in known["confusions"]]
    assert lines[6:-2] == shown[:10]
    assert lines[-2] == f"top-1 {known['top1']:.2%}, loss {known['loss']:.4f}"
    assert re.fullmatch(r"81 images, 1 of them bad, in \d+\.\d s, [\d.]+ images/s", lines[-1])


def test_many_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ImageNet's: by id, name or number; rank 5 is among the first five, of equal scores the first class counts."""
    model = fixed(torch.arange(1000).float().flip(0))  # class 0 is the likeliest, then 1
    crop = photo("coffee.png", (8, 8))
    for name, number in (("n01440764", 2), ("goldfish", 3), ("4", 2), ("5", 1), ("281", 1)):
        (tmp_path / name).mkdir()
        for index in range(number):
            crop.save(tmp_path / name / f"{index}.png")
    result = evaluate(model, tmp_path, workers=0)
    assert labels()[0][0] == "n01440764"
    assert (result.images, result.top1, result.top5) == (9, 2 / 9, 7 / 9)
    assert [(row.number, row.wnid) for row in result.classes if row.images] == [
        (n, labels()[n][0]) for n in (0, 1, 4, 5, 281)
    ]
    assert result.confusions[0] == (1, 0, 3)
    with torch.no_grad():
        model.predictions.bias.zero_()  # equal scores
    assert evaluate(model, tmp_path, workers=0).top5 == 7 / 9
    (tmp_path / "crane").mkdir()
    with pytest.raises(ValueError, match="crane: several classes have this name, 134, 517; use a number instead"):
        evaluate(model, tmp_path)


def fixed(logits: torch.Tensor, activation: str | None = None) -> VGG16:
    """A model that has these scores for every image."""
    model = VGG16(weights=None, input_shape=(3, 32, 32), classes=len(logits), classifier_activation=activation).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.predictions.bias.copy_(logits)
    return model


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_is_two_classes(activation: str | None, folder: Path, tmp_path: Path) -> None:
    """As Keras's BinaryAccuracy and BinaryCrossentropy have it."""
    keras.utils.set_random_seed(2)
    theirs = small_network(1, activation)
    threshold = 0.5 if activation else 0.0
    theirs.compile(
        loss=keras.losses.BinaryCrossentropy(from_logits=not activation),
        metrics=[keras.metrics.BinaryAccuracy(threshold=threshold)],
    )
    for name in ("cat", "coffee"):
        (tmp_path / "two" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(folder / name)
    x, y = keras_images(tmp_path / "two", "caffe")
    output = np.asarray(theirs.predict(x, verbose=0))
    bias = theirs.layers[-1].get_weights()
    middle = np.median(np.log(output / (1 - output)) if activation else output)
    theirs.layers[-1].set_weights([bias[0], bias[1] - middle])  # both classes occur
    loss, accuracy = theirs.evaluate(x, y[:, None], verbose=0)
    theirs.save(tmp_path / "binary.keras")
    with pytest.warns(UserWarning, match="classes 0 to 1 are taken to be cat, coffee, in alphabetical order"):
        result = evaluate(load_model(tmp_path / "binary.keras"), tmp_path / "two", workers=0)
    assert result.top1 == pytest.approx(accuracy, abs=1e-6)
    assert 0.1 < accuracy < 0.9
    assert result.loss == pytest.approx(loss, rel=1e-4)
    with pytest.raises(
        ValueError, match=r"expected 2 classes, as the model has, or numbers from 0 to 1\. Received: 4 \(astronaut,"
    ):
        evaluate(load_model(tmp_path / "binary.keras"), folder)


CSVS: dict[str, tuple[str, dict[str, int] | str]] = {
    "a header": ("file,label\na.png,1\nb/c.png,0\n", {"a.png": 1, "b/c.png": 0}),
    "none": ("a.png,2\n\n", {"a.png": 2}),
    "names": ("\ufeffa.png, cat\r\nb/c.png,coffee\r\n", {"a.png": 1, "b/c.png": 2}),
    "missing": ("a.png,1\nd.png,1\n", "labels.csv, line 2: {0}/d.png: no such file"),
    "missing at once": ("d.png,1\n", "labels.csv, line 1: {0}/d.png: no such file"),
    "twice": ("a.png,1\na.png,1\n", "labels.csv, line 2: {0}/a.png is there twice"),
    "three columns": ("a.png,1,2\n", "labels.csv, line 1: expected PATH,CLASS. Received: a.png,1,2"),
    "no class of the model": (
        "a.png,dog\n",
        "dog: no such class; expected a WordNet id, a name, or a number from 0 to 3",
    ),
    "nothing": ("file,label\n", "labels.csv: no rows; expected PATH,CLASS in each"),
    "no text": ("\udcff\udcfe", "labels.csv: expected CSV in UTF-8"),
}


@pytest.mark.parametrize("case", CSVS)
def test_classes_in_a_csv_file(case: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, expected = CSVS[case]
    _, weights = trained("vgg")
    for name in ("a.png", "b/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo("coffee.png", (40, 30)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "names.txt").write_text("astronaut\ncat\ncoffee\nretina\n")
    status = run(
        *("evaluate", tmp_path, "--labels-csv", tmp_path / "labels.csv", "--labels", tmp_path / "names.txt"),
        *("--weights", weights, "--json", "--workers", "0"),
    )
    printed, error = capsys.readouterr()
    if isinstance(expected, str):
        assert (status, printed, error.count("\n")) == (1, "", 1)
        assert expected.format(tmp_path) in error
        return
    assert (status, error) == (0, "")
    counts = {row["number"]: row["images"] for row in json.loads(printed)["classes"] if row["images"]}
    assert counts == dict.fromkeys(expected.values(), 1)


ERRORS: dict[str, tuple[list[str], str]] = {
    "no such folder": (["{tmp}/none"], "none: No such file or directory"),
    "a file": (["{weights}"], "Not a directory"),
    "no subfolders": (["{tmp}"], "no subfolders; expected one for each class"),
    "no images": (["{empty}"], "no images in its subfolders"),
    "no such csv": (["{folder}", "--labels-csv", "{tmp}/none.csv"], "none.csv: No such file or directory"),
    "number of labels": (["{folder}", "--labels", "{names}"], "labels: expected a name for each of the 4 classes. Received: 1"),
    "half": (["{folder}", "--half"], "half: there is no GPU here"),
    "each on Ray": (["{folder}", "--preprocess", "each", "--ray"], "each: a sample is evaluated on this machine; drop --ray"),
    "another size": (["{folder}", "--crop", "20"], "expected to give the model's size, 28×32. Received: 20×20"),
    "all bad": (["{bad}", "--labels-csv", "{bad}/labels.csv"], "the image is bad; for example"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(
    case: str, trained: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = ERRORS[case]
    if case == "half" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    home = tmp_path / "home"
    (empty := home / "empty").joinpath("class").mkdir(parents=True)
    (bad := home / "bad").mkdir()
    (bad / "bad.png").write_text("no image")
    (bad / "labels.csv").write_text("bad.png,1")
    (names := home / "names.txt").write_text("cat\n")
    (tmp := tmp_path / "tmp").mkdir()
    _, weights = trained("vgg")
    places = {"tmp": tmp, "folder": folder, "weights": weights, "empty": empty, "names": names, "bad": bad}
    given = [argument.format(**places) for argument in arguments]
    status = run("evaluate", *given, "--weights", weights, "--workers", "0")
    assert status == (2 if case == "each on Ray" else 1)
    printed, error = capsys.readouterr()
    assert printed == ""
    *warnings, last = error.splitlines()
    assert all(line.startswith("warning: the classes 0 to 3 are taken") for line in warnings)
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize("kind", ["Sequential", "OptimizedModel"])
def test_what_is_none_of_torchvggs_models_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    model: Any = VGG16(weights=None, include_top=False)
    model = torch.nn.Sequential(model) if kind == "Sequential" else optimize_for_inference(model)
    message = f"expected a model from VGG16, VGG19 or load_model, .* before `optimize_for_inference`. Received: {kind}"
    with pytest.raises(ValueError, match=message):
        optimize_for_inference(model)
    for call in (evaluate, evaluate_each, partial(extract_features, output=tmp_path / "f.npz")):
        with pytest.raises(ValueError, match=message):
            call(model, str(folder))


def test_what_has_no_classes_is_refused(folder: Path) -> None:
    for model in (
        VGG16(weights=None, include_top=False),
        VGG16(weights=None, include_top=False, input_shape=(3, 32, 32)),
        VGG16(weights=None, include_top=False, pooling="avg"),
        VGG19(weights=None, include_top=False, pooling="max", input_shape=(3, 32, 32)),
    ):
        for function in (evaluate, evaluate_each):
            with pytest.raises(
                ValueError, match=r"expected a model that ends in classes, \(N, classes\)\. Received: one that ends in"
            ):
                function(model, folder)
    with pytest.raises(ValueError, match="the model's output has NaN or infinity in it; its weights are damaged"):
        evaluate(fixed(torch.tensor([0.0, float("nan"), 0, 0])), folder, labels=sorted(PLACES), workers=0)
    with pytest.raises(ValueError, match=r"sample: expected a number from 1 up. Received: 0"):
        evaluate(fixed(torch.zeros(4)), folder, sample=0)


def test_classes_by_path(folder: Path, trained: Any) -> None:
    """In Python; and `each` leaves alone what is chosen."""
    model = load_model(trained("vgg")[1])
    wanted = {str(folder / "cat" / "01.png"): 1, str(folder / "coffee" / "02.png"): "2"}
    result = evaluate(model, wanted, workers=0)
    assert [row.images for row in result.classes] == [0, 1, 1, 0]
    assert np.isnan(result.classes[0].accuracy)
    each: list[Evaluation] = evaluate_each(model, wanted, interpolation="bicubic", workers=0)
    assert len(each) == 5
    assert {one.pipeline.interpolation for one in each} == {"bicubic"}
    grey = VGG16(weights=None, input_shape=(1, 32, 32), classes=4).eval()
    assert {one.pipeline.preprocessing for one in evaluate_each(grey, wanted, workers=0)} == {
        "vgg",
        "unit",
        "signed",
        "none",
    }
    with pytest.raises(ValueError, match=r"expected at least one image. Received: none"):
        evaluate(model, {})


def test_the_options_make_the_pipeline() -> None:
    from torchvgg.command_line import parser
    from torchvgg.commands import _choices

    model = VGG16(weights=None, include_top=False)
    for choices in (
        {"resize": 256, "crop": 224, "interpolation": "bilinear", "preprocessing": "torchvision"},
        {"resize": (100, 120), "keep_aspect_ratio": True, "exif": True, "preprocessing": "unit"},
    ):
        pipeline = pipeline_for(model, **choices)
        options = parser().parse_args(["evaluate", "val", *pipeline.options().split()])
        assert pipeline_for(model, **_choices(options)) == pipeline
