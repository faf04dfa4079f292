"""Classes by name, and what a single sigmoid output says."""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from torchvgg import VGG16, class_index, evaluate, evaluate_each, grad_cam, load_image, load_model
from torchvgg.command_line import main
from torchvgg.extraction.decoding import escaped
from torchvgg.layers import Conv2D, Dense, Flatten, GlobalAveragePooling2D
from torchvgg.model import Model
from torchvgg.predicting import Score, by_name, gives_probabilities, scores_of

from ..helpers.photos import photo

L = keras.layers


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("tabby", 281), ("n02123045", 281), ("281", 281), (281, 281), (np.int64(0), 0), ("n02012849", 134), ("toilet_tissue", 999)],
)  # fmt: skip
def test_class_index(wanted: str | int, number: int) -> None:
    assert class_index(wanted) == number


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("crane", "crane: several classes have this name; give a number, 134, 517"),
        ("maillot", "maillot: several classes have this name; give a number, 638, 639"),
        ("tabbi", "tabbi: no such class; did you mean 'tabby'?"),
        ("tiger cat", "tiger cat: no such class; did you mean 'tiger_cat'"),
        ("cat", "cat: no such class; did you mean 'tiger_cat', 'Persian_cat', 'Siamese_cat' or 'Egyptian_cat'?"),
        ("egyptian_cat", "egyptian_cat: no such class; did you mean 'Egyptian_cat'?"),
        ("1000", "1000: no such class; expected a name, or a number from 0 to 999"),
        (-1, "-1: no such class; expected a name, or a number from 0 to 999"),
        ("", ": no such class; expected a name, or a number from 0 to 999"),
    ],
)
def test_no_such_class(wanted: str | int, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        class_index(wanted)
    assert str(raised.value).startswith(message)


def test_a_class_by_its_name() -> None:
    scores = [Score(0, "crane", "n1", 0.0), Score(1, "2", None, 0.0), Score(2, "crane", "n3", 0.0)]
    assert [by_name(scores, wanted).number for wanted in ("n3", "2", "0")] == [2, 2, 0]
    with pytest.raises(ValueError, match="crane: several classes have this name; give a number, 0, 2"):
        by_name(scores, "crane")
    with pytest.raises(ValueError, match="3: no such class; expected a name, or a number from 0 to 2"):
        by_name(scores, "3")


def averaged(x: Any) -> Any:
    return L.Average()([L.Dense(1, "sigmoid")(x), keras.ops.clip(L.Dense(1, "hard_sigmoid")(x), 0.01, 0.99)])


SIGMOIDS = {
    "own": lambda x: L.Dense(1, activation="sigmoid")(x),
    "layer": lambda x: L.Activation("sigmoid")(L.Dense(1)(x)),
    "hard": lambda x: L.Dense(1, activation="hard_sigmoid")(x),
    "averaged": averaged,
}


@pytest.mark.parametrize("end", SIGMOIDS)
def test_a_single_sigmoid_output_is_the_probability_of_class_1(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Keras's binary cross-entropy trains it; `--cam` draws what speaks for the class that was named."""
    image = keras.Input((32, 32, 3))
    features = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(image)))
    theirs = keras.Model(image, SIGMOIDS[end](features))
    theirs.save(path := tmp_path / "binary.keras")
    photo(size=(32, 32)).save(cat := tmp_path / "cat.png")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (expected,) = np.asarray(theirs.predict(np.asarray(photo(size=(32, 32)))[None], verbose=0))[0]
    labels = ("--labels", str(tmp_path / "labels.txt"))
    for options, names in (((), ("class 0", "class 1")), (labels, ("cat", "dog"))):
        assert main(["predict", str(cat), "--weights", str(path), "--json", *options]) == 0
        (result,) = json.loads(capsys.readouterr().out)
        found = {row["name"]: (row["number"], row["score"]) for row in result["predictions"]}
        assert found.keys() == set(names)
        assert [found[name][0] for name in names] == [0, 1]
        assert np.allclose([found[name][1] for name in names], [1 - expected, expected], atol=1e-5)
    assert main(["predict", str(cat), "--weights", str(path)]) == 0
    assert capsys.readouterr().out.count("%") == 2
    model, x = load_model(path), load_image(cat, (32, 32))
    zero, one = (grad_cam(model, x, torch.tensor([number])) for number in (0, 1))
    assert not (zero * one).any()  # what speaks for one speaks against the other
    assert torch.equal(grad_cam(model, x), one if expected > 0.5 else zero)
    for number, cam in enumerate((zero, one)):
        assert (
            main(
                ["show", str(cat), "--weights", str(path), "--cam", str(number), "-o", str(tmp_path / f"{number}.png")]
            )
            == 0
        )
        assert ("nothing in it speaks for" in capsys.readouterr().err) == (not cam.any())


