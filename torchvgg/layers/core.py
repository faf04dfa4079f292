"""Dense, the fully connected layer."""

from typing import Any

from torch import Tensor, nn

from ..activations import Activation, activation_name, fused
from .shared import Config, Shapes, channels_first, channels_last, check_like_weights, initialise_as_keras

__all__ = ["Dense"]


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
