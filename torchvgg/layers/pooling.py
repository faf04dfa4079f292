"""Pooling over windows and over whole maps."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .padding import same_padding
from .shared import Size, pair, single

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "MaxPooling1D",
    "MaxPooling2D",
]


class _Pooling(nn.Module):
    """Passes Keras's arguments to PyTorch's pooling, the next base class."""

    as_tuple: Callable[[Size], tuple[int, ...]] = staticmethod(pair)

    def __init__(self, pool_size: Size = 2, strides: Size | None = None, padding: str = "valid") -> None:
        super().__init__(self.as_tuple(pool_size), None if strides is None else self.as_tuple(strides))
        self.pads_as_keras = padding == "same"

    def extra_repr(self) -> str:
        return super().extra_repr() + (", padding=same" if self.pads_as_keras else "")


class _MaxPooling(_Pooling):
    def forward(self, x: Tensor) -> Tensor:
        if self.pads_as_keras:
            x = F.pad(x, same_padding(x, self.kernel_size, self.stride), value=-torch.inf)
        return super().forward(x)


class _AveragePooling(_Pooling):
    def forward(self, x: Tensor) -> Tensor:
        if not self.pads_as_keras:
            return super().forward(x)
        padding = same_padding(x, self.kernel_size, self.stride)
        inside = F.pad(torch.ones_like(x[:1, :1]), padding)
        return super().forward(F.pad(x, padding)) / super().forward(inside)


class MaxPooling2D(_MaxPooling, nn.MaxPool2d):
    """`keras.layers.MaxPooling2D`: `(N, C, H, W)` → `(N, C, H', W')`, the largest of each window.

    With padding "valid", incomplete windows at the edge are dropped.
    """


class AveragePooling2D(_AveragePooling, nn.AvgPool2d):
    """`keras.layers.AveragePooling2D`: `(N, C, H, W)` → `(N, C, H', W')`, the mean of each window.

    With padding "same", padded pixels don't count.
    """


class MaxPooling1D(_MaxPooling, nn.MaxPool1d):
    """`keras.layers.MaxPooling1D`: `(N, time, C)` → `(N, time', C)`, the largest of each window.

    With padding "valid", an incomplete window at the end is dropped.
    """

    as_tuple = staticmethod(single)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class AveragePooling1D(_AveragePooling, nn.AvgPool1d):
    """`keras.layers.AveragePooling1D`: `(N, time, C)` → `(N, time', C)`, the mean of each window.

    With padding "same", padded steps don't count.
    """

    as_tuple = staticmethod(single)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _GlobalPooling(nn.Module):
    def __init__(self, keepdims: bool = False) -> None:
        super().__init__()
        self.keepdims = keepdims

    def extra_repr(self) -> str:
        return "keepdims=True" if self.keepdims else ""


class GlobalAveragePooling2D(_GlobalPooling):
    """`keras.layers.GlobalAveragePooling2D`: `(N, C, H, W)` → `(N, C)`, or `(N, C, 1, 1)` with `keepdims`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=self.keepdims)


class GlobalMaxPooling2D(_GlobalPooling):
    """`keras.layers.GlobalMaxPooling2D`: `(N, C, H, W)` → `(N, C)`, or `(N, C, 1, 1)` with `keepdims`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3), keepdim=self.keepdims)


class GlobalAveragePooling1D(_GlobalPooling):
    """`keras.layers.GlobalAveragePooling1D`: `(N, time, C)` → `(N, C)`, or `(N, 1, C)` with `keepdims`.

    `forward(x, mask)` takes the mean over the steps where `mask`, `(N, time)`, is True.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return x.mean(dim=1, keepdim=self.keepdims)
        mask = mask.unsqueeze(-1)
        return torch.where(mask, x, 0).sum(1, self.keepdims) / mask.sum(1, self.keepdims)


class GlobalMaxPooling1D(_GlobalPooling):
    """`keras.layers.GlobalMaxPooling1D`: `(N, time, C)` → `(N, C)`, or `(N, 1, C)` with `keepdims`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=1, keepdim=self.keepdims)
