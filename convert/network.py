"""The chain of layers that a file's arrays belong to: which array is which PyTorch tensor, and in what layout.

A weights-only file is matched as Keras matches it, by order and shape: a VGG is a row of 3×3 convolutions of known widths,
then three dense layers or none. Names come from Keras's VGG, not from the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .keras_file import KerasArray, KerasFile
from .layout import CONV2D_KERNEL, DENSE_KERNEL, THEANO_KERNEL, UNCHANGED, Layout, flattened_dense_kernel

WIDTHS = (64, 128, 256, 512, 512)  # filters of a convolution in block 1 … 5 (arXiv 1409.1556, table 1)
NETWORKS = {13: "vgg16", 16: "vgg19"}  # by the number of convolutions


def blocks(convolutions: int) -> list[tuple[int, int]]:
    """(convolutions, filters) of each block: the first two have two convolutions, the others share the rest."""
    deep = (convolutions - 4) // 3
    return list(zip((2, 2, deep, deep, deep), WIDTHS, strict=True))


@dataclass(frozen=True)
class Weight:
    """A tensor to be: its PyTorch name (`weight`, `bias`), the Keras array, and the change of layout between them."""

    name: str
    array: KerasArray
    layout: Layout

    def tensor(self) -> torch.Tensor:
        return self.layout.to_torch(self.array.read())


@dataclass(frozen=True)
class Layer:
    """A layer as Keras's own configuration describes it, and its weights."""

    class_name: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)


@dataclass(frozen=True)
class Network:
    """Layers in order, for images of `input_shape`, `(height, width, channels)`, None where a size is open.

    `theano` says that the arrays were made for channels-first images and true convolutions.
    """

    name: str
    input_shape: tuple[int | None, int | None, int]
    layers: list[Layer]
    theano: bool = False

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Every tensor's key (`block1_conv1.weight`) and what it is made of, in order."""
        for layer in self.layers:
            for weight in layer.weights:
                yield f"{layer.name}.{weight.name}", weight

    def architecture(self) -> dict[str, Any]:
        """What builds the model again, as plain data. The input shape is channels-first, as PyTorch wants it."""
        height, width, channels = self.input_shape
        return {
            "name": self.name,
            "input_shape": [channels, height, width],
            "layers": [{"class_name": x.class_name, "name": x.name, "config": x.config} for x in self.layers],
        }

    def check_finite(self) -> None:
        """Raises a ValueError that names the first array with a NaN or an infinity."""
        for _, weight in self.weights():
            if not torch.isfinite(weight.array.read()).all():
                raise ValueError(
                    f"{weight.array.name}: NaN or infinity among its values; --allow-nonfinite converts it all the same"
                )


