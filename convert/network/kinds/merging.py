"""Layers that join several branches into one."""

from abc import abstractmethod
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .kind import Arrays, Kind, Settings, Shape
from .validators import REQUIRED, Setting, flag, integer

MOST = 1000  # branches


class _Merge(Kind):
    """Joins tensors number by number; where one has an axis of length 1, it counts for the others' whole axis."""

    inputs = (1, MOST)
    ranks = (0, 1, 2, 3, 4)
    settings = {"is_operation": Setting(False, flag)}  # `x + y` doesn't join tensors of different ranks as Add does
    keeps_mask = True

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        ranks = {len(shape), *map(len, others)}
        if len(ranks) > 1 and (settings["is_operation"] or 0 in ranks):
            raise ValueError(f"inputs of {min(ranks) + 1} and {max(ranks) + 1} axes can't be converted")
        same_rank = [(*(1,) * (max(ranks) - len(each)), *each) for each in (shape, *others)]
        return reduce(lambda one, other: tuple(map(_broadcast, one, other)), same_rank)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        rank = max(each.dim() for each in (x, *others))
        return self.joined(
            [each.reshape(len(each), *[1] * (rank - each.dim()), *each.shape[1:]) for each in (x, *others)]
        )

    @abstractmethod
    def joined(self, inputs: list[Tensor]) -> Tensor:
        """Computes the output of inputs of one rank."""


def _broadcast(a: int | None, b: int | None) -> int | None:
    if a == b or b == 1:
        return a
    if a is None or b is None:
        return b if a == 1 else a if b is None else b
    if a != 1:
        raise ValueError(f"inputs of {a} and {b} don't fit together")
    return b


class Add(_Merge):
    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.add, inputs)


class Multiply(_Merge):
    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.mul, inputs)


class Average(_Merge):
    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.add, inputs) / len(inputs)


class Maximum(_Merge):
    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.maximum, inputs)


class Minimum(_Merge):
    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.minimum, inputs)


class Subtract(_Merge):
    inputs = (2, 2)

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0] - inputs[1]


class Divide(_Merge):
    """No layer of Keras's: `x / y` in a graph."""

    inputs = (2, 2)
    is_steep = True

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0] / inputs[1]


def axis_of(value: Any) -> bool:
    """Accepts an axis as `read_settings` leaves it: counted from 1, the batch being 0, or -1 for the last."""
    return integer(value) and (value == -1 or value > 0)


class Concatenate(Kind):
    settings = {"axis": Setting(-1, axis_of)}
    inputs = (1, MOST)
    keeps_mask = True

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        place = len(shape) - 1 if settings["axis"] == -1 else settings["axis"] - 1
        sizes = list(shape)
        for other in others:
            if len(other) != len(shape):
                raise ValueError(f"inputs of {len(shape) + 1} and {len(other) + 1} axes don't fit together")
            for axis, (a, b) in enumerate(zip(sizes, other, strict=True)):
                if axis == place:
                    sizes[axis] = None if a is None or b is None else a + b
                elif None not in (a, b) and a != b:
                    raise ValueError(f"inputs of {a} and {b} don't fit together")
        return tuple(sizes)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        return torch.cat((x, *others), settings["axis"])


class Stack(Kind):
    """No layer of Keras's: `stack` in a graph."""

    settings = {"new_axis": Setting(REQUIRED, axis_of)}
    inputs = (1, MOST)
    ranks = (0, 1, 2, 3)

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        if any(other != shape for other in others):
            raise ValueError("inputs of different shapes don't fit together")
        place = len(shape) if settings["new_axis"] == -1 else settings["new_axis"] - 1
        return *shape[:place], 1 + len(others), *shape[place:]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        return torch.stack((x, *others), settings["new_axis"])


def _axes(value: Any) -> bool:
    """Accepts an axis for both inputs, or one for each."""
    both = value if isinstance(value, tuple) else (value,)
    return len(both) in (1, 2) and all(map(integer, both))


class Dot(Kind):
    settings = {"axes": Setting(REQUIRED, _axes), "normalize": Setting(False, flag)}
    inputs = (2, 2)
    ranks = (1, 2)

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        if len(others[0]) not in self.ranks:
            raise ValueError(f"it can't be converted on an input of shape {(None, *others[0])}")
        a, b = dotted_axes(settings["axes"], len(shape) + 1, len(others[0]) + 1)
        if None not in (shape[a - 1], others[0][b - 1]) and shape[a - 1] != others[0][b - 1]:
            raise ValueError(f"inputs of {shape[a - 1]} and {others[0][b - 1]} don't fit together")
        left = [*shape[: a - 1], *shape[a:], *others[0][: b - 1], *others[0][b:]]
        return tuple(left) or (1,)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        y = others[0]
        a, b = dotted_axes(settings["axes"], x.dim(), y.dim())
        if settings["normalize"]:
            x, y = (z / (z * z).sum(axis, keepdim=True).clamp_min(1e-12).sqrt() for z, axis in ((x, a), (y, b)))
        letters = {1: "i", 2: "ij"}
        first, second = list("n" + letters[x.dim() - 1].upper()), list("n" + letters[y.dim() - 1])
        first[a] = second[b] = "s"
        rest = "".join(letter for letter in (*first, *second) if letter not in "ns")
        product = torch.einsum(f"{''.join(first)},{''.join(second)}->n{rest}", x.double(), y.double()).float()
        return product if rest else product[:, None]


def dotted_axes(axes: Any, rank: int, other: int) -> tuple[int, int]:
    """Returns the axes of both tensors that a Dot sums over, counted from 1, the batch being 0."""
    a, b = axes if isinstance(axes, tuple) and len(axes) == 2 else (axes, axes)
    a, b = (axis[0] if isinstance(axis, tuple) else axis for axis in (a, b))
    for axis, length in ((a, rank), (b, other)):
        if not -length < axis < length or axis == 0:
            raise ValueError(f"axes={axes!r} is no such setting")
    return a % rank, b % other
