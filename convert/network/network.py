"""`Network`: layers and their calls, their settings, and which array is which PyTorch tensor, in what layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..array import Array, Units
from ..layout import CONV2D_KERNEL, Layout
from .architecture_json import mapped
from .graph import INPUT, Node, chained
from .kinds import Settings, Shape
from .settings import shortened

PART = 1 << 21  # numbers of a large kernel that are converted at a time


def is_finite(tensor: Tensor) -> bool:
    """Tells whether no value is NaN or infinity."""
    is_whole = not tensor.is_floating_point() or not tensor.numel()
    return is_whole or all(bound.isfinite() for bound in tensor.aminmax())


@dataclass(frozen=True)
class Weight:
    """A tensor to be made: its PyTorch name (`weight`, `bias`), the Keras array, and the change of layout between them.

    Unless it `allows_nonfinite`, a NaN or an infinity in the array is a ValueError when it is read.
    """

    name: str
    array: Array
    layout: Layout
    allows_nonfinite: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.layout.to_torch(torch.empty(self.array.shape, device="meta")).shape)

    def parts(self) -> list[Units]:
        """Splits a large kernel by its units, the tensor's first axis; other arrays are one part."""
        numbers = math.prod(self.shape)
        if not self.layout.by_units or numbers <= PART:
            return [...]
        units = self.shape[0]
        step = max(1, units * PART // numbers)
        return [slice(first, first + step) for first in range(0, units, step)]

    def tensor(self) -> Tensor:
        """Makes the tensor, in memory of its own."""
        tensor = torch.empty(self.shape, dtype=self.array.dtype)
        for units in self.parts():
            self.copy_to(tensor[units], units)
        return tensor

    def copy_to(self, tensor: Tensor, units: Units = ...) -> None:
        """Fills a tensor, which may be of a shorter type, with the numbers for some units, or with all."""
        own = self.layout.to_torch(self.array.read(units))
        self._check(tensor.copy_(own), own)

    def keras_array(self, dtype: torch.dtype) -> Tensor:
        """Reads the array as Keras lays it out, in another type."""
        own = self.array.read()
        self._check(numbers := own.to(dtype).contiguous(), own)
        return numbers

    def _check(self, numbers: Tensor, own: Tensor) -> None:
        """Raises a ValueError for values that aren't allowed, or that are lost in the other type."""
        # The copy lies in one piece, which is faster.
        if not self.allows_nonfinite and not is_finite(numbers if numbers.dtype == own.dtype else own):
            raise ValueError(
                f"{self.array.name}: NaN or infinity among its values; --allow-nonfinite converts it all the same"
            )
        if numbers.dtype != own.dtype and not torch.equal(numbers.isinf(), own.isinf()):
            raise ValueError(f"{self.array.name}: values beyond the range of {str(numbers.dtype)[6:]}")


@dataclass(frozen=True)
class Layer:
    """A layer, all its settings, and its weights; `path` and `place` are as in `Described`."""

    class_name: str
    name: str
    settings: Settings
    weights: list[Weight] = field(default_factory=list)
    trainable: bool = True
    path: tuple[str, ...] = ()
    place: str = ""

    @property
    def is_nested(self) -> bool:
        """Whether it lies in a model, or a wrapper, within the model."""
        return len(self.path) > 1


@dataclass(frozen=True)
class Network:
    """A graph of layers, as `Graph` has it, whose settings are known.

    `kernels` is the layout of its convolutions' kernels. `THEANO_KERNEL` goes with channels-first images, and so with a
    flatten in PyTorch's order. `class_name` is as in `Graph`.
    """

    name: str
    inputs: dict[str, Shape]
    layers: list[Layer]
    nodes: list[Node]
    outputs: Any
    kernels: Layout = CONV2D_KERNEL
    class_name: str = ""

    @property
    def is_chain(self) -> bool:
        """Whether it takes one batch of images, and each layer is called once, with the output of the one before."""
        names = [layer.name for layer in self.layers]
        (first, shape), *others = self.inputs.items()
        nodes = [node._replace(inputs=tuple(INPUT if i == first else i for i in node.inputs)) for node in self.nodes]
        is_last = self.outputs == (names[-1] if names else first)
        return not others and len(shape) == 3 and nodes == chained(names) and is_last

    @property
    def input_shape(self) -> Any:
        """The `(height, width, channels)` of a chain."""
        (shape,) = self.inputs.values()
        return shape

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Yields every tensor's key (`block1_conv1.weight`) and what it is made of, in order."""
        for layer in self.layers:
            for weight in layer.weights:
                yield f"{layer.name}.{weight.name}", weight

    def architecture(self) -> dict[str, Any]:
        """Describes the model as plain data, from which it can be built again; shapes of inputs are channels-first.

        A chain has an `input_shape` and `layers`, whose order says all; another graph has `inputs`, `nodes` and `outputs` too.
        For the way back to Keras, the model's class is there, if it is known, and the path and place of layers in nested models.
        """
        layers = [
            {"class_name": layer.class_name, "name": layer.name, "config": shortened(layer.class_name, layer.settings)}
            | ({} if layer.trainable else {"trainable": False})
            | ({} if layer.path in ((), (layer.name,)) else {"path": list(layer.path)})
            | ({"place": layer.place} if layer.is_nested and self.class_name else {})
            for layer in self.layers
        ]
        named = {"name": self.name} | ({"class_name": self.class_name} if self.class_name else {})
        if self.is_chain:
            return named | {"input_shape": channels_first(self.input_shape), "layers": layers}
        return named | {
            "inputs": {name: channels_first(shape) for name, shape in self.inputs.items()},
            "layers": layers,
            "nodes": [[node.name, node.layer, list(node.inputs)] for node in self.nodes],
            "outputs": mapped(str, self.outputs),
        }


def channels_first(shape: Shape) -> list[int | None]:
    """Moves the channels of an image's shape to where PyTorch has them; other shapes stay."""
    return [*shape[:-3], shape[-1], *shape[-3:-1]] if len(shape) >= 3 else list(shape)


def channels_last(shape: Sequence[int | None]) -> Shape:
    """Moves the channels of an image's shape to where Keras has them: the inverse of `channels_first`."""
    return (*shape[:-3], *shape[-2:], shape[-3]) if len(shape) >= 3 else tuple(shape)
