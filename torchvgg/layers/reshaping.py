"""Flatten, Reshape and padding, and the order of flattened features: Keras's is `(H, W, C)`, PyTorch's `(C, H, W)`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .shared import channels_first, channels_last

__all__ = [
    "Cropping1D",
    "Cropping2D",
    "Flatten",
    "Permute",
    "RepeatVector",
    "Reshape",
    "UpSampling2D",
    "ZeroPadding1D",
    "ZeroPadding2D",
]


class ZeroPadding2D(nn.ZeroPad2d):
    """`keras.layers.ZeroPadding2D`: `padding` is `((top, bottom), (left, right))`."""

    def __init__(self, padding: Sequence[Sequence[int]] = ((1, 1), (1, 1))) -> None:
        (top, bottom), (left, right) = padding
        super().__init__((left, right, top, bottom))


class ZeroPadding1D(nn.ZeroPad2d):
    """`keras.layers.ZeroPadding1D`: `(N, time, C)` → `(N, before + time + after, C)`; `padding` is `(before, after)`."""

    def __init__(self, padding: Sequence[int] = (1, 1)) -> None:
        before, after = padding
        super().__init__((0, 0, before, after))


class Cropping1D(nn.Module):
    """`keras.layers.Cropping1D`: `(N, time, C)` → `(N, time - before - after, C)`; `cropping` is `(before, after)`."""

    def __init__(self, cropping: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        self.cropping = tuple(cropping)

    def extra_repr(self) -> str:
        return f"cropping={self.cropping}"

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.cropping
        return x.narrow(1, before, x.shape[1] - before - after)


class Cropping2D(nn.ZeroPad2d):
    """`keras.layers.Cropping2D`: `(N, C, H, W)` → `(N, C, H', W')`; `cropping` is `((top, bottom), (left, right))`."""

    def __init__(self, cropping: Sequence[Sequence[int]] = ((0, 0), (0, 0))) -> None:
        (top, bottom), (left, right) = cropping
        super().__init__((-left, -right, -top, -bottom))


class UpSampling2D(nn.Upsample):
    """`keras.layers.UpSampling2D`: `(N, C, H, W)` → `(N, C, H * size[0], W * size[1])`, "nearest" or "bilinear"."""

    def __init__(self, size: Sequence[int] = (2, 2), interpolation: str = "nearest") -> None:
        super().__init__(scale_factor=tuple(size), mode=interpolation)


class Flatten(nn.Flatten):
    """`keras.layers.Flatten`: `(N, C, H, W)` → `(N, C * H * W)`.

    The conversion reorders the weights of the Dense that follows to match. Where no Dense follows, `order` is
    "channels_last": the output is then in Keras's order, `(H, W, C)`.
    """

    def __init__(self, order: str = "channels_first") -> None:
        super().__init__()
        self.order = order

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.order == "channels_first" else f", order={self.order}")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.order == "channels_first" else channels_last(x))


def order_after(layer: nn.Module, shape: Sequence[Any], before: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Returns the `(C, H, W)` that the features after a layer are flattened from in PyTorch's order, `(C, H, W)`; None if they aren't.

    `shape` is the input's, `before` what this function returned for the layer before.
    """
    if (
        isinstance(layer, nn.Flatten)
        and len(shape) == 4
        and getattr(layer, "order", "channels_first") == "channels_first"
    ):
        return tuple(shape[1:])
    if any(isinstance(module, nn.Linear) for module in layer.modules()):
        return None  # the conversion reordered its weights
    return before


def in_keras_order(x: Tensor, flattened: tuple[int, ...] | None) -> Tensor:
    """Puts features that were flattened from `(C, H, W)` into Keras's order, `(H, W, C)`."""
    return x.unflatten(1, flattened).movedim(1, -1).flatten(1) if flattened else x


class Reshape(nn.Module):
    """`keras.layers.Reshape`, in Keras's order of the numbers: `target_shape` is `(H, W, C)`, `(features,)` and so on."""

    def __init__(self, target_shape: Sequence[int]) -> None:
        super().__init__()
        self.target_shape = tuple(target_shape)

    def extra_repr(self) -> str:
        return f"target_shape={self.target_shape}"

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(channels_last(x).reshape(len(x), *self.target_shape))


class RepeatVector(nn.Module):
    """`keras.layers.RepeatVector`: `(N, features)` → `(N, n, features)`."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def extra_repr(self) -> str:
        return f"n={self.n}"

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).repeat(1, self.n, 1)


class Permute(nn.Module):
    """`keras.layers.Permute`: the axes in another order; `dims` counts Keras's axes, channels last, from 1."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(channels_last(x).permute(0, *self.dims))
