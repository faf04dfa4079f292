"""Operations that people leave in a model's graph between layers; their axes are counted as in Keras, channels last."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .shared import channels_first, channels_last, torch_axis

__all__ = ["Absolute", "Cast", "Clip", "FullLike", "GetItem", "MergeTime", "NotEqual", "Power", "Reduce", "SplitTime"]


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **{"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin},
    **{"any": torch.amax, "norm": torch.linalg.vector_norm},
}


class Absolute(nn.Module):
    """`abs(x)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Power(nn.Module):
    """`x ** exponent`: squares, roots, reciprocals."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def extra_repr(self) -> str:
        return f"exponent={self.exponent}"

    def forward(self, x: Tensor) -> Tensor:
        return x**self.exponent


class Clip(nn.Module):
    """`maximum(x, min_value)` and `minimum(x, max_value)`."""

    def __init__(self, min_value: float | None = None, max_value: float | None = None) -> None:
        super().__init__()
        self.min_value, self.max_value = min_value, max_value

    def extra_repr(self) -> str:
        return f"min_value={self.min_value}, max_value={self.max_value}"

    def forward(self, x: Tensor) -> Tensor:
        if self.min_value is None and self.max_value is None:
            return x
        return x.clamp(self.min_value, self.max_value)


class Cast(nn.Module):
    """Makes whole numbers or a mask floating-point, or with `dtype` "int" cuts off what comes after the point."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def extra_repr(self) -> str:
        return self.dtype

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype == "int":
            return x.trunc() if x.is_floating_point() else x
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())


class FullLike(nn.Module):
    """A mask in the shape of `x` that is the same everywhere, bool."""

    def __init__(self, value: bool) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value, dtype=torch.bool)


class NotEqual(nn.Module):
    """`x != value`: the mask of a sequence, bool."""

    def __init__(self, value: float = 0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x != self.value


class Reduce(nn.Module):
    """The "mean", "sum", "max" or "min" over some of Keras's axes, the Euclidean "norm", or "any" of a mask."""

    def __init__(self, function: str, axis: int | Sequence[int], keepdims: bool = False) -> None:
        super().__init__()
        self.function, self.keepdims = function, keepdims
        self.axes = (axis,) if isinstance(axis, int) else tuple(axis)

    def extra_repr(self) -> str:
        return f"{self.function}, axes={self.axes}, keepdims={self.keepdims}"

    def forward(self, x: Tensor) -> Tensor:
        reduce = FUNCTIONS[self.function]
        if self.keepdims:
            return reduce(x, dim=[torch_axis(axis, x.dim()) for axis in self.axes], keepdim=True)
        return channels_first(reduce(channels_last(x), dim=self.axes))


class GetItem(nn.Module):
    """`x[index]` in Keras's order of the axes; slices are `("slice", start, stop, step)`, the ellipsis is "..."."""

    def __init__(self, index: Sequence[Any]) -> None:
        super().__init__()
        self.index = tuple(tuple(item) if isinstance(item, list) else item for item in index)

    def extra_repr(self) -> str:
        return f"index={self.index}"

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        given = sum(item is not None and item != "..." for item in self.index)
        items: list[Any] = []
        axis = 0
        for item in self.index:
            if item == "...":
                axis += x.dim() - given
                items.append(...)
            elif item is None:
                items.append(None)
            else:
                if isinstance(item, tuple) and item[3] == -1:  # PyTorch has no negative steps
                    x = x.flip(axis)
                    items.append(slice(None))
                else:
                    items.append(slice(*item[1:]) if isinstance(item, tuple) else item)
                axis += 1
        return channels_first(x[tuple(items)])


class MergeTime(nn.Module):
    """Makes each step a sample, for a layer that a TimeDistributed wraps: `(N, time, …)` → `(N * time, …)`."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(channels_last(x).flatten(0, 1))


class SplitTime(nn.Module):
    """Makes the samples steps again: `(N * time, …)`, and what `MergeTime` was given, `(N, time, …)` → `(N, time, …)`."""

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        return channels_first(channels_last(x).unflatten(0, channels_last(steps).shape[:2]))
