"""A chain of layers with its arrays: which array is which PyTorch tensor, and in what layout.

`assemble` makes it from a chain, and from a function that is told what arrays the layers want and hands them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, Protocol

import torch
from torch import Tensor

from .arrays import Config, Features, Shape, Spec
from .chain import Chain, Described
from .graph import LayerError
from .kinds import ANY_ORDER, KINDS
from .layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .settings import settings, shortened

PART = 1 << 21  # numbers, of a large kernel that is taken in parts
Units = slice | EllipsisType  # some units of a kernel, or all that there is of any array


class Array(Protocol):
    """One array in Keras's layout, read when it is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, units: Units = ...) -> Tensor:
        """All of it, or of a kernel the part for some units, Keras's last axis."""


@dataclass(frozen=True)
class Weight:
    """A tensor to be: its PyTorch name (`weight`, `bias`), the Keras array, and the change of layout between them.

    Unless it `allows_nonfinite`, a NaN or an infinity in the array is a ValueError where its numbers are taken.
    """

    name: str
    array: Array
    layout: Layout
    allows_nonfinite: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.layout.to_torch(torch.empty(self.array.shape, device="meta")).shape)

    def parts(self) -> list[Units]:
        """Which units, the tensor's first axis, to take at a time: of a large kernel some, of other arrays all."""
        numbers = math.prod(self.shape)
        if not self.layout.by_units or numbers <= PART:
            return [...]
        units = self.shape[0]
        step = max(1, units * PART // numbers)
        return [slice(first, first + step) for first in range(0, units, step)]

    def tensor(self) -> Tensor:
        """The tensor, in memory of its own."""
        tensor = torch.empty(self.shape, dtype=self.array.dtype)
        for units in self.parts():
            self.copy_to(tensor[units], units)
        return tensor

    def copy_to(self, tensor: Tensor, units: Units = ...) -> None:
        """Fills a tensor, which may be of a shorter type, with this one, or with the part of it for some units."""
        own = self.layout.to_torch(self.array.read(units))
        self._check(tensor.copy_(own), own)

    def keras_array(self, dtype: torch.dtype) -> Tensor:
        """The array as Keras lays it out, in a type."""
        own = self.array.read()
        self._check(numbers := own.to(dtype).contiguous(), own)
        return numbers

    def _check(self, numbers: Tensor, own: Tensor) -> None:
        """Raises a ValueError if there are values that weren't allowed, or that got lost in another type."""
        if not self.allows_nonfinite and own.is_floating_point() and own.numel():
            source = numbers if numbers.dtype == own.dtype else own  # the copy lies in one piece, which is faster
            if not all(bound.isfinite() for bound in source.aminmax()):
                raise ValueError(
                    f"{self.array.name}: NaN or infinity among its values; --allow-nonfinite converts it all the same"
                )
        if numbers.dtype != own.dtype and not torch.equal(numbers.isinf(), own.isinf()):
            raise ValueError(f"{self.array.name}: values beyond the range of {str(numbers.dtype)[6:]}")


@dataclass(frozen=True)
class Layer:
    """A layer, all its settings, and its weights."""

    class_name: str
    name: str
    config: Config
    weights: list[Weight] = field(default_factory=list)
    trainable: bool = True

    def description(self) -> dict[str, Any]:
        """What builds the layer again, as plain data."""
        config = shortened(self.class_name, self.config)
        frozen = {} if self.trainable else {"trainable": False}
        return {"class_name": self.class_name, "name": self.name, "config": config, **frozen}


@dataclass(frozen=True)
class Network:
    """Layers in order, for images of `input_shape`, `(height, width, channels)`, None where a size is open.

    `kernels` says how the arrays of its convolutions are laid out. `THEANO_KERNEL` goes with channels-first images, and so
    with a flatten in PyTorch's order.
    """

    name: str
    input_shape: tuple[int | None, int | None, int]
    layers: list[Layer]
    kernels: Layout = CONV2D_KERNEL

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Every tensor's key (`block1_conv1.weight`) and what it is made of, in order."""
        for layer in self.layers:
            for weight in layer.weights:
                yield f"{layer.name}.{weight.name}", weight

    def architecture(self) -> dict[str, Any]:
        """What builds the model again, as plain data. The input shape is channels-first, as PyTorch wants it."""
        height, width, channels = self.input_shape
        layers = [layer.description() for layer in self.layers]
        return {"name": self.name, "input_shape": [channels, height, width], "layers": layers}

    def refusing_nonfinite(self) -> Network:
        """The same, with weights that allow no NaN and no infinity."""
        layers = [
            replace(layer, weights=[replace(weight, allows_nonfinite=False) for weight in layer.weights])
            for layer in self.layers
        ]
        return replace(self, layers=layers)


Wanted = tuple[Described, list[Spec]]  # a layer, and the arrays that it wants, in Keras's order


def assemble(
    chain: Chain,
    hand_out: Callable[[list[Wanted]], Iterable[Sequence[Array]]],
    keras_version: str = "3",
    kernels: Layout = CONV2D_KERNEL,
) -> Network:
    """The network of a chain.

    Args:
        chain: the layers.
        hand_out: returns each layer's arrays, in the order in which it is told of them.
        keras_version: whose defaults and names the chain's configurations follow.
        kernels: how the convolutions' arrays are laid out.

    Raises:
        ValueError: a layer can't be converted, or an array isn't its own; the message names it.
    """
    x = Features(chain.input_shape)
    wanted: list[Wanted] = []
    configs = []
    for position, described in enumerate(chain.layers):
        following = [later.class_name for later in chain.layers[position + 1 :]]
        try:
            config = _config(described, x, following, keras_version)
            specs = [_with_layout(spec, kernels) for spec in KINDS[described.class_name].arrays(config, x)]
            x = _output(described, config, x, kernels)
        except ValueError as error:
            raise LayerError(described.own_name, described.class_name, str(error)) from None
        wanted.append((described, specs))
        configs.append(config)
    layers = []
    for (described, specs), config, arrays in zip(wanted, configs, hand_out(wanted), strict=True):
        for spec, array in zip(specs, arrays, strict=True):
            if array.shape != spec.shape:
                raise ValueError(f"{array.name[:100]}: expected shape {spec.shape}. Received: {array.shape}")
            if not array.dtype.is_floating_point and spec.name != "count":
                raise ValueError(f"{array.name[:100]}: expected floating-point numbers. Received: whole ones")
        weights = [Weight(spec.name, array, spec.layout) for spec, array in zip(specs, arrays, strict=True)]
        layers.append(Layer(described.class_name, described.name, config, weights, described.trainable))
    return Network(chain.name, chain.input_shape, layers, kernels)


def _config(described: Described, x: Features, following: list[str], keras_version: str) -> Config:
    class_name = described.class_name
    if class_name == "Lambda":
        raise ValueError("code in the file, which is never run")
    if class_name not in KINDS:
        raise ValueError("a kind of layer that can't be converted")
    if len(x.shape) not in KINDS[class_name].ranks:
        raise ValueError(f"it can't be converted on an input of shape {(None, *x.shape)}")
    config = settings(class_name, described.config, x.shape, keras_version)
    if class_name == "Flatten":
        config["order"] = _order_of_flatten(following)
    return config


def _order_of_flatten(following: list[str]) -> str:
    """PyTorch's order where a Dense comes next to meet it, so that it costs nothing; Keras's where its output is seen."""
    meets = next((class_name for class_name in following if class_name not in ANY_ORDER), None)
    return "channels_first" if meets == "Dense" else "channels_last"


def _output(described: Described, config: Config, x: Features, kernels: Layout) -> Features:
    shape: Shape = KINDS[described.class_name].output(config, x.shape)
    if len(shape) not in (1, 3):
        raise ValueError(f"an output of shape {(None, *shape)} can't be converted")
    if any(size is not None and size < 1 for size in shape):
        raise ValueError(f"nothing is left of an input of shape {(None, *x.shape)}")
    if described.class_name == "Flatten" and len(x.shape) == 3:
        height, width, _ = x.shape
        moves = config["order"] == "channels_first" and kernels is not THEANO_KERNEL
        return Features(shape, (height, width) if moves and height and width else None)
    return Features(shape, x.flattened if described.class_name in ANY_ORDER else None)


def _with_layout(spec: Spec, kernels: Layout) -> Spec:
    """A convolution's kernel in the layout of a file's kernels; other arrays as they are."""
    if len(spec.shape) != 4:
        return spec
    height, width, channels, filters = spec.shape
    return Spec(spec.name, (filters, channels, height, width) if kernels is THEANO_KERNEL else spec.shape, kernels)
