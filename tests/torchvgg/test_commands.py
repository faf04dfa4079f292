"""The command line `torchvgg`: what it prints is what the library and Keras say; what goes wrong is one line."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from torchvgg import VGG16, VGG19, decode_predictions, load_image, load_model, preprocess_input
from torchvgg.command_line import main
from torchvgg.convert import convert

from ..helpers.keras_models import keras_model, relative_error
from ..helpers.photos import photo, write_photos


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def theirs() -> Any:
    return keras_model(input_shape=(64, 64, 3), classes=4)


@pytest.fixture(scope="module")
def weights(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one's own, with a size and classes of its own."""
    folder = tmp_path_factory.mktemp("weights")
    theirs.save(folder / "own.keras")
    convert(folder / "own.keras", check=False)
    (folder / "own.keras").unlink()
    return folder / "own.safetensors"


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "cat.jpg"
    photo().save(path, exif=turned_over())
    return path


def turned_over() -> Any:
    exif = Image.Exif()
    exif[0x0112] = 3  # which means: turn it by 180°
    return exif


SUMMARIES: dict[str, tuple[list[str], Any, Any]] = {
    "the default": ([], VGG16, {}),
    "no top": (["--no-top"], VGG16, {"include_top": False}),
    "vgg19": (["vgg19", "--no-top", "--pooling", "max"], VGG19, {"include_top": False, "pooling": "max"}),
    "a shape": (["--no-top", "--input-shape", "100,60"], VGG16, {"include_top": False, "input_shape": (3, 100, 60)}),
    "channels too": (
        ["--no-top", "--input-shape", "1,64,64"],
        VGG16,
        {"include_top": False, "input_shape": (1, 64, 64)},
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_summary(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, network, settings = SUMMARIES[case]
    with torch.device("meta"):
        model = network(weights=None, **settings)
    for option, data_format in (([], "channels_first"), (["--channels-last"], "channels_last")):
        assert run("summary", *arguments, *option) == 0
        printed = capsys.readouterr().out
        model.summary(data_format=data_format)
        assert printed == capsys.readouterr().out


def test_summary_of_a_file(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What Keras shows for it, `tests/torchvgg/test_model.py` compares."""
    assert run("summary", weights, "--channels-last") == 0
    lines: list[str] = []
    load_model(weights).summary(data_format="channels_last", print_fn=lines.append)
    assert capsys.readouterr().out.splitlines() == lines


def test_predict_is_keras(theirs: Any, weights: Path, cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the model's own size and classes; and EXIF aside, unless asked."""
    for option, turns in (([], 0), (["--exif"], 2)):
        image = keras.utils.img_to_array(keras.utils.load_img(cat).rotate(90 * turns).resize((64, 64), 0))
        (expected,) = np.asarray(theirs.predict(keras.applications.vgg16.preprocess_input(image[None]), verbose=0))
        assert run("predict", cat, "--weights", weights, "--json", *option) == 0
        ((result),) = json.loads(capsys.readouterr().out)
        assert result["image"] == str(cat)
        numbers = [row["number"] for row in result["predictions"]]
        assert numbers == list(np.argsort(-expected))
        assert [row["name"] for row in result["predictions"]] == [f"class {number}" for number in numbers]
        received = torch.tensor([row["score"] for row in result["predictions"]])
        assert relative_error(received, torch.from_numpy(expected[numbers])) <= 1e-5


def test_predict_reads_images_as_asked(weights: Path, cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--resize", "72", "--crop", "64", "--interpolation", "bicubic", "--preprocess", "torchvision")
    assert run("predict", cat, "--weights", weights, "--json", "--top", "4", *options) == 0
    ((result),) = json.loads(capsys.readouterr().out)
    x = load_image(cat, 72, crop=64, interpolation="bicubic") / 255
    mean, deviation = (torch.tensor(three).reshape(3, 1, 1) for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        (expected,) = load_model(weights)((x - mean) / deviation)
    received = {row["number"]: row["score"] for row in result["predictions"]}
    assert received == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-5)


def test_predict_for_people(weights: Path, cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nhorse\nbird\n")
    assert run("predict", cat, "--weights", weights, "--labels", labels, "--top", "2") == 0
    name, first, second = capsys.readouterr().out.splitlines()
    model = load_model(weights)
    with torch.no_grad():
        (scores,) = model(preprocess_input(load_image(cat, (64, 64))))
    best, other = scores.topk(2).indices.tolist()
    names = labels.read_text().splitlines()
    assert name == str(cat)
    assert first.split() == [f"{scores[best]:.1%}", first.split()[1], names[best]]
    assert second.split()[-1] == names[other]
    assert set(first.split()[1]) <= set("█▏▎▍▌▋▊▉")
    assert abs(len(first.split()[1]) - 20 * scores[best]) <= 1


def test_predict_goes_on_after_a_bad_image(
    weights: Path, cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad := tmp_path / "bad.jpg").write_text("no image")
    (link := tmp_path / "loop.jpg").symlink_to(bad)
    assert run("predict", bad, cat, link, "--weights", weights, "--json") == 0
    printed, error = capsys.readouterr()
    assert error == "2 of 3 images are bad; see the error printed for each\n"
    first, second, third = json.loads(printed)
    assert "can't be read as an image" in first["error"]
    assert len(second["predictions"]) == 4
    assert "can't be read as an image" in third["error"]
    assert run("predict", bad, cat, "--weights", weights) == 0
    printed, error = capsys.readouterr()
    assert printed.splitlines()[:3] == [
        str(bad),
        f"  {bad}: can't be read as an image (it isn't one that Pillow knows)",
        str(cat),
    ]
    assert error == "1 of 2 images is bad; see the error printed for each\n"
    assert run("predict", bad, link, "--weights", weights) == 1
    assert capsys.readouterr().err == "error: none of the 2 images is good; see the error printed for each\n"
    assert run("predict", bad, "--weights", weights) == 1
    assert capsys.readouterr().err == f"error: {bad}: can't be read as an image (it isn't one that Pillow knows)\n"


def test_extract_says_how_many_images_are_bad(
    weights: Path, cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad := tmp_path / "bad.jpg").write_text("no image")
    for images, status, message in (
        ((cat, bad), 0, "1 of 2 images is bad; {} has the error for each\n"),
        ((bad, tmp_path / "bad.jpg"), 1, "error: the image is bad; {} has the error for each\n"),
        ((cat,), 0, ""),
    ):
        output = tmp_path / f"{len(images)}{status}.npz"
        assert run("extract", *images, "-o", output, "--weights", weights) == status
        assert capsys.readouterr().err == message.format(output)
        with np.load(output) as file:  # it is written all the same
            assert len(file["path"]) == len(set(images))
    assert run("extract", cat, tmp_path / "gone.jpg", "-o", tmp_path / "f.npz", "--weights", weights) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/gone.jpg: no such file or folder\n"
    assert not (tmp_path / "f.npz").exists()


def test_scores_that_are_no_probabilities_have_no_bars(
    cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = keras_model(input_shape=(32, 32, 3), classes=3, classifier_activation=None)
    theirs.save(tmp_path / "logits.keras")
    (tmp_path / "labels.txt").write_text("\ufeffone\ntwo\nthree\n\n", "utf-8")
    arguments = ("--weights", tmp_path / "logits.keras", "--labels", tmp_path / "labels.txt")
    assert run("predict", cat, *arguments) == 0
    printed = capsys.readouterr().out
    assert "%" not in printed
    assert {line.split()[1] for line in printed.splitlines()[1:]} == {"one", "two", "three"}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> VGG16:
    """Stands for the published VGG16, which would be fetched: `weights="imagenet"` of another number of parameters."""
    model = VGG16(weights=None).eval()
    monkeypatch.setattr("torchvgg.commands.open_model", lambda weights, include_top=True: model)
    return model


def test_predict_imagenet(published: VGG16, cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        (expected,) = decode_predictions(published(preprocess_input(load_image(cat))), top=3)
    assert run("predict", cat, "--top", "3", "--json") == 0
    ((result),) = json.loads(capsys.readouterr().out)
    received = [(row["wnid"], row["name"]) for row in result["predictions"]]
    assert received == [(wnid, name) for wnid, name, _ in expected]
    assert run("predict", cat, "--top", "3") == 0
    printed = capsys.readouterr().out
    assert all(f"{name} ({wnid})" in printed for wnid, name, _ in expected)


def test_show(published: VGG16, cat: Path, tmp_path: Path) -> None:
    for name, options, shape in (
        ("maps.png", ("--layer", "block3_conv3", "--maps", "9"), (795, 2150)),
        ("cam.png", ("--cam", "--dpi", "75"), (398, 1075)),
        ("gray.jpg", ("--cam", "281", "--cmap", "gray", "--dpi", "50"), (265, 716)),
    ):
        assert run("show", cat, *options, "-o", tmp_path / name) == 0
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(np.subtract(pixels.shape[:2], shape)).max() <= 2
        is_colourful = np.ptp(pixels[shape[0] // 4 : -shape[0] // 4, -shape[1] // 8 :], axis=2).max() > 100
        assert is_colourful == (name != "gray.jpg")  # the colour bar at the right
    assert run("show", cat, "--cam", "tabby", "-o", tmp_path / "cam.svg") == 0
    assert "<svg" in (tmp_path / "cam.svg").read_text()


def test_show_draws_the_photograph_as_it_is(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own size, turned only if asked; the file's name is in the title."""
    figures: list[Any] = []
    monkeypatch.setattr("torchvgg.commands.save_picture", lambda figure, *_: figures.append(figure))
    photo(size=(150, 100)).save(tmp_path / "c$t.png", exif=turned_over())
    for options in ((), ("--cam",), ("--exif",)):
        arguments = ("show", tmp_path / "c$t.png", "--weights", weights, "-o", tmp_path / "x.png", *options)
        assert run(*arguments) == 0
    upright, cam, turned = (np.asarray(figure.axes[0].images[0].get_array()) for figure in figures)
    assert np.array_equal(upright, np.asarray(photo(size=(150, 100))))
    assert np.array_equal(cam, upright)
    assert np.array_equal(turned, upright[::-1, ::-1])
    titles = [figure.get_suptitle() for figure in figures]
    assert titles[0] == titles[2] == "c$t.png, block5_conv3"
    assert re.fullmatch(r"c\$t\.png: class \d \([\d.]+%\), block5_conv3", titles[1])


ERRORS: dict[str, tuple[list[str], str]] = {
    "no such weights": (["predict", "{cat}", "--weights", "{tmp}/none.h5"], "none.h5: no such file; expected one, or vgg16 or vgg19"),
    "no weights": (["summary", "{cat}"], "cat.jpg: "),
    "no such image": (["predict", "{tmp}/no.jpg", "--weights", "{weights}"], "no.jpg: no such file or folder"),
    "no image": (["predict", "{weights}", "--weights", "{weights}"], "can't be read as an image"),
    "empty folder": (["predict", "{tmp}", "--weights", "{weights}"], "no images in it; expected files that end in"),
    "too few labels": (["predict", "{cat}", "--weights", "{weights}", "--labels", "{labels}"], "expected a name for each of the 4 classes. Received: 1"),
    "labels not in UTF-8": (["predict", "{cat}", "--weights", "{weights}", "--labels", "{cat}"], "cat.jpg: expected names in UTF-8, a line each"),
    "onto the image": (["show", "{cat}", "-o", "{cat}", "--weights", "{weights}", "--force"], "cat.jpg is the image itself"),
    "no such folder": (["extract", "{tmp}/photoss/", "-o", "{tmp}/f.npz", "--weights", "{weights}"], "photoss/: no such file or folder"),
    "no such file": (["extract", "{tmp}/*.jpg", "-o", "{tmp}/f.npz"], "*.jpg: no file matches"),
    "no such labels": (["predict", "{cat}", "--weights", "{weights}", "--labels", "{tmp}/l"], "/l: No such file"),
    "a file and options": (["summary", "{weights}", "--no-top"], "the file defines the model; drop --no-top, --input-shape and --pooling"),
    "open size with the top": (["summary", "--input-shape", "20,20"], "expected a height and width of 32 or more"),
    "layer": (["extract", "{cat}", "-o", "{tmp}/f.npz", "--weights", "{weights}", "--layer", "b"], "unknown layers: expected"),
    "suffix": (["extract", "{cat}", "-o", "{tmp}/f.csv", "--weights", "{weights}"], "expected a name that ends in .parquet"),
    "half": (["extract", "{cat}", "-o", "{tmp}/f.npz", "--weights", "{weights}", "--half"], "half: there is no GPU here"),
    "picture": (["show", "{cat}", "-o", "{tmp}/f.doc", "--weights", "{weights}"], "expected a name that ends in .eps, "),
    "no such colours": (["show", "{cat}", "-o", "{tmp}/f.png", "--weights", "{weights}", "--cmap", "virdis"], "cmap: matplotlib has no colour map called 'virdis'; did you mean viridis"),
    "folder that is a file": (["predict", "{cat}", "-o", "{cat}/f.csv", "--weights", "{weights}"], "cat.jpg is a file, not a folder"),
    "predictions there": (["predict", "{cat}", "-o", "{there}", "--weights", "{weights}"], "exists and is kept; force=True, or --force, overwrites it"),
    "no maps": (["show", "{cat}", "-o", "{tmp}/f.png", "--weights", "{weights}", "--layer", "fc1"], "no maps; name a layer before the head"),
    "class": (["show", "{cat}", "-o", "{tmp}/f.png", "--weights", "{weights}", "--cam", "cat"], "cat: no such class; expected a name, or a number from 0 to 3; --labels FILE names the classes"),
    "a size and --class": (["show", "{cat}", "-o", "{tmp}/f.png", "--weights", "{weights}", "--class", "--resize", "40"], "drop --resize, --crop and --keep-aspect-ratio"),
}  # fmt: skip
WRONG_COMMAND_LINES = ("a file and options", "suffix", "picture", "a size and --class")


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(
    case: str, weights: Path, cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (labels := tmp_path / "labels.txt").write_text("cat\n")
    (there := tmp_path / "there.csv").touch()
    arguments, message = ERRORS[case]
    places = {"tmp": tmp_path, "cat": cat, "weights": weights, "labels": labels, "there": there}
    status = run(*(argument.format(**places) for argument in arguments))
    assert status == (2 if case in WRONG_COMMAND_LINES else 1)
    printed, error = capsys.readouterr()
    assert (printed, error[:7], error.count("\n")) == ("", "error: ", 1)
    assert message in error
    assert sorted(tmp_path.iterdir()) == [labels, there]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: COMMAND"),
        (["look"], "error: argument COMMAND: invalid choice: 'look'"),
        (["predict"], "error: the following arguments are required: IMAGE"),
        (["predict", "x.jpg", "--top", "0"], "error: argument --top: expected a number from 1 up. Received: '0'"),
        (["extract", "x.jpg"], "error: the following arguments are required: -o"),
        *(
            (
                line.split(),
                f"error: the following arguments are required: {missing}; {option} took '{value}' as its value, put {option} at the end\n",
            )
            for line, missing, option, value in (
                ("show --cam cat.jpg -o x.png", "IMAGE", "--cam", "cat.jpg"),
                ("show -o x.png --class cat.jpg", "IMAGE", "--class", "cat.jpg"),
                ("evaluate --ray val --json", "FOLDER", "--ray", "val"),
                ("extract -o f.npz --ray photos", "PATH", "--ray", "photos"),
                ("extract --ray photos", "PATH, -o", "--ray", "photos"),
            )
        ),
        (["extract", "x.jpg", "--ray", "a:1"], "error: the following arguments are required: -o\n"),
        (["show", "--cam", "-o", "x.png"], "error: the following arguments are required: IMAGE\n"),
        (["extract", "x.jpg", "-o", "f.npz", "--pooling", "mean"], "error: argument --pooling: invalid choice: 'mean'"),
        (
            ["predict", "x.jpg", "--resize", "1,2,3"],
            "error: argument --resize: expected a number, or H,W. Received: '1,2,3'",
        ),
        (["evaluate", "x", "--crop", "0"], "error: argument --crop: expected a number, or H,W. Received: '0'"),
        (
            ["extract", "x", "-o", "f.npz", "--preprocess", "each"],
            "error: argument --preprocess: invalid choice: 'each'",
        ),
        (["summary", "--input-shape", "a"], "error: argument --input-shape: expected H,W or C,H,W. Received: 'a'"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith(message)
    assert error.count("\n") == 1


def uninstall(monkeypatch: pytest.MonkeyPatch, packages: str) -> None:
    """Makes the import of some packages fail, as if they weren't installed."""
    for package in packages.split():
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(
    ("modules", "arguments", "message"),
    [
        ("PIL", ["predict", "{cat}"], "error: Pillow is missing; pip install 'torchvgg[images]'\n"),
        ("tqdm", ["extract", "{cat}", "-o", "{tmp}/f.npz"], "error: tqdm is missing; pip install 'torchvgg[images]'\n"),
        ("pyarrow", ["extract", "{cat}", "-o", "{tmp}/f.parquet"], "error: pyarrow is missing; pip install 'torchvgg[parquet]'\n"),
        ("PIL tqdm pyarrow", ["extract", "{cat}", "-o", "{tmp}/f.parquet"], "error: Pillow, tqdm and pyarrow are missing; pip install 'torchvgg[images,parquet]'\n"),
        ("PIL matplotlib", ["show", "{cat}", "-o", "{tmp}/f.png"], "error: matplotlib and Pillow are missing; pip install 'torchvgg[images,plot]'\n"),
        ("ray", ["extract", "{cat}", "-o", "{tmp}/f.parquet", "--ray"], "error: ray is missing; pip install 'torchvgg[ray]'\n"),
        ("matplotlib", ["show", "{cat}", "-o", "{tmp}/f.png"], "error: matplotlib is missing; pip install 'torchvgg[plot]'\n"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(
    modules: str,
    arguments: list[str],
    message: str,
    weights: Path,
    cat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uninstall(monkeypatch, modules)
    assert run(*(argument.format(cat=cat, tmp=tmp_path) for argument in arguments), "--weights", weights) == 1
    printed, error = capsys.readouterr()
    assert (printed, error) == ("", message)
    assert list(tmp_path.iterdir()) == []


def test_parquet_needs_no_ray(
    weights: Path,
    cat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uninstall(monkeypatch, "ray")
    (tmp_path / "bad.jpg").write_text("no image")
    output = tmp_path / "f.parquet"
    assert run("extract", tmp_path / "bad.jpg", cat, "-o", output, "--weights", weights, "-q") == 0
    bad, good = pyarrow.parquet.read_table(output).to_pylist()
    assert (bad["vector"], len(good["vector"]), good["error"]) == (None, 512, None)
    assert capsys.readouterr().err == f"1 of 2 images is bad; {output} has the error for each\n"


COMMANDS = ("summary", "predict", "extract", "show", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from torchvgg.command_line import parser

    with pytest.raises(SystemExit, match="0"):
        run(command, "--help")
    printed = capsys.readouterr().out
    examples = [line.split("  ")[1] for line in printed.splitlines() if line.startswith(f"  torchvgg {command} ")]
    assert len(examples) >= 3
    for example in examples:
        assert parser().parse_args(shlex.split(example)[1:]).command == command


def test_several_images_in_order(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_photos(tmp_path / "photos", 3)
    assert run("predict", tmp_path / "photos", "--weights", weights, "--json", "--top", "1") == 0
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == [str(path) for path in paths]
