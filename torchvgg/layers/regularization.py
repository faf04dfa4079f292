"""Dropout and noise: active in training, the identity at inference."""

import torch
from torch import Tensor, nn

__all__ = ["AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D", "SpatialDropout2D"]


class _ByRate(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__(rate)  # the `p` of PyTorch's dropout, the next base class


class Dropout(_ByRate, nn.Dropout):
    """`keras.layers.Dropout`."""


class SpatialDropout1D(_ByRate, nn.Dropout1d):
    """`keras.layers.SpatialDropout1D`: drops whole features of `(N, time, features)`, at all times."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class SpatialDropout2D(_ByRate, nn.Dropout2d):
    """`keras.layers.SpatialDropout2D`: drops whole channels."""


class AlphaDropout(_ByRate, nn.AlphaDropout):
    """`keras.layers.AlphaDropout`: keeps mean and variance, for selu."""


class GaussianDropout(nn.Module):
    """`keras.layers.GaussianDropout`: multiplies by normal noise of mean 1 and variance `rate / (1 - rate)`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.randn_like(x) * (self.rate / (1 - self.rate)) ** 0.5) if self.training else x


class GaussianNoise(nn.Module):
    """`keras.layers.GaussianNoise`: adds normal noise of standard deviation `stddev`."""

    def __init__(self, stddev: float) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * self.stddev if self.training else x
