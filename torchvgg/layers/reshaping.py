"""Flatten, Reshape and padding, and the order of flattened features: Keras's is `(H, W, C)`, PyTorch's `(C, H, W)`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .shared import channels_first, channels_last

__all__ = ["Cropping2D", "Flatten", "Reshape", "UpSampling2D", "ZeroPadding2D"]


class ZeroPadding2D(nn.ZeroPad2d):
    """`keras.layers.ZeroPadding2D`: `padding` is `((top, bottom), (left, right))`."""

    def __init__(self, padding: Sequence[Sequence[int]] = ((1, 1), (1, 1))) -> None:
        (top, bottom), (left, right) = padding
        super().__init__((left, right, top, bottom))


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


class KerasOrder:
    """Follows a chain of layers and puts flattened features, `(C, H, W)` in PyTorch, into Keras's order, `(H, W, C)`.

    Call `enter` with each layer and the shape of its input, then the object itself with its output.
    """

    def __init__(self) -> None:
        self.flattened: tuple[int, ...] | None = None  # (C, H, W)

    def enter(self, layer: nn.Module, shape: Sequence[Any]) -> None:
        if isinstance(layer, nn.Flatten):
            if len(shape) == 4 and getattr(layer, "order", "channels_first") == "channels_first":
                self.flattened = tuple(shape[1:])
        elif any(isinstance(module, nn.Linear) for module in layer.modules()):
            self.flattened = None  # the conversion reordered its weights

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.flattened).movedim(1, -1).flatten(1) if self.flattened else x


class Reshape(nn.Module):
    """`keras.layers.Reshape`, in Keras's order of the numbers: `target_shape` is `(H, W, C)`, `(features,)` and so on."""

    def __init__(self, target_shape: Sequence[int]) -> None:
        super().__init__()
        self.target_shape = tuple(target_shape)

    def extra_repr(self) -> str:
        return f"target_shape={self.target_shape}"

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(channels_last(x).reshape(len(x), *self.target_shape))
