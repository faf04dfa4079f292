"""Convolutions."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import Activation, activation_name, fused
from .shared import Config, Shapes, Size, check_like_weights, initialise_as_keras, pair, same_padding

__all__ = ["Conv2D"]


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
            in_channels,
            filters,
            size,
            stride,
            padding="valid" if uneven else padding,
            dilation=pair(dilation_rate),
            groups=groups,
            bias=use_bias,
        )
        self.pads_as_keras = uneven  # PyTorch can't with strides, and copies for an even kernel
        self.activation = fused(activation)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_channels": shapes["weight"][1] * config.get("groups", 1)}

    def extra_repr(self) -> str:
        padding = ", padding=same" if self.pads_as_keras else ""
        return f"{super().extra_repr()}{padding}, activation={activation_name(self.activation)}"

    def reset_parameters(self) -> None:
        initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        check_like_weights(x, self.weight)
        if self.pads_as_keras:
            x = F.pad(x, same_padding(x, self.kernel_size, self.stride, self.dilation))
        return self.activation(super().forward(x))
