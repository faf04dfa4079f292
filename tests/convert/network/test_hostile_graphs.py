"""Architectures that nobody's Keras wrote: circles, inputs that aren't there, graphs that grow beyond any bound. One line each."""

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import pytest

from torchvgg import load_model
from torchvgg.convert import convert

from ...conftest import Refused
from ...helpers.heads import L
from ...helpers.hostile import changed_config

Config = dict[str, Any]


def tensor(layer: str, call: int = 0, output: int = 0) -> Any:
    config = {"shape": [None, 8], "dtype": "float32", "keras_history": [layer, call, output]}
    return {"class_name": "__keras_tensor__", "config": config}


def layer(name: str, *calls: list[Any], class_name: str = "Activation", **config: Any) -> Config:
    own = {"name": name, "trainable": True, **({"activation": "relu"} if class_name == "Activation" else {}), **config}
    nodes = [{"args": [call[0] if len(call) == 1 else call], "kwargs": {}} for call in calls]
    return {"class_name": class_name, "config": own, "name": name, "inbound_nodes": nodes}


def image() -> Config:
    return layer("image", class_name="InputLayer", batch_shape=[None, 8])


def model(*layers: Config, end: str = "end", call: int = 0, name: str = "model") -> Config:
    return {
        "name": name,
        "layers": [image(), *layers],
        "input_layers": ["image", 0, 0],
        "output_layers": [end, call, 0],
    }


def itself() -> Config:
    return model(layer("a", [tensor("a")]), layer("end", [tensor("a")]))


def circle() -> Config:
    add = layer("add", [tensor("image"), tensor("back")], class_name="Add")
    return model(add, layer("back", [tensor("add")]), layer("end", [tensor("back")]))


def circle_of_calls() -> Config:
    """Each call of a layer is fed by the other one."""
    return model(layer("a", [tensor("a", 1)], [tensor("a", 0)]), layer("end", [tensor("a")]))


def long() -> Config:
    rows = [layer(f"a{n}", [tensor(f"a{n - 1}" if n else "image")]) for n in range(10_000)]
    return model(*rows, layer("end", [tensor("a9999")]))


def too_many() -> Config:
    return model(*(layer(f"a{n}", [tensor(f"a{n - 1}" if n else "image")]) for n in range(2000)), end="a1999")


def many_calls() -> Config:
    """One layer, called again and again."""
    calls = [[tensor("image")], *([tensor("a", n)] for n in range(9_999))]
    return model(layer("a", *calls), end="a", call=9_999)


def doubled(found: Config) -> Config:
    """Each model calls the one within twice: 2 ** 30 calls of the innermost."""
    for _ in range(30):
        inner: Config = {"class_name": "Functional", "config": found, "name": "inner"}
        inner["inbound_nodes"] = [{"args": [tensor(name)], "kwargs": {}} for name in ("image", "inner")]
        found = model(inner, end="inner", call=2)
    return found


def doubling() -> Config:
    return doubled(model(layer("end", [tensor("image")])))


def empty_doubling() -> Config:
    return doubled(model(end="image"))


def nested_deeply() -> Config:
    found = model(layer("end", [tensor("image")]))
    for _ in range(60):
        inner: Config = {"class_name": "Functional", "config": found, "name": "end"}
        inner["inbound_nodes"] = [{"args": [tensor("image")], "kwargs": {}}]
        found = model(inner, call=1)
    return found


def wide() -> Config:
    add = layer("end", [tensor("image")] * 2000, class_name="Add")
    return model(add)


def grown() -> Config:
    """Each step doubles the features: more than any memory holds."""
    rows = [
        layer(f"a{n}", [tensor(f"a{n - 1}" if n else "image")] * 2, class_name="Concatenate", axis=-1)
        for n in range(60)
    ]
    return model(*rows, layer("end", [tensor("a59")]))


def of_another_shape() -> Config:
    return model(
        layer("a", [tensor("image")], class_name="Dense", units=3),
        layer("end", [tensor("image"), tensor("a")], class_name="Add"),
    )


def called_with_too_many() -> Config:
    return model(layer("end", [tensor("image"), tensor("image"), tensor("image")], class_name="Subtract"))


def inner_with_other_inputs() -> Config:
    inner: Config = {"class_name": "Functional", "config": model(layer("end", [tensor("image")])), "name": "inner"}
    inner["inbound_nodes"] = [{"args": [[tensor("image"), tensor("image")]], "kwargs": {}}]
    return model(inner, end="inner", call=1)