def network_of(keras_file: KerasFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The network that a file's weights belong to.

    Args:
        keras_file: the open file.
        input_shape: `(height, width)` of the images, for a top whose flatten isn't square.
        base_only: leave the top out.

    Raises:
        ValueError: the arrays aren't those of a VGG16 or VGG19; the message names the first that doesn't fit.
    """
    path = keras_file.path
    pairs = _pairs(keras_file)
    kernels = [kernel for kernel, _ in pairs if len(kernel.shape) == 4]
    dense = [kernel for kernel, _ in pairs if len(kernel.shape) == 2]
    if len(kernels) not in NETWORKS:
        raise ValueError(f"{path}: expected the 13 convolutions of VGG16 or the 16 of VGG19. Received: {len(kernels)}")
    theano = kernels[0].shape[0] == WIDTHS[0] and kernels[0].shape[2:] == (3, 3)
    channels = kernels[0].shape[1 if theano else 2]
    layers = list(_base(path, [pair for pair in pairs if len(pair[0].shape) == 4], channels, theano))
    height, width = input_shape or (None, None)
    if dense and not base_only:
        if [kernel.shape[1] for kernel in dense[:-1]] != [4096, 4096]:
            raise ValueError(
                f"{path}: expected the dense layers of a VGG's top, of 4096, 4096 and as many units as classes. "
                f"Received shapes: {', '.join(str(kernel.shape) for kernel in dense)}; --base-only leaves them aside"
            )
        tops = [pair for pair in pairs if len(pair[0].shape) == 2]
        height, width = input_shape or _square_input(path, dense[0])
        layers += _top(path, tops, height // 32, width // 32, theano)
    return Network(NETWORKS[len(kernels)], (height, width, channels), layers, theano)


def _pairs(keras_file: KerasFile) -> list[tuple[KerasArray, KerasArray]]:
    """The arrays as (kernel, bias), in the file's order."""
    arrays = keras_file.arrays
    for array in arrays[0::2]:
        if len(array.shape) not in (2, 4):
            raise ValueError(f"{keras_file.path}: {array.name}: expected a kernel. Received shape: {array.shape}")
    if len(arrays) % 2:
        raise ValueError(f"{keras_file.path}: {arrays[-1].name}: a kernel without its bias")
    return list(zip(arrays[0::2], arrays[1::2], strict=True))


def _base(path: Any, pairs: list[tuple[KerasArray, KerasArray]], channels: int, theano: bool) -> Iterator[Layer]:
    remaining = iter(pairs)
    for block, (convolutions, filters) in enumerate(blocks(len(pairs)), start=1):
        for number in range(1, convolutions + 1):
            kernel, bias = next(remaining)
            keras_shape = (3, 3, channels, filters)
            _expect(path, kernel, (filters, channels, 3, 3) if theano else keras_shape)
            _expect(path, bias, (filters,))
            yield Layer(
                "Conv2D",
                f"block{block}_conv{number}",
                {"filters": filters, "kernel_size": [3, 3], "padding": "same", "activation": "relu"},
                [
                    Weight("weight", kernel, THEANO_KERNEL if theano else CONV2D_KERNEL),
                    Weight("bias", bias, UNCHANGED),
                ],
            )
            channels = filters
        yield Layer("MaxPooling2D", f"block{block}_pool", {"pool_size": [2, 2]})


def _top(
    path: Any, pairs: list[tuple[KerasArray, KerasArray]], height: int, width: int, theano: bool
) -> Iterator[Layer]:
    """The dense layers on features of `height` × `width`. Theano flattened channels-first, as PyTorch does."""
    yield Layer("Flatten", "flatten")
    features = WIDTHS[-1] * height * width
    for name, activation, (kernel, bias) in zip(
        ("fc1", "fc2", "predictions"), ("relu", "relu", "softmax"), pairs, strict=True
    ):
        units = kernel.shape[1]
        if kernel.shape[0] != features and name == "fc1":
            raise ValueError(
                f"{path}: {kernel.name}: images of {height * 32}×{width * 32} give {features} features, the array takes "
                f"{kernel.shape[0]}; pass the right --input-shape H,W"
            )
        _expect(path, kernel, (features, units))
        _expect(path, bias, (units,))
        layout = flattened_dense_kernel(height, width) if name == "fc1" and not theano else DENSE_KERNEL
        yield Layer(
            "Dense",
            name,
            {"units": units, "activation": activation},
            [Weight("weight", kernel, layout), Weight("bias", bias, UNCHANGED)],
        )
        features = units


def _square_input(path: Any, fc1: KerasArray) -> tuple[int, int]:
    """The size of the images, taken to be square: 25088 = 512 × 7 × 7 features come from 224 × 224 pixels."""
    side = math.isqrt(fc1.shape[0] // WIDTHS[-1])
    if side * side * WIDTHS[-1] != fc1.shape[0]:
        raise ValueError(
            f"{path}: {fc1.name}: {fc1.shape[0]} features are no square of 512 channels; "
            "say the size of the images with --input-shape H,W"
        )
    return side * 32, side * 32


def _expect(path: Any, array: KerasArray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{path}: {array.name}: expected shape {shape}. Received: {array.shape}")
