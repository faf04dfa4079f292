"""Activations as layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import Activation as ActivationName
from ..activations import get_activation
from .shared import Config, Shapes, torch_axis

__all__ = ["ELU", "Activation", "LeakyReLU", "PReLU", "ReLU", "Softmax", "ThresholdedReLU"]


class Activation(nn.Module):
    """`keras.layers.Activation`: an activation by its name, or any function of one tensor."""

    def __init__(self, activation: ActivationName) -> None:
        super().__init__()
        self.activation = get_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


class ReLU(nn.Module):
    """`keras.layers.ReLU`: zero or a slope below `threshold`, at most `max_value`."""

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0) -> None:
        super().__init__()
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def forward(self, x: Tensor) -> Tensor:
        x = torch.where(x > self.threshold, x, self.negative_slope * (x - self.threshold))
        return x if self.max_value is None else x.clamp_max(self.max_value)


class LeakyReLU(nn.LeakyReLU):
    """`keras.layers.LeakyReLU`."""

    def __init__(self, negative_slope: float = 0.3) -> None:
        super().__init__(negative_slope)


class PReLU(nn.Module):
    """`keras.layers.PReLU`: a slope for each feature; `weight` is `(C, H, W)`, with 1 for shared axes."""

    def __init__(self, shape: Sequence[int], shared_axes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tuple(shape)))  # its 1s are the shared axes

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"shape": shapes["weight"]}

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.weight * F.relu(-x)


class ELU(nn.ELU):
    """`keras.layers.ELU`: `alpha` is 1 by default."""


class ThresholdedReLU(nn.Threshold):
    """`keras.layers.ThresholdedReLU`, of Keras 1 and 2: zero up to `theta`."""

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__(theta, 0.0)


class Softmax(nn.Module):
    """`keras.layers.Softmax`; `axis` counts Keras's axes, channels last."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, torch_axis(self.axis, x.dim()))