def outputs_without_end() -> Config:
    found: Any = ["end", 0, 0]
    for _ in range(200):
        found = [found, ["end", 0, 0]]
    return model(layer("end", [tensor("image")])) | {"output_layers": found}


def fed_by_nothing() -> Config:
    return model(layer("end", []), layer("a", [tensor("image")]))


def twice_at_other_shapes() -> Config:
    dense = layer("a", [tensor("image")], [tensor("b")], class_name="Dense", units=3)
    other = layer("b", [tensor("image")], class_name="Dense", units=5)
    return model(dense, other, layer("end", [tensor("a"), tensor("a", 1)], class_name="Add"))


def made_of_constants() -> Config:
    return model({**layer("end"), "inbound_nodes": [{"args": [3.0], "kwargs": {}}]})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (itself, r"the calls of its layers go in a circle, through 'a'"),
        (circle, r"the calls of its layers go in a circle"),
        (circle_of_calls, r"the calls of its layers go in a circle, through 'a'"),
        (long, r"longer than Keras writes it"),
        (too_many, r"2,001 layers; a network of up to 1,000 can be converted"),
        (many_calls, r"more than 5,000 calls of layers"),
        (doubling, r"more than 5,000 calls of layers"),
        (empty_doubling, r"more than 5,000 calls of layers"),
        (nested_deeply, r"models nested deeper than 40"),
        (wide, r"called with 2000 inputs"),
        (grown, r"layer 'a\d+' \(Concatenate\): an array of shape .* is larger than any memory"),
        (of_another_shape, r"layer 'end' \(Add\): inputs of 8 and 3 don't fit together"),
        (called_with_too_many, r"layer 'end' \(Subtract\): called with 3 inputs, it takes 2"),
        (inner_with_other_inputs, r"'inner' \(Functional\): called with 2 inputs, it has 1"),
        (outputs_without_end, r"expected the ends of a model"),
        (fed_by_nothing, r"layer 'end' \(Activation\): nothing feeds it|isn't on the way"),
        (twice_at_other_shapes, r"layer 'a' \(Dense\): called on inputs of different shapes"),
        (made_of_constants, r"layer 'end' \(Activation\): nothing feeds it"),
    ],
)
def test_a_graph_that_cannot_be(
    build: Callable[[], Config], message: str, tmp_path: Path, check_refused: Refused
) -> None:
    keras.Sequential([keras.Input((8,)), L.Dense(3)]).save(path := tmp_path / "model.keras")
    load_model(path)
    with changed_config(path) as config:
        config.clear()
        config |= json.loads(json.dumps(build()))
    set_class(path, "Functional")
    started = time.process_time()
    check_refused(path, message, load_model)
    assert time.process_time() - started < 20


def set_class(path: Path, class_name: str) -> None:
    """Gives the model in a `.keras` another class."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = json.loads(members["config.json"]) | {"class_name": class_name}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(whole) if name == "config.json" else content)


def test_a_map_that_a_small_kernel_makes_is_counted(tmp_path: Path) -> None:
    """65,536 filters of one pixel and one channel, on an image of 500×500: 65 GB in the check, were it made."""
    keras.Sequential([keras.Input((500, 500, 1)), L.Conv2DTranspose(65_536, 1)]).save(path := tmp_path / "model.keras")
    with pytest.raises(ValueError, match="images of 500×500 are too large to be checked here"):
        convert(path)


def test_a_sequential_that_says_it_has_outputs(tmp_path: Path) -> None:
    """What only a Functional has is left aside, and so is a version that is none."""
    keras.Sequential([keras.Input((8,)), L.Dense(3)]).save(path := tmp_path / "model.h5")
    expected = load_model(path).state_dict()
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["output_layers"] = [["dense", 0, 0], ["dense", 0, 0]]
        config["config"]["layers"][1]["config"]["name"] = "dense"
        file.attrs["model_config"] = json.dumps(config)
        file["model_weights"].attrs["keras_version"] = file.attrs["keras_version"] = ""
        name = file["model_weights"].attrs["layer_names"][-1]
        file["model_weights"].move(name, "renamed")
        file["model_weights"].move("renamed", "dense")
        file["model_weights"].attrs["layer_names"] = ["dense"]
    assert [*load_model(path).state_dict()] == ["dense.weight", "dense.bias"]
    assert len(expected) == 2
