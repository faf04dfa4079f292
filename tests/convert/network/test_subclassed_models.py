"""VGGs within subclassed models, of which a `.weights.h5` says no more than the attributes' names: `block1/layers/conv2d/vars/0`."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ...helpers.heads import L
from ...helpers.keras_models import keras_model

BLOCKS = [(1, 64, 2), (2, 128, 2), (3, 256, 3), (4, 512, 3), (5, 512, 3)]  # its number, its filters, its convolutions


class EdgeDetector(keras.Model):  # type: ignore[misc]
    """Blocks that are attributes, with a small convolution on each, as in HED."""

    def __init__(self, vgg: Any, names: list[str]) -> None:
        super().__init__()
        self.names = names
        for name, (block, _, count) in zip(names, BLOCKS, strict=True):
            convolutions = [vgg.get_layer(f"block{block}_conv{number}") for number in range(1, count + 1)]
            setattr(self, name, keras.Sequential([L.MaxPooling2D(2)] * (block > 1) + convolutions))
            setattr(self, f"side{block}", L.Conv2D(1, 1))

    def call(self, x: Any) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        return self.side5(x)


class Row(keras.Model):  # type: ignore[misc]
    """A convolution an attribute."""

    def __init__(self, vgg: Any, names: list[str]) -> None:
        super().__init__()
        self.names = names
        for name, layer in zip(names, (layer for layer in vgg.layers if layer.weights), strict=True):
            setattr(self, name, layer)

    def call(self, x: Any) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class Listed(keras.Model):  # type: ignore[misc]
    """All convolutions in a list, and a head."""

    def __init__(self, vgg: Any, names: list[str]) -> None:
        super().__init__()
        setattr(self, names[0], [layer for layer in vgg.layers if layer.weights])
        self.name_of_list = names[0]
        self.another = L.Conv2D(512, 3)

    def call(self, x: Any) -> Any:
        for layer in getattr(self, self.name_of_list):
            x = layer(x)
        return self.another(x)


def by_convolution(pattern: str) -> list[str]:
    numbers = [(block, number) for block, _, count in BLOCKS for number in range(1, count + 1)]
    return [pattern.format(block=b, number=n, total=t) for t, (b, n) in enumerate(numbers, start=1)]


@pytest.fixture(scope="module")
def vgg() -> Any:
    return keras_model(include_top=False)


def saved(model: Any, path: Path) -> Path:
    model(np.zeros((1, 32, 32, 3), np.float32))
    model.save_weights(path)
    return path


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (EdgeDetector, ["block1", "block2", "block3", "block4", "block5"]),
        (EdgeDetector, ["stage", "stage_1", "stage_2", "stage_3", "stage_4"]),
        (EdgeDetector, ["a", "b", "c", "d3", "d12"]),  # those before are told apart by their shapes
        (Row, by_convolution("conv{block}_{number}")),
        (Row, by_convolution("conv{total}")),
        (Listed, ["features"]),
    ],
)
def test_convolutions_are_found_in_order(kind: Any, names: list[str], vgg: Any, tmp_path: Path) -> None:
    path = saved(kind(vgg, names), tmp_path / "x.weights.h5")
    ours = VGG16(weights=path, include_top=False)
    for layer in (layer for layer in vgg.layers if layer.weights):
        kernel, bias = layer.get_weights()
        own = ours.get_submodule(layer.name)
        assert torch.equal(own.weight, torch.from_numpy(kernel).permute(3, 2, 0, 1))
        assert torch.equal(own.bias, torch.from_numpy(bias))
    if kind is EdgeDetector:
        with pytest.raises(ValueError, match="the vgg16 in it can be converted alone: --base-only"):
            load_model(path)


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        (
            EdgeDetector,
            ["a", "b", "c", "d", "e"],
            "d/layers/conv2d_2/vars and e/layers/conv2d/vars: convolutions of one shape",
        ),
        (EdgeDetector, ["a", "b", "c", "y", "x"], "expected the 13 convolutions"),
        (Row, [f"c{letter}" for letter in "abcdefghijklm"], "ci/vars and cj/vars: convolutions of one shape"),
    ],
)
def test_an_order_that_cannot_be_told_is_refused(
    kind: Any, names: list[str], message: str, vgg: Any, tmp_path: Path
) -> None:
    path = saved(kind(vgg, names), tmp_path / "x.weights.h5")
    with pytest.raises(ValueError, match=message):
        convert(path, base_only=True)
    with pytest.raises(ValueError):  # noqa: PT011  # the reason that comes first
        load_model(path)
