"""Dense, the fully connected layer, Embedding and Masking."""

from typing import Any

import torch
from torch import Tensor, nn

from ..activations import Activation, activation_name, fused
from .shared import Config, Shapes, channels_first, channels_last, check_like_weights, initialise_as_keras

__all__ = ["Dense", "Embedding", "Masking"]


class Dense(nn.Linear):
    """`keras.layers.Dense`: `(N, in_features)` → `(N, units)`; `weight` is `(units, in_features)`.

    On `(N, in_features, H, W)` and `(N, time, in_features)` it acts at each place by itself, as Keras's does.
    """

    def __init__(self, in_features: int, units: int, activation: Activation = None, use_bias: bool = True) -> None:
        super().__init__(in_features, units, use_bias)
        self.activation = fused(activation)

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"in_features": shapes["weight"][1]}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={activation_name(self.activation)}"

    reset_parameters = initialise_as_keras

    def forward(self, x: Tensor) -> Tensor:
        check_like_weights(x, self.weight)
        return self.activation(channels_first(super().forward(channels_last(x))))


class Embedding(nn.Embedding):
    """`keras.layers.Embedding`: indices `(N, time)` → `(N, time, output_dim)`; `weight` is `(input_dim, output_dim)`.

    The indices may be floating-point numbers, which are cast to integers as in Keras. `mask_zero` says that 0 is padding,
    for layers that heed a mask; the output is the same.
    """

    def __init__(self, input_dim: int, output_dim: int, mask_zero: bool = False) -> None:
        super().__init__(input_dim, output_dim)
        self.mask_zero = mask_zero

    def extra_repr(self) -> str:
        return super().extra_repr() + (", mask_zero=True" if self.mask_zero else "")

    def reset_parameters(self) -> None:
        """Initialises as Keras does by default."""
        nn.init.uniform_(self.weight, -0.05, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(super().forward(channels_last(x).long()))


class Masking(nn.Module):
    """`keras.layers.Masking` on `(N, time, features)`: steps that are `mask_value` throughout become 0.

    They are the mask of layers that heed one, which the network computes beside it.
    """

    def __init__(self, mask_value: float = 0.0) -> None:
        super().__init__()
        self.mask_value = mask_value

    def extra_repr(self) -> str:
        return f"mask_value={self.mask_value}"

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x == self.mask_value).all(-1, keepdim=True), 0, x)
