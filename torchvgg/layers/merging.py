"""Joining several branches into one."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shared import channels_first, channels_last, torch_axis

__all__ = ["Add", "Average", "Concatenate", "Divide", "Dot", "Maximum", "Minimum", "Multiply", "Stack", "Subtract"]


class _Merge(nn.Module):
    """Joins tensors number by number. One of lower rank gets axes of length 1 after the batch, as in Keras: `(N, C)` meets maps."""

    def __init__(self, is_operation: bool = False) -> None:
        super().__init__()

    def forward(self, *inputs: Tensor) -> Tensor:
        rank = max(x.dim() for x in inputs)
        return self.joined([x if x.dim() == rank else _of_rank(x, rank) for x in inputs])

    @abstractmethod
    def joined(self, inputs: list[Tensor]) -> Tensor:
        """Computes the output of inputs of one rank."""


def _of_rank(x: Tensor, rank: int) -> Tensor:
    x = channels_last(x)
    return channels_first(x.reshape(len(x), *[1] * (rank - x.dim()), *x.shape[1:]))


class Add(_Merge):
    """`keras.layers.Add`: tensors of one shape, or with axes of length 1 → their sum."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.add, inputs)


class Subtract(_Merge):
    """`keras.layers.Subtract`: the first tensor less the second."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0] - inputs[1]


class Multiply(_Merge):
    """`keras.layers.Multiply`: tensors of one shape, or with axes of length 1 → their product."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.mul, inputs)


class Divide(_Merge):
    """`x / y` in a model's graph."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0] / inputs[1]


class Average(_Merge):
    """`keras.layers.Average`: tensors of one shape → their mean."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.add, inputs) / len(inputs)


class Maximum(_Merge):
    """`keras.layers.Maximum`: the largest number at each place."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.maximum, inputs)


class Minimum(_Merge):
    """`keras.layers.Minimum`: the smallest number at each place."""

    def joined(self, inputs: list[Tensor]) -> Tensor:
        return reduce(torch.minimum, inputs)


class Concatenate(nn.Module):
    """`keras.layers.Concatenate`; `axis` counts Keras's axes: -1 are the channels, `(N, C, H, W)` → `(N, C + C', H, W)`."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def extra_repr(self) -> str:
        return f"axis={self.axis}"

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, torch_axis(self.axis, inputs[0].dim()))


class Stack(nn.Module):
    """`keras.ops.stack` in a model's graph; `new_axis` counts Keras's axes of the result."""

    def __init__(self, new_axis: int) -> None:
        super().__init__()
        self.new_axis = new_axis

    def extra_repr(self) -> str:
        return f"new_axis={self.new_axis}"

    def forward(self, *inputs: Tensor) -> Tensor:
        return channels_first(torch.stack([channels_last(x) for x in inputs], self.new_axis))


class Dot(nn.Module):
    """`keras.layers.Dot`: sums the products along an axis of each, `(N, a, k)` and `(N, k, b)` → `(N, a, b)` for axes `(2, 1)`.

    Of two `(N, k)` it is `(N, 1)`. With `normalize` the vectors along the axes have length 1 before.
    """

    def __init__(self, axes: int | Sequence[int], normalize: bool = False) -> None:
        super().__init__()
        self.axes = (axes, axes) if isinstance(axes, int) else tuple(axes) * (2 // len(axes))
        self.normalize = normalize

    def extra_repr(self) -> str:
        return f"axes={self.axes}, normalize={self.normalize}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.normalize:
            x, y = (F.normalize(z, dim=axis, eps=1e-6) for z, axis in zip((x, y), self.axes, strict=True))
        left = x.movedim(self.axes[0], -1)  # (N, …, k)
        right = y.movedim(self.axes[1], 1)  # (N, k, …)
        rows = left.unsqueeze(1) if x.dim() == 2 else left
        columns = right.unsqueeze(2) if y.dim() == 2 else right
        product = torch.bmm(rows, columns)
        if x.dim() == 3 and y.dim() == 2:
            return product.squeeze(2)
        return product.squeeze(1) if x.dim() == 2 else product
