"""Activations as layers of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import activations


class Activation(nn.Module):
    """`keras.layers.Activation`: one of Keras's activations by its name."""

    def __init__(self, activation: activations.Activation) -> None:
        super().__init__()
        self.activation = activations.get_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


class ReLU(nn.Module):
    """`keras.layers.ReLU`: zero, or a slope, under `threshold`; no more than `max_value`."""

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0) -> None:
        super().__init__()
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def forward(self, x: Tensor) -> Tensor:
        x = torch.where(x >= self.threshold, x, self.negative_slope * (x - self.threshold))
        return x if self.max_value is None else x.clamp_max(self.max_value)


class LeakyReLU(nn.LeakyReLU):
    """`keras.layers.LeakyReLU`."""

    def __init__(self, negative_slope: float = 0.3) -> None:
        super().__init__(negative_slope)


class PReLU(nn.Module):
    """`keras.layers.PReLU`: a slope for each feature; `weight` is `(C, H, W)`, an axis of 1 where it is shared."""

    def __init__(self, shape: Sequence[int], shared_axes: Sequence[int] | None = None) -> None:
        super().__init__()  # the shape says which axes are shared
        self.weight = nn.Parameter(torch.zeros(tuple(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.weight * F.relu(-x)


class ELU(nn.ELU):
    """`keras.layers.ELU`."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)


class Softmax(nn.Module):
    """`keras.layers.Softmax`; `axis` is Keras's, where the channels are the last."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, dim=1 if self.axis == -1 else self.axis + 1)
