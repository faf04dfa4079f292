"""The same numbers as Keras: every layer's output, and the gradients, on files that the real Keras wrote."""

import copy
from pathlib import Path
from typing import Any

import keras
import pytest
import torch

from torchvgg import VGG16, VGG19, load_model
from torchvgg.convert import convert

from .helpers.keras_models import images, keras_model, keras_outputs, relative_error, write_twin

NETWORKS: dict[str, Any] = {"vgg16": VGG16, "vgg19": VGG19}

# float32 sums in another order differ by about 1e-6 of a layer's largest value; ten times that is a mistake.
TOLERANCE = 1e-5

CONFIGURATIONS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("vgg16", {"include_top": False}, (2, 3, 225, 97)),
    ("vgg16", {"include_top": False, "input_shape": (64, 64, 1)}, (1, 1, 64, 64)),
    ("vgg16", {"include_top": False, "input_shape": (None, 64, 3), "pooling": "avg"}, (1, 3, 96, 64)),
    ("vgg16", {"include_top": False, "pooling": "max"}, (2, 3, 65, 33)),
    ("vgg16", {"classes": 10, "input_shape": (64, 96, 3)}, (2, 3, 64, 96)),
    ("vgg16", {"classes": 3, "input_shape": (32, 32, 3), "classifier_activation": None}, (2, 3, 32, 32)),
    ("vgg19", {"include_top": False}, (1, 3, 64, 96)),
    ("vgg19", {"classes": 5, "input_shape": (32, 32, 3)}, (1, 3, 32, 32)),
]


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda c: f"{c[0]} {c[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path, Any]:
    """A configuration as (Keras's model, ours on the weights that it wrote, the file, images)."""
    network, arguments, shape = request.param
    keras.backend.clear_session()  # else a second pooling layer is global_max_pooling2d_1
    theirs = keras_model(network, **arguments)
    path = tmp_path_factory.mktemp("keras") / "model.weights.h5"
    theirs.save_weights(path)
    torch.manual_seed(0)
    return theirs, NETWORKS[network](weights=path, **arguments), path, images(*shape)


def test_every_layer_gives_what_keras_gives(case: Any) -> None:
    theirs, ours, _, x = case
    with torch.no_grad():
        expected = keras_outputs(theirs, x)
        received = ours.extract(x, list(expected))
        last = ours(x)
    for name, output in expected.items():
        assert relative_error(received[name], output) <= TOLERANCE, name
    assert torch.equal(last, received[list(received)[-1]])


def test_gradients_are_what_keras_has(case: Any) -> None:
    """In float64: a unit within rounding of ReLU's kink would pass its gradient on in one model and not in the other."""
    theirs, ours, _, x = case
    theirs, ours, x = in_float64(theirs), copy.deepcopy(ours).double(), x.double()
    channels_last = x.permute(0, 2, 3, 1).contiguous().requires_grad_()
    x.requires_grad_()
    expected, received = theirs(channels_last).movedim(-1, 1), ours(x)
    direction = torch.randn(received.shape, dtype=torch.float64)
    for output in (expected, received):
        (output * direction).sum().backward()
    kernel = theirs.get_layer("block2_conv1").kernel.value
    assert relative_error(x.grad, channels_last.grad.permute(0, 3, 1, 2)) <= TOLERANCE
    assert relative_error(ours.block2_conv1.weight.grad, kernel.grad.permute(3, 2, 0, 1)) <= TOLERANCE


def in_float64(model: Any) -> Any:
    """A Keras model's copy that computes in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        double = keras.Model.from_config(without_dtypes(model.get_config()))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    double.set_weights(model.get_weights())
    return double


def without_dtypes(config: Any) -> Any:
    """A Keras configuration that leaves the type to the policy in force."""
    if isinstance(config, dict):
        return {key: without_dtypes(value) for key, value in config.items() if key != "dtype"}
    return [without_dtypes(value) for value in config] if isinstance(config, list) else config


def test_converted_file_gives_the_same_model(case: Any, tmp_path: Path) -> None:
    _, ours, path, x = case
    height, width = x.shape[2:]
    converted = tmp_path / "model.safetensors"
    report = convert(path, converted, input_shape=(height, width))
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    tensors = load_model(converted).state_dict()
    assert tensors.keys() == ours.state_dict().keys()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensors[key], tensor), key


@pytest.mark.parametrize("theano", [False, True], ids=["tf_dim_ordering", "th_dim_ordering"])
@pytest.mark.parametrize(
    ("network", "arguments", "shape"),
    [
        ("vgg16", {"include_top": False}, (1, 3, 64, 33)),
        ("vgg19", {"classes": 4, "input_shape": (64, 64, 3)}, (1, 3, 64, 64)),
        ("vgg16", {"classes": 4, "input_shape": (32, 96, 3)}, (1, 3, 32, 96)),
    ],
)
def test_twins_of_the_published_files(
    network: str, arguments: dict[str, Any], shape: tuple[int, ...], theano: bool, tmp_path: Path
) -> None:
    theirs = keras_model(network, **arguments)
    path = write_twin(tmp_path / "twin.h5", theirs, theano=theano)
    ours = NETWORKS[network](weights=path, **arguments)
    x = images(*shape)
    with torch.no_grad():
        (expected,) = list(keras_outputs(theirs, x).values())[-1:]
        assert relative_error(ours(x), expected) <= TOLERANCE
    report = convert(path, tmp_path / "twin.safetensors", input_shape=shape[2:] if "classes" in arguments else None)
    assert (report.keras_version, report.format) == ("1", "weights .h5")
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
