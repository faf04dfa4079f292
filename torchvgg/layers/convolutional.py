"""Convolutions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import Activation, activation_name, fused
from .shared import Config, Shapes, Size, check_like_weights, initialise_as_keras, pair, same_padding, single

__all__ = ["Conv1D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D"]


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
