"""Keras allows nearly any name for a layer: attributes of PyTorch's modules, spaces, colons, what steers a terminal."""

import json
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import nn

from torchvgg import load_model
from torchvgg.command_line import main
from torchvgg.convert import convert
from torchvgg.inference.optimized_model import optimize_for_inference
from torchvgg.model import Model

from ..helpers.command_line import run
from ..helpers.heads import L
from ..helpers.hostile import changed_config
from ..helpers.round_trip import check_round_trip

MODEL = Model({"layer": nn.ReLU()}, (2,), "model")
ATTRIBUTES = {
    *(name for of in (MODEL, optimize_for_inference(MODEL, native=False), nn.ModuleDict()) for name in dir(of)),
    *("__deepcopy__", "__constants__", "__getattr__", "T_destination", "weight", "bias", "input_layer"),
}
OTHERS = {" ", "0", "-1", "é", "名前", "a:1", "'", '"', "\\", "{x}", "%s", "*", "None", "type_", "x" * 900}
HOSTILE = "\x1b[31mred\x1b[2K\r\u202e"  # in red, over the line, from right to left


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_layer_may_have_any_name(suffix: str, tmp_path: Path) -> None:
    """Above all that of any attribute of the model's class."""
    names = sorted(ATTRIBUTES | OTHERS | ({HOSTILE} if suffix == ".keras" else set()))
    x = image = keras.Input((2,), name="image.forward")
    outputs = [x := L.Dense(2, name=name)(x) for name in names]
    outputs.append(L.Activation("tanh", name="with.dot")(x))  # Keras on PyTorch refuses weights under that
    theirs = keras.Model(image, outputs[-1], name="items")
    theirs.save(path := tmp_path / f"model{suffix}")
    ours = load_model(path)
    assert [place.path[-1] for place in ours.in_keras.values()] == [*names, "with.dot"]
    batch = torch.randn(3, 2)
    expected = keras.Model(image, outputs)(batch)
    own = [node.name for node in ours.nodes]
    for model in (ours, optimize_for_inference(ours, native=False)):
        extracted = model.extract(batch, own)
        assert [*extracted] == own
        for one, other in zip(extracted.values(), expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    lines: list[str] = []
    ours.summary(print_fn=lines.append)
    assert sum(line.startswith("├") for line in lines) == len(own)
    if suffix == ".h5":  # whose readers refuse a name that can't be printed
        check_round_trip(ours, theirs, tmp_path)


def test_names_are_printed_as_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras.Sequential([keras.Input((2,)), L.Dense(2, name=HOSTILE)], name=HOSTILE).save(path := tmp_path / "model.keras")
    assert main(["summary", str(path)]) == 0
    assert run(path) == 0
    assert run(path, "-o", tmp_path / "home.h5") == 1
    output, error = capsys.readouterr()
    assert "[31mred" in output
    assert error.count("\n") == 1
    assert all(character.isprintable() or character == "\n" for character in output + error)
    assert run(path, "--json", "--force") == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["name"] == "_[31mred_[2K__.weight"


@pytest.mark.parametrize("name", ["\ud800", ""])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    """Half a surrogate pair, which JSON can say, and nothing at all."""
    keras.Sequential([keras.Input((2,)), L.Dense(2, name="end")]).save(path := tmp_path / "model.keras")
    with changed_config(path) as config:
        config["layers"][1]["config"]["name"] = config["name"] = name
    assert keras.models.load_model(path).layers[0].name == name
    convert(path, tmp_path / "model.safetensors")
    assert [*load_model(tmp_path / "model.safetensors").state_dict()] == ["_.weight", "_.bias"]


def test_a_colon_in_a_name_is_no_second_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # Keras breaks its lines to fit the terminal
    image, twice = keras.Input((2,), name="image"), L.Dense(2, name="twice")
    theirs = keras.Model(image, L.Add(name="a:2")([twice(image), L.Dense(2, name="b:1")(twice(image))]), name="model")
    theirs.save(path := tmp_path / "model.keras")
    expected: list[str] = []
    theirs.summary(print_fn=lambda text, line_break=False: expected.extend(text.splitlines()))
    lines: list[str] = []
    load_model(path).summary(print_fn=lines.append)
    assert lines == [line for line in expected if line]


def test_names_that_are_too_long_together(tmp_path: Path) -> None:
    """900 layers deep in models with long names; or so many long names that no reader takes the header."""
    model: Any = [L.Activation("relu", name=f"layer{number}") for number in range(900)]
    for depth in range(4):
        model = [keras.Sequential([keras.Input((2,)), *model], name=f"{depth}" * 400)]
    model[0].save(path := tmp_path / "model.keras")
    with pytest.raises(
        ValueError, match=r"model.keras: layer 'layer0' \(Activation\): its name, with those of the models"
    ):
        load_model(path)
    names = [f"{number:0900}" for number in range(900)]
    keras.Sequential([keras.Input((2,)), *(L.Activation("relu", name=name) for name in names)]).save(path)
    with pytest.raises(ValueError, match="bytes of names and settings, more than the 2,097,152 that are read"):
        convert(path)
    assert [*tmp_path.iterdir()] == [path]
