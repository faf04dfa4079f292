"""Files of every version of Keras: those that today's no longer writes, from `data/keras2` or written here from the facts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from torchvgg import VGG16, load_model
from torchvgg.convert import convert
from torchvgg.convert.network.kinds import KINDS
from torchvgg.convert.network.settings import read_settings
from torchvgg.layers import UnitNormalization

from ...helpers.keras_models import arrays_of, images, keras_model, keras_outputs, relative_error, write_twin

KERAS2 = Path(__file__).parents[2] / "data" / "keras2"
KERAS3 = KERAS2.with_name("keras3")
TOLERANCE = 1e-5  # see test_vgg_parity


def keras2_images() -> torch.Tensor:
    """What `data/make_keras2.py` showed to Keras 2, channels-first."""
    numbers = np.arange(2 * 16 * 24 * 3).reshape(2, 16, 24, 3) * 37 % 256
    return torch.from_numpy(numbers.astype(np.float32)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("file", "tolerance"),
    [
        ("sequential.h5", TOLERANCE),
        ("sequential.keras", TOLERANCE),
        ("functional.h5", TOLERANCE),
        ("thawed.h5", TOLERANCE),
        ("flat.h5", TOLERANCE),
        ("flat.keras", TOLERANCE),
        ("trained.h5", TOLERANCE),
        ("trained.keras", TOLERANCE),
        ("bfloat16.h5", 1e-2),  # Keras computed in bfloat16 here, of three digits
        ("bfloat16.keras", 1e-2),
    ],
)
def test_whole_models_of_keras_2(file: str, tolerance: float, tmp_path: Path) -> None:
    expected = torch.from_numpy(np.load(KERAS2 / f"{file.split('.')[0]}.npy"))
    report = convert(KERAS2 / file, tmp_path / "model.safetensors")
    assert report.keras_version == "2.21.0"
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    for path in (KERAS2 / file, tmp_path / "model.safetensors"):
        with torch.no_grad():
            assert relative_error(load_model(path)(keras2_images()), expected) <= tolerance


@pytest.mark.parametrize("file", sorted(path.name for path in KERAS3.iterdir() if path.suffix != ".npy"))
def test_operations_whose_configuration_has_no_name(file: str, tmp_path: Path) -> None:
    expected = torch.from_numpy(np.load(KERAS3 / f"{file.rpartition('.')[0]}.npy"))
    report = convert(KERAS3 / file, tmp_path / "model.safetensors")
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    for path in (KERAS3 / file, tmp_path / "model.safetensors"):
        with torch.no_grad():
            assert relative_error(load_model(path)(keras2_images()), expected) <= TOLERANCE


def on_theano(source: Path, path: Path) -> Path:
    """The file that Keras 2 would have written on Theano: kernels turned by 180°, and the backend's name."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        turned = []

        def turn(name: str, found: Any) -> None:
            if isinstance(found, h5py.Dataset) and found.ndim == 4:
                found[...] = found[::][::-1, ::-1]
                turned.append(name)

        file.visititems(turn)
        assert turned
        named = [group for group in (file, file.get("model_weights", {})) if "backend" in getattr(group, "attrs", {})]
        assert named
        for group in named:
            group.attrs["backend"] = np.bytes_("theano")
    return path


@pytest.mark.parametrize("file", ["sequential.h5", "functional.h5", "trained.h5"])
def test_whole_models_of_keras_2_on_theano(file: str, tmp_path: Path) -> None:
    expected = torch.from_numpy(np.load(KERAS2 / f"{file.split('.')[0]}.npy"))
    source = on_theano(KERAS2 / file, tmp_path / file)
    report = convert(source, tmp_path / "model.safetensors")
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    for path in (source, tmp_path / "model.safetensors"):
        with torch.no_grad():
            assert relative_error(load_model(path)(keras2_images()), expected) <= TOLERANCE


def test_paddings_that_theano_has_otherwise(tmp_path: Path) -> None:
    source = on_theano(KERAS2 / "flat.h5", tmp_path / "flat.h5")
    with pytest.raises(ValueError, match=r"'average_pooling2d' .*: padding='same' as Theano has it can't be converted"):
        load_model(source)


@pytest.mark.parametrize("include_top", [True, False])
def test_weights_of_keras_2_on_theano(include_top: bool, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"include_top": include_top, "input_shape": (32, 64, 3)}
    arguments |= {"classes": 4} if include_top else {}
    theirs = keras_model(**arguments)
    convert_me = write_named(tmp_path / "tensorflow.h5", theirs)
    source = on_theano(convert_me, tmp_path / "theano.h5")
    convert(source, tmp_path / "theano.safetensors", input_shape=(32, 64))
    convert(source, tmp_path / "back.h5", input_shape=(32, 64))
    x = images(1, 3, 32, 64)
    with torch.no_grad():
        (expected,) = list(keras_outputs(theirs, x).values())[-1:]
        for path in (source, tmp_path / "theano.safetensors", tmp_path / "back.h5"):
            assert relative_error(VGG16(weights=path, **arguments)(x), expected) <= TOLERANCE


