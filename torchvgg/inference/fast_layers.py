"""The layers of an optimized model: each takes the output of the one before and the `Memory` of the forward pass.

A convolution computes nothing when called: it returns a `Promise`, and the next layer says where the result is to be written,
into its own padded map for example, and whether to pool it. So nothing is copied. And the calls of
kernels wait in the `Memory` until a tensor is needed: prepared between convolutions, which drive Python's code out of the
caches, each would take 0.3 ms.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ..activations import linear, relu_in_place
from ..layers.convolutional import Conv2D
from ..layers.core import Dense
from ..layers.pooling import MaxPooling2D
from ..layers.shared import channels_first, channels_last
from .native import Kernels
from .winograd import FEW, NUMBERS, Call, Map, Operators, padded_shape, transform_kernel, zeros

MANY = 2**20  # weights of a convolution that pay for being packed

Engine = Kernels | Operators  # with the same functions


class Memory:
    """The padded maps of a forward pass, and its calls that wait."""

    def __init__(self) -> None:
        # Padded maps, reused by the next forward pass of the same size: their zeros stay.
        self.maps: dict[tuple[int, ...], list[Map]] = {}
        self.waiting: list[Call] = []  # what is to be computed, in this order

    def compute(self) -> None:
        """Makes the calls that wait."""
        for call in self.waiting:
            call()
        self.waiting.clear()


class Promise(NamedTuple):
    """The output of a convolution that is computed when the next layer says where to, pooled if that is a pooling."""

    layer: FastConv2D
    source: Any  # a Map, or for few channels a tensor
    shape: tuple[int, ...]
    pool: bool = False


Features = Tensor | Promise  # a layer's output, (N, C, H, W) or (N, C)


def tensor_of(features: Features, memory: Memory) -> Tensor:
    """Returns features as a tensor, computed, with all that was waiting."""
    if isinstance(features, Promise):
        n, channels, height, width = features.shape
        y = torch.empty(n, height, width, channels, **NUMBERS)
        memory.waiting.append(features.layer.prepare(features, y))
        features = y.permute(0, 3, 1, 2)
    memory.compute()
    return features


def _map_of(features: Features, memory: Memory) -> Map:
    """Returns a padded map, not the one that features are computed from, into which they will be written."""
    n, channels, height, width = features.shape
    maps = memory.maps.setdefault((n, channels, height, width), [])
    source = features.source if isinstance(features, Promise) else None
    free = [each for each in maps if each is not source]
    if not free:
        free = [Map(zeros(*padded_shape(n, height, width, channels)), height, width)]
        maps += free
    if isinstance(features, Promise):
        memory.waiting.append(features.layer.prepare(features, free[0].image))
    else:
        memory.waiting.append(partial(free[0].image.copy_, features.permute(0, 2, 3, 1)))
    return free[0]


class FastConv2D(nn.Module):
    """A 3×3 convolution by Winograd's algorithm, or for few channels as a matrix product of its patches."""

    def __init__(self, layer: Conv2D, engine: Engine) -> None:
        super().__init__()
        self._engine, self._relu = engine, layer.activation is relu_in_place
        self.pools = layer.in_channels > FEW
        weight = layer.weight.detach()
        self._bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
        self._packed = engine.pack(transform_kernel(weight)) if self.pools else engine.pack_dense(weight)

    def forward(self, features: Features, memory: Memory) -> Promise:
        n, _, height, width = features.shape
        source = _map_of(features, memory) if self.pools else tensor_of(features, memory)
        return Promise(self, source, (n, len(self._bias), height, width))

    def prepare(self, promise: Promise, y: Tensor) -> Call:
        """Prepares a promised output into a view `(N, H, W, C)`."""
        if self.pools:
            return self._engine.convolve(promise.source, self._packed, self._bias, self._relu, promise.pool, y)
        return self._engine.convolve_few(promise.source, self._packed, self._bias, self._relu, y)


class FastDense(nn.Module):
    """A dense layer with packed weights, at each place of maps, or as a convolution on each window of them."""

    def __init__(self, layer: Dense | Conv2D, engine: Engine) -> None:
        super().__init__()
        self._engine, self._units = engine, len(layer.weight)
        self._relu = layer.activation is relu_in_place
        self._activation = linear if self._relu else copy.deepcopy(layer.activation)
        self._kernel = layer.kernel_size if isinstance(layer, Conv2D) else (1, 1)
        weight = layer.weight.detach()
        if weight.dim() == 4:  # in the order of a window's numbers
            weight = weight.permute(0, 2, 3, 1).flatten(1)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        self._packed = engine.pack_dense(weight)
        self._bias = engine.pack_dense(bias[:, None]).flatten()  # padded like the weight of one input

    def forward(self, features: Features, memory: Memory) -> Tensor:
        places = channels_last(tensor_of(features, memory))
        if self._kernel != (1, 1):
            height, width = self._kernel
            windows = places.unfold(1, height, 1).unfold(2, width, 1)  # (N, H', W', C, height, width)
            places = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
        y = self._engine.dense(places.flatten(0, -2), self._packed, self._bias, self._relu)[:, : self._units]
        return self._activation(channels_first(y.unflatten(0, places.shape[:-1])))


class Plain(nn.Module):
    """Any other layer, unchanged."""

    layer: nn.Module

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = copy.deepcopy(layer).requires_grad_(False).eval()  # no submodule: nobody can train it

    def forward(self, features: Features, memory: Memory, *others: Features) -> Features:
        y: Tensor = self.layer(*(tensor_of(each, memory) for each in (features, *others)))
        return y


class FusedPooling(Plain):
    """A 2×2 max pool, fused into the convolution before it if that is at no extra cost."""

    def forward(self, features: Features, memory: Memory, *others: Features) -> Features:
        if isinstance(features, Promise) and features.layer.pools and not features.pool:
            n, channels, height, width = features.shape
            return features._replace(shape=(n, channels, height // 2, width // 2), pool=True)
        return super().forward(features, memory)


def optimize_layer(layer: nn.Module, engine: Engine) -> nn.Module:
    """Returns a module on `Features` and `Memory` that computes the same as a layer, faster if it can."""
    if (
        isinstance(layer, Conv2D)  # and like VGG's
        and (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and layer.padding == "same"
        and layer.activation in (relu_in_place, linear)
        and engine.fits(layer.in_channels, layer.out_channels)
    ):
        return FastConv2D(layer, engine)
    if isinstance(layer, Dense) or _is_dense_on_windows(layer):
        return FastDense(layer, engine)
    if isinstance(layer, MaxPooling2D) and layer.kernel_size == layer.stride == (2, 2) and not layer.pads_as_keras:
        return FusedPooling(layer)
    return Plain(layer)


def _is_dense_on_windows(layer: nn.Module) -> TypeGuard[Conv2D]:
    """Tells whether a convolution is a product of all windows at once, and has so many weights that packing them pays.

    PyTorch's convolution reorders them at every call. The windows take less memory than VGG's first maps.
    """
    return (
        isinstance(layer, Conv2D)
        and (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        and (layer.padding == "valid" or layer.kernel_size == (1, 1))
        and not layer.pads_as_keras
        and layer.weight.numel() >= MANY
    )