@pytest.mark.parametrize(
    "end", [L.Activation("linear"), L.Reshape((3,)), L.Flatten(), L.Dropout(0.5)], ids=lambda layer: layer.name
)
@pytest.mark.parametrize("is_inner", [False, True])
def test_layers_that_keep_the_probabilities_are_looked_through(is_inner: bool, end: Any, tmp_path: Path) -> None:
    dense = [L.Dense(3, L.Softmax())] if is_inner else [L.Dense(3), L.Softmax()]
    theirs = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), *dense, end])
    theirs.save(tmp_path / "softmax.keras")
    photo(size=(8, 8)).save(cat := tmp_path / "cat.png")
    expected = theirs.predict(np.asarray(photo(size=(8, 8)), np.float32)[None] / 255, verbose=0)[0]
    model = load_model(tmp_path / "softmax.keras")
    assert gives_probabilities(model)
    assert evaluate(model, {cat: 1}, preprocessing="unit", workers=0).loss == pytest.approx(-np.log(expected[1]), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("source", ["vgg", "keras"])
def test_a_vgg_without_its_top_has_no_scores_though_pooled(source: str, tmp_path: Path) -> None:
    """As one whose features aren't pooled. What else ends in a global pooling may be a fully convolutional head."""
    arguments: Any = {"weights": None, "include_top": False, "pooling": "avg", "input_shape": (32, 32, 3)}
    if source == "keras":
        keras.applications.VGG16(**arguments).save(tmp_path / "base.keras")
        model: Any = load_model(tmp_path / "base.keras")
    else:
        model = VGG16(**arguments)
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"ends in pooled features, without its top; `extract` writes features$"):
        scores_of(model, x)
    model.global_average_pooling2d = nn.Sequential(model.global_average_pooling2d, nn.Linear(512, 4))
    assert len(scores_of(model, x)) == 4
    model = VGG16(**arguments)
    model.block5_conv3 = Conv2D(512, 4, 3, padding="same")
    assert len(scores_of(model, x)) == 4
    fully = {"conv": Conv2D(3, 512, 3), "global_average_pooling2d": GlobalAveragePooling2D()}
    assert len(scores_of(Model(fully, (3, 32, 32), "vgg16"), x)) == 512


@pytest.mark.parametrize("labels", ["flowers.txt", Path("flowers.txt"), "abc"])
def test_labels_that_are_no_list_are_refused(labels: Any, tmp_path: Path) -> None:
    """Not taken letter by letter, though there may be as many as classes."""
    model = Model({"flatten": Flatten(), "dense": Dense(192, 3)}, (3, 8, 8), "flowers").eval()
    photo(size=(8, 8)).save(cat := tmp_path / "cat.png")
    for take in (
        lambda: evaluate(model, {cat: 1}, labels=labels, workers=0),
        lambda: evaluate_each(model, {cat: 1}, labels=labels, workers=0),
        lambda: scores_of(model, torch.zeros(1, 3, 8, 8), labels),
    ):
        with pytest.raises(ValueError, match=rf"^labels: expected a list of names. Received: '{labels}'; for a file"):
            take()


@pytest.mark.parametrize("options", [[], ["--json"], ["--top", "1", "--json"]])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_scores_that_arent_numbers(
    number: float, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no NaN."""
    theirs = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(3)])
    theirs.layers[-1].bias.assign([0, number, 0])
    theirs.save(path := tmp_path / "damaged.keras")
    photo(size=(8, 8)).save(cat := tmp_path / "cat.png")
    assert main(["predict", str(cat), "--weights", str(path), *options]) == 1
    assert capsys.readouterr() == ("", "error: the model's scores aren't numbers; its weights are damaged\n")


def test_a_csv_of_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    theirs = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(1)])
    theirs.save(path := tmp_path / "model.keras")
    (tmp_path / "photos").mkdir()
    photo(size=(8, 8)).save(tmp_path / "photos" / os.fsdecode(b"\xff.png"), "PNG")
    out = tmp_path / "scores.csv"
    assert main(["predict", str(tmp_path / "photos"), "--weights", str(path), "-o", str(out)]) == 0
    assert f"photos/{escaped(os.fsdecode(bytes([255])))}.png,0,class 0," in out.read_text("utf-8")
