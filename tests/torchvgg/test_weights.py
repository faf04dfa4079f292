"""Pretrained weights in a model whose input or head is another than the file's."""

import math
from pathlib import Path

import keras
import pytest
import torch
from torch import Tensor

from torchvgg import VGG16, save_model
from torchvgg.convert import convert
from torchvgg.weights import adapt_kernel

from ..helpers.heads import base, chain
from ..helpers.keras_models import keras_model, write_twin


@pytest.fixture(scope="module")
def converted(headless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    convert(headless, path := tmp_path_factory.mktemp("converted") / "headless.safetensors", check=False)
    return path


@pytest.mark.parametrize("kind", ["Keras", "converted"])
def test_grey_images_give_what_three_such_channels_give(kind: str, headless: Path, converted: Path) -> None:
    path = headless if kind == "Keras" else converted
    grey = VGG16(weights=path, include_top=False, input_shape=(1, None, None), adapt_input=True)
    assert grey.input_shape == (None, 1, None, None)
    x = 255 * torch.rand(2, 1, 48, 40) - 114.799
    with torch.no_grad():
        expected = VGG16(weights=path, include_top=False)(x.expand(-1, 3, -1, -1))
        assert (grey(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_state_dict_is_no_file() -> None:
    message = (
        "path of a weights file, as torch.save writes one of a state_dict. Received: a dict, which is no such name"
    )
    with pytest.raises(ValueError, match=message):
        VGG16(weights={"features.0.weight": torch.zeros(64, 3, 3, 3)})


def test_grey_images_with_the_top(topped: Path) -> None:
    arguments = {"weights": topped, "classes": 4, "classifier_activation": None}
    x = 100 * torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = VGG16(**arguments, input_shape=(32, 32, 3))(x.expand(-1, 3, -1, -1))
        received = VGG16(**arguments, input_shape=(32, 32, 1), adapt_input=True)(x)
    assert (received - expected).abs().max() <= 1e-5 * expected.abs().max()


def timm_adapt_input_conv(channels: int, kernel: Tensor) -> Tensor:
    """What timm 1.0 does for `in_chans`, in its own steps."""
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeated = kernel.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return repeated * 3 / float(channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 10])
def test_other_channels_are_timms(channels: int, converted: Path) -> None:
    model = VGG16(weights=converted, include_top=False, input_shape=(channels, 64, 64), adapt_input=True)
    kernel = VGG16(weights=converted, include_top=False).block1_conv1.weight
    assert torch.allclose(model.block1_conv1.weight, timm_adapt_input_conv(channels, kernel), rtol=1e-6, atol=0)
    assert torch.allclose(adapt_kernel(kernel.half(), channels), timm_adapt_input_conv(channels, kernel.half().float()))
    assert torch.equal(model.block1_conv2.weight, VGG16(weights=converted, include_top=False).block1_conv2.weight)


def test_weights_for_as_many_channels_are_left_alone(tmp_path: Path) -> None:
    model = VGG16(weights=None, include_top=False, input_shape=(4, None, None))
    torch.save(model.state_dict(), tmp_path / "four.pt")
    same = VGG16(weights=tmp_path / "four.pt", include_top=False, input_shape=(4, None, None), adapt_input=True)
    assert torch.equal(same.block1_conv1.weight, model.block1_conv1.weight)


def test_without_weights_nothing_is_adapted() -> None:
    with torch.device("meta"):
        model = VGG16(weights=None, include_top=False, input_shape=(5, 64, 64), adapt_input=True)
    assert model.block1_conv1.weight.shape == (64, 5, 3, 3)


@pytest.mark.parametrize("kind", ["Keras", "converted"])
def test_other_channels_are_refused_by_default(kind: str, headless: Path, converted: Path) -> None:
    path = headless if kind == "Keras" else converted
    with pytest.raises(ValueError, match=r"input_shape: expected 3 channels, .* or adapt_input=True. Received: 1"):
        VGG16(weights=path, include_top=False, input_shape=(1, 64, 64))


@pytest.mark.parametrize(
    ("name", "expected"), [("a.h5", "64×64"), ("a.weights.h5", "64×64"), ("a.safetensors", "64×64")]
)
@pytest.mark.filterwarnings("ignore:.*no architecture")
def test_the_size_that_a_top_wants_is_named(name: str, expected: str, tmp_path: Path) -> None:
    theirs = keras_model(classes=2, input_shape=(64, 64, 3))
    path = tmp_path / name
    if name == "a.h5":
        write_twin(path, theirs)
    else:
        theirs.save_weights(tmp_path / "a.weights.h5")
    if name == "a.safetensors":
        convert(tmp_path / "a.weights.h5", path, check=False)
    with pytest.raises(ValueError, match=rf"{name}: .*{expected}.*input_shape"):
        VGG16(weights=path, classes=2, input_shape=(3, 320, 320))


def test_another_head_is_for_load_model(tmp_path: Path) -> None:
    model = chain(base(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2))
    model.save(path := tmp_path / "my.keras")
    convert(path, tmp_path / "my.safetensors", check=False)
    for name in ("my.keras", "my.safetensors"):
        with pytest.raises(ValueError, match=rf"{name}: .*load_model"):
            VGG16(weights=tmp_path / name, classes=2)


@pytest.mark.parametrize("key", ["conv1.weight", "backbone.features.0.weight"])
def test_tensors_under_other_names(key: str, tmp_path: Path) -> None:
    torch.save({key: torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    message = rf"other.pth: expected the tensors of a VGG16 or VGG19, .*Received: {key}; another .* by load_state_dict"
    with pytest.raises(ValueError, match=message):
        VGG16(weights=tmp_path / "other.pth")


def test_the_size_of_a_top_is_told_to_who_names_none(tmp_path: Path) -> None:
    save_model(VGG16(weights=None, classes=2, input_shape=(3, 32, 32)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"images of 32×32: give that input_shape, or leave the top out.*224×224"):
        VGG16(weights=tmp_path / "a.safetensors", classes=2)
