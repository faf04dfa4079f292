"""Convolutions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import Activation, activation_name, fused
from .padding import same_padding
from .shared import Config, Shapes, Size, check_like_weights, initialise_as_keras, pair, single

__all__ = ["Conv1D", "Conv2D", "Conv2DTranspose", "Deconvolution2D", "DepthwiseConv2D", "SeparableConv2D"]


class Conv1D(nn.Conv1d):
    """`keras.layers.Conv1D`: `(N, time, in_channels)` → `(N, time', filters)`; `weight` is `(filters, in, k)`.

    With padding "causal" the output at a step depends on that step and those before it.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        dilation_rate: Size = 1,
        groups: int = 1,
        use_bias: bool = True,
        activation: Activation = None,
    ) -> None:
        size, stride, dilation = single(kernel_size), single(strides), single(dilation_rate)
        super().__init__(in_channels, filters, size, stride, 0, dilation, groups, use_bias)
        self.keras_padding = padding
        self.activation = fused(activation)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["weight"][1] * config.get("groups", 1)}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, padding={self.keras_padding}, activation={activation_name(self.activation)}"

    reset_parameters = initialise_as_keras

    def forward(self, x: Tensor) -> Tensor:
        check_like_weights(x, self.weight)
        x = x.transpose(1, 2)
        if self.keras_padding == "causal":
            x = F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0))
        elif self.keras_padding == "same":
            x = F.pad(x, same_padding(x, self.kernel_size, self.stride, self.dilation))
        return self.activation(super().forward(x).transpose(1, 2))


class Conv2D(nn.Conv2d):
    """`keras.layers.Conv2D`: `(N, in_channels, H, W)` → `(N, filters, H', W')`; `weight` is `(filters, in, kh, kw)`."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        dilation_rate: Size = 1,
        groups: int = 1,
        use_bias: bool = True,
        activation: Activation = None,
    ) -> None:
        size, stride = pair(kernel_size), pair(strides)
        uneven = padding == "same" and (stride != (1, 1) or any(length % 2 == 0 for length in size))
        super().__init__(
            in_channels, filters, size, stride, "valid" if uneven else padding, pair(dilation_rate), groups, use_bias
        )
        self.pads_as_keras = uneven  # PyTorch can't with strides, and copies for an even kernel
        self.activation = fused(activation)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["weight"][1] * config.get("groups", 1)}

    def extra_repr(self) -> str:
        padding = ", padding=same" if self.pads_as_keras else ""
        return f"{super().extra_repr()}{padding}, activation={activation_name(self.activation)}"

    reset_parameters = initialise_as_keras

    def forward(self, x: Tensor) -> Tensor:
        check_like_weights(x, self.weight)
        if self.pads_as_keras:
            x = F.pad(x, same_padding(x, self.kernel_size, self.stride, self.dilation))
        return self.activation(super().forward(x))


class Conv2DTranspose(nn.ConvTranspose2d):
    """`keras.layers.Conv2DTranspose`: `(N, in_channels, H, W)` → `(N, filters, H', W')`; `weight` is `(in, filters, kh, kw)`.

    With padding "same", `H'` is `H * strides[0]`, unless there is `output_padding`. Then `H'` is longer, by that, than
    `(H - 1) * strides[0]`, plus 1 for an odd kernel; with "valid", than the least that has room for all windows.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        output_padding: Size | None = None,
        dilation_rate: Size = 1,
        use_bias: bool = True,
        activation: Activation = None,
    ) -> None:
        size, stride, dilation = pair(kernel_size), pair(strides), pair(dilation_rate)
        extra = (None, None) if output_padding is None else pair(output_padding)
        surplus = [_surplus(*axis, padding) for axis in zip(size, stride, dilation, extra, strict=True)]
        cut, added = ([max(sign * n, 0) for n in surplus] for sign in (1, -1))
        halves = [n // 2 for n in cut]
        super().__init__(in_channels, filters, size, stride, pair(halves), pair(added), 1, use_bias, dilation)
        self.odd = [n % 2 for n in cut]  # PyTorch cuts as much off before as after
        self.activation = fused(activation)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["weight"][0]}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={activation_name(self.activation)}"

    reset_parameters = initialise_as_keras

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        check_like_weights(x, self.weight)
        x = super().forward(x, output_size)
        return self.activation(x[..., : x.shape[-2] - self.odd[0], : x.shape[-1] - self.odd[1]])


def _surplus(size: int, stride: int, dilation: int, extra: int | None, padding: str) -> int:
    """Counts the rows, or columns, that a transposed convolution computes beyond those of Keras; negative if too few."""
    reach = dilation * (size - 1) + 1
    if padding == "same":
        return reach - stride if extra is None else reach - reach % 2 - extra
    return min(reach - stride, 0) if extra is None else -extra


class Deconvolution2D(Conv2DTranspose):
    """`Deconvolution2D` of Keras 1, a `Conv2DTranspose`; the conversion goes by the name, since Keras's arrays differ."""


class DepthwiseConv2D(Conv2D):
    """`keras.layers.DepthwiseConv2D`: `(N, C, H, W)` → `(N, C * depth_multiplier, H', W')`; `weight` has a group for each channel."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        dilation_rate: Size = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
        activation: Activation = None,
    ) -> None:
        filters = in_channels * depth_multiplier
        super().__init__(
            in_channels, filters, kernel_size, strides, padding, dilation_rate, in_channels, use_bias, activation
        )

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["weight"][0] // config.get("depth_multiplier", 1)}


class SeparableConv2D(nn.Module):
    """`keras.layers.SeparableConv2D`: a depthwise convolution, then one of 1×1: `(N, in_channels, H, W)` → `(N, filters, H', W')`."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        dilation_rate: Size = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
        activation: Activation = None,
    ) -> None:
        super().__init__()
        channels, self.kernel_size = in_channels * depth_multiplier, pair(kernel_size)
        self.depthwise_weight = nn.Parameter(torch.empty(channels, 1, *self.kernel_size))
        self.pointwise_weight = nn.Parameter(torch.empty(filters, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(filters)) if use_bias else None
        self.strides, self.padding, self.dilation_rate = pair(strides), padding, pair(dilation_rate)
        self.groups, self.activation = in_channels, fused(activation)
        nn.init.xavier_uniform_(self.depthwise_weight)
        nn.init.xavier_uniform_(self.pointwise_weight)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["depthwise_weight"][0] // config.get("depth_multiplier", 1)}

    def extra_repr(self) -> str:
        filters = len(self.pointwise_weight)
        return (
            f"{self.groups}, {filters}, kernel_size={self.kernel_size}, strides={self.strides}, padding={self.padding}"
        )

    def forward(self, x: Tensor) -> Tensor:
        check_like_weights(x, self.pointwise_weight)
        if self.padding == "same":
            x = F.pad(x, same_padding(x, self.kernel_size, self.strides, self.dilation_rate))
        x = F.conv2d(x, self.depthwise_weight, None, self.strides, 0, self.dilation_rate, self.groups)
        return self.activation(F.conv2d(x, self.pointwise_weight, self.bias))