def write_named(path: Path, model: Any) -> Path:
    """Keras 2's `save_weights("x.h5")`."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_("2.2.4")
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{part}:0" for part in ("kernel", "bias")] if layer.weights else []
            group.attrs["weight_names"] = np.array(names, "S")
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    return path


def test_what_keras_2_thaws_in_a_frozen_model_stays_frozen() -> None:
    """In Keras 3 it is trained: see `test_what_is_frozen_stays_frozen`."""
    model = load_model(KERAS2 / "thawed.h5")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"dense.weight", "dense.bias"}


@pytest.mark.parametrize("file", ["trained.weights.h5", "trained_weights.h5"])
def test_weights_alone_say_what_is_missing(file: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected the 13 convolutions of VGG16 or the 16 of VGG19.* Received: 2 convolutions"
    ):
        load_model(KERAS2 / file)


def write_keras2_h5(path: Path, model: Any, split: bool = False, names: dict[str, str] | None = None) -> None:
    """`save_weights("x.h5")` of Keras 2. With `split`, the long attributes are in parts, as a deep model's are."""
    with h5py.File(path, "w") as file:
        layers = [(names or {}).get(layer.name, layer.name) for layer in model.layers]
        attributes = {"layer_names0": layers[:7], "layer_names1": layers[7:]} if split else {"layer_names": layers}
        for key, value in attributes.items():
            file.attrs[key] = [name.encode() for name in value]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.4.0"
        for layer, name in zip(model.layers, layers, strict=True):
            group = file.create_group(name)
            weights = arrays_of(model).get(layer.name, ())
            group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in ("kernel", "bias")][: len(weights)]
            for part, array in zip(("kernel", "bias"), weights, strict=False):
                group[f"{name}/{part}:0"] = array


def write_keras2_numbered(path: Path, model: Any) -> None:
    """`save_weights("x.weights.h5")` of Keras 2: that of Keras 3, but for the attributes with the layers' names."""
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)


def write_split(path: Path, model: Any) -> None:
    write_keras2_h5(path, model, split=True)


def write_twin_of_the_published(path: Path, model: Any) -> None:
    write_twin(path, model)


def write_keras3(path: Path, model: Any) -> None:
    model.save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)  # no reader may go by the name


def write_vggface(path: Path, model: Any) -> None:
    """The published VGG16 of VGGFace: a VGG under other names."""
    names = {f"block{b}_conv{n}": f"conv{b}_{n}" for b in range(1, 6) for n in range(1, 4)}
    write_keras2_h5(path, model, names=names | {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"})


def write_numbered(path: Path, model: Any) -> None:
    write_keras2_numbered(path.with_suffix(".weights.h5"), model)
    path.with_suffix(".weights.h5").rename(path)


@pytest.mark.parametrize("arguments", [{"classes": 365, "input_shape": (32, 32, 3)}, {"include_top": False}])
@pytest.mark.parametrize(
    "write",
    [write_twin_of_the_published, write_keras2_h5, write_split, write_vggface, write_numbered, write_keras3],
)
def test_weights_of_every_version(
    write: Callable[[Path, Any], None], arguments: dict[str, Any], tmp_path: Path
) -> None:
    theirs = keras_model(**arguments)
    write(tmp_path / "weights.bin", theirs)
    model = load_model(tmp_path / "weights.bin")
    assert isinstance(model, VGG16)
    x = images(1, 3, 32, 32)
    with torch.no_grad():
        expected = list(keras_outputs(theirs, x).values())[-1]
        assert relative_error(model(x), expected) <= TOLERANCE
        again = VGG16(weights=tmp_path / "weights.bin", **arguments)
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_arrays_of_half_the_size(dtype: str, tmp_path: Path) -> None:
    """HDF5 has no bfloat16: Keras stores two bytes a number, which HDF5 calls opaque."""
    kind = getattr(torch, dtype)
    theirs = keras_model(include_top=False)
    theirs.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        arrays: list[h5py.Dataset] = []
        file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        for name, array in [(dataset.name, dataset[()]) for dataset in arrays]:
            del file[name]
            short = torch.from_numpy(array).to(kind)
            file[name] = short.numpy() if dtype == "float16" else short.view(torch.int16).numpy().view("V2")
    model = VGG16(weights=tmp_path / "a.weights.h5", include_top=False)
    for name, (kernel, _) in arrays_of(theirs).items():
        expected = torch.from_numpy(kernel).to(kind).float().permute(3, 2, 0, 1)
        assert torch.equal(model.get_submodule(name).weight, expected)


@pytest.mark.parametrize(("keras_version", "expected"), [("2.15.0", 0.6e-2), ("3.10.0", 0.6)])
def test_keras_2_bounds_the_square_of_a_norm(keras_version: str, expected: float) -> None:
    """By TensorFlow's `l2_normalize`, `x * rsqrt(max(sum(x²), 1e-12))`; Keras 3 bounds the norm by 1e-12."""
    settings = read_settings("UnitNormalization", {"axis": -1}, (2,), keras_version)
    tiny = torch.tensor([[0.6e-8, 0.8e-8]])
    for computed in (UnitNormalization(**settings)(tiny), KINDS["UnitNormalization"].reference(settings, [], tiny)):
        assert float(computed[0, 0]) == pytest.approx(expected, rel=1e-5)
