"""The layers of an optimized model and the `Features` that pass between them.

A convolution computes nothing when called: it returns a `Promise`, and the next layer says where the result is to be written,
into its own padded map for example, and whether to pool it. So nothing is copied.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..activations import linear, relu_in_place
from ..layers.convolutional import Conv2D
from ..layers.core import Dense
from ..layers.pooling import MaxPooling2D
from .winograd import NUMBERS, Map, Operators, padded_shape, transform_kernel

if TYPE_CHECKING:
    from .native import Kernels

    Engine = Kernels | Operators  # with the same functions

FEW = 16  # channels up to which a convolution is one matrix product of its patches


class Memory:
    """The padded maps of a forward pass, reused by the next one of the same size: their zeros stay."""

    def __init__(self) -> None:
        self._maps: dict[tuple[int, ...], list[Map]] = {}

    def map_for(self, features: Features) -> Map:
        """Writes features into a padded map, not the one that they are computed from, and returns it."""
        n, channels, height, width = features.shape
        maps = self._maps.setdefault((n, channels, height, width), [])
        free = [each for each in maps if each is not features.source]
        if not free:
            free = [Map(torch.zeros(padded_shape(n, height, width, channels), **NUMBERS), height, width)]
            maps += free
        features.write(free[0].image)
        return free[0]


class Features:
    """The output of a layer: a tensor, `(N, C, H, W)` or `(N, C)`."""

    source: Map | Tensor | None = None

    def __init__(self, tensor: Tensor, memory: Memory) -> None:
        self._tensor, self.memory = tensor, memory

    @property
    def shape(self) -> torch.Size:
        return self._tensor.shape

    def tensor(self) -> Tensor:
        return self._tensor

    def write(self, y: Tensor) -> None:
        """Writes the tensor into a view `(N, H, W, C)`."""
        y.copy_(self._tensor.permute(0, 2, 3, 1))

    def pooled(self) -> Features | None:
        """Returns the features after a 2×2 max pool, if pooling can be fused at no extra cost."""
        return None


class Promise(Features):
    """The output of a convolution that is computed when the next layer says where to, pooled if that is a pooling."""

    def __init__(
        self,
        layer: FastConv2D,
        source: Map | Tensor | None,
        shape: tuple[int, ...],
        memory: Memory,
        pool: bool = False,
    ) -> None:
        self._layer, self.source, self._shape, self.memory = layer, source, torch.Size(shape), memory
        self._pool = pool

    @property
    def shape(self) -> torch.Size:
        return self._shape

    def tensor(self) -> Tensor:
        n, channels, height, width = self._shape
        y = torch.empty(n, height, width, channels, **NUMBERS)
        self.write(y)
        return y.permute(0, 3, 1, 2)

    def write(self, y: Tensor) -> None:
        self._layer.compute(self.source, self._pool, y)

    def pooled(self) -> Features | None:
        if self._pool or not self._layer.pools:
            return None
        n, channels, height, width = self._shape
        return Promise(self._layer, self.source, (n, channels, height // 2, width // 2), self.memory, pool=True)


class FastConv2D(nn.Module):
    """A 3×3 convolution by Winograd's algorithm, or for few channels as a matrix product of its patches."""

    def __init__(self, layer: Conv2D, engine: Engine) -> None:
        super().__init__()
        self._engine, self._relu = engine, layer.activation is relu_in_place
        self.pools = layer.in_channels > FEW
        weight = layer.weight.detach()
        self._bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
        self._packed = engine.pack(transform_kernel(weight)) if self.pools else engine.pack_few(weight)

    def forward(self, features: Features) -> Features:
        n, _, height, width = features.shape
        source = features.memory.map_for(features) if self.pools else features.tensor()
        return Promise(self, source, (n, len(self._bias), height, width), features.memory)

    def compute(self, source: Any, pool: bool, y: Tensor) -> None:
        if self.pools:
            self._engine.convolve(source, self._packed, self._bias, self._relu, pool, y)
        else:
            self._engine.convolve_few(source, self._packed, self._bias, self._relu, y)


class FastDense(nn.Module):
    """A dense layer with packed weights."""

    def __init__(self, layer: Dense, engine: Engine) -> None:
        super().__init__()
        self._engine, self._units = engine, layer.out_features
        self._relu = layer.activation is relu_in_place
        self._activation = None if self._relu else layer.activation
        weight = layer.weight.detach()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        self._bias, self._packed = engine.padded(bias), engine.pack_dense(weight)

    def forward(self, features: Features) -> Features:
        x = features.tensor()
        places = x.movedim(1, -1)  # on a map it acts at each place by itself
        y = self._engine.dense(places.flatten(0, -2), self._packed, self._bias, self._relu)[:, : self._units]
        y = y.unflatten(0, places.shape[:-1]).movedim(-1, 1)
        return Features(self._activation(y) if self._activation else y, features.memory)


class Plain(nn.Module):
    """Any other layer, unchanged."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)

    def forward(self, features: Features) -> Features:
        return Features(self.layer(features.tensor()), features.memory)


class FusedPooling(Plain):
    """A 2×2 max pool, fused into the convolution before it if there is one."""

    def forward(self, features: Features) -> Features:
        return features.pooled() or super().forward(features)


def optimize_layer(layer: nn.Module, engine: Engine) -> nn.Module:
    """Returns a module on `Features` that computes the same as a layer, faster if it can."""
    if isinstance(layer, Conv2D) and _is_vgg_convolution(layer):
        few = layer.in_channels <= FEW
        if engine.fits_few(layer.out_channels) if few else engine.fits(layer.in_channels, layer.out_channels):
            return FastConv2D(layer, engine)
    if isinstance(layer, Dense):
        return FastDense(layer, engine)
    if (
        isinstance(layer, MaxPooling2D)
        and (layer.kernel_size, layer.stride) == ((2, 2), (2, 2))
        and not layer.pads_as_keras
    ):
        return FusedPooling(layer)
    return Plain(layer)


def _is_vgg_convolution(layer: Conv2D) -> bool:
    """Tells whether a convolution is like VGG's: 3×3, padded to the same size, stride 1, ReLU or no activation."""
    return (
        (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and layer.padding == "same"
        and layer.activation in (relu_in_place, linear)
    )
