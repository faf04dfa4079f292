"""One module for one Keras layer: PyTorch's own class, under Keras's name, with Keras's defaults and its activation.

The activation is part of the layer, so that what a layer returns (and what a hook on it sees) is what Keras calls that
layer's output. Tensors are channels-first, `(N, C, H, W)`; parameters are PyTorch's, `weight` and `bias`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import Activation, ActivationFunction, get_activation

Size = int | Sequence[int]


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
        size, stride = _pair(kernel_size), _pair(strides)
        uneven = padding == "same" and (stride != (1, 1) or any(length % 2 == 0 for length in size))
        super().__init__(
            in_channels,
            filters,
            size,
            stride,
            padding="valid" if uneven else padding,
            dilation=_pair(dilation_rate),
            groups=groups,
            bias=use_bias,
        )
        self.pads_as_keras = uneven  # what PyTorch can't do by itself, or not well
        self.activation = _fused(activation)

    def extra_repr(self) -> str:
        padding = ", padding=same" if self.pads_as_keras else ""
        return f"{super().extra_repr()}{padding}, activation={_name(self.activation)}"

    def reset_parameters(self) -> None:
        _initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        _check_alike(x, self.weight)
        if self.pads_as_keras:
            x = F.pad(x, _same_padding(x, self.kernel_size, self.stride, self.dilation))
        return self.activation(super().forward(x))


class Dense(nn.Linear):
    """`keras.layers.Dense`: `(N, in_features)` → `(N, units)`; `weight` is `(units, in_features)`.

    On `(N, in_features, H, W)` it acts at each place by itself, as Keras's does.
    """

    def __init__(self, in_features: int, units: int, activation: Activation = None, use_bias: bool = True) -> None:
        super().__init__(in_features, units, use_bias)
        self.activation = _fused(activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={_name(self.activation)}"

    def reset_parameters(self) -> None:
        _initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        _check_alike(x, self.weight)
        if x.dim() == 4:
            return self.activation(super().forward(x.movedim(1, -1)).movedim(-1, 1))
        return self.activation(super().forward(x))


def _check_alike(x: Tensor, weight: Tensor) -> None:
    """Raises a ValueError unless a layer's input has the type and the device of its weights. Autocast sees to the type.

    PyTorch would find most of it, in its kernels' own words; and compute with what isn't there if weights are on "meta".
    """
    has_type = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
    if not has_type or x.device != weight.device:
        raise ValueError(
            f"expected a tensor like the weights, {weight.dtype} on {weight.device}. Received: {x.dtype} on {x.device}"
        )


def _fused(activation: Activation) -> ActivationFunction:
    """The activation for a layer that calls it on its own fresh result, which ReLU may overwrite: no second buffer."""
    return relu_in_place if activation == "relu" else get_activation(activation)


def relu_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def _name(activation: ActivationFunction) -> str:
    name: str = getattr(activation, "__name__", type(activation).__name__)
    return name.removesuffix("_in_place")


def _initialise_as_keras(layer: nn.Conv2d | nn.Linear) -> None:
    """Keras's defaults: Glorot uniform weights, zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _same_padding(x: Tensor, size: Any, strides: Any, dilation: Any = (1, 1)) -> list[int]:
    """What `F.pad` needs for Keras's padding "same": as many places as strides fit, what is odd comes last."""
    padding: list[int] = []
    for n, k, s, d in zip(x.shape[2:], size, strides, dilation, strict=True):
        lack = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        padding = [lack // 2, lack - lack // 2, *padding]  # F.pad begins with the last axis
    return padding


class _Pooling(nn.Module):
    """What the two poolings have in common: Keras's arguments for PyTorch's pooling, the next class."""

    def __init__(self, pool_size: Size = 2, strides: Size | None = None, padding: str = "valid") -> None:
        super().__init__(_pair(pool_size), None if strides is None else _pair(strides))
        self.pads_as_keras = padding == "same"

    def extra_repr(self) -> str:
        return super().extra_repr() + (", padding=same" if self.pads_as_keras else "")


class MaxPooling2D(_Pooling, nn.MaxPool2d):
    """`keras.layers.MaxPooling2D`: `(N, C, H, W)` → `(N, C, H', W')`, the largest of each window.

    With `padding` "valid" an incomplete window at the edge is left out.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_as_keras:
            x = F.pad(x, _same_padding(x, self.kernel_size, self.stride), value=-torch.inf)
        return super().forward(x)


class AveragePooling2D(_Pooling, nn.AvgPool2d):
    """`keras.layers.AveragePooling2D`: `(N, C, H, W)` → `(N, C, H', W')`, the mean of each window.

    What is padded for "same" doesn't count.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.pads_as_keras:
            return super().forward(x)
        padding = _same_padding(x, self.kernel_size, self.stride)
        inside = F.pad(torch.ones_like(x[:1, :1]), padding)
        return super().forward(F.pad(x, padding)) / super().forward(inside)


class _GlobalPooling(nn.Module):
    def __init__(self, keepdims: bool = False) -> None:
        super().__init__()
        self.keepdims = keepdims

    def extra_repr(self) -> str:
        return "keepdims=True" if self.keepdims else ""


class GlobalAveragePooling2D(_GlobalPooling):
    """`keras.layers.GlobalAveragePooling2D`: `(N, C, H, W)` → `(N, C)`, or `(N, C, 1, 1)` with `keepdims`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=self.keepdims)


class GlobalMaxPooling2D(_GlobalPooling):
    """`keras.layers.GlobalMaxPooling2D`: `(N, C, H, W)` → `(N, C)`, or `(N, C, 1, 1)` with `keepdims`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3), keepdim=self.keepdims)


class ZeroPadding2D(nn.ZeroPad2d):
    """`keras.layers.ZeroPadding2D`: `padding` is `((top, bottom), (left, right))`."""

    def __init__(self, padding: Sequence[Sequence[int]] = ((1, 1), (1, 1))) -> None:
        (top, bottom), (left, right) = padding
        super().__init__((left, right, top, bottom))


class Flatten(nn.Flatten):
    """`keras.layers.Flatten`: `(N, C, H, W)` → `(N, C * H * W)`.

    Keras flattens in the order `(H, W, C)`: the conversion brings the rows of the Dense that follows into this one. Where
    no Dense follows and the order is seen, `order` is "channels_last", and it is Keras's.
    """

    def __init__(self, order: str = "channels_first") -> None:
        super().__init__()
        self.order = order

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.order == "channels_first" else f", order={self.order}")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.order == "channels_first" else x.movedim(1, -1))


class KerasOrder:
    """Puts the flattened features of a chain of layers, PyTorch's `(C, H, W)`, into Keras's order, `(H, W, C)`.

    Call `enter` with each layer and the shape that goes into it, and the object itself with what comes out.
    """

    def __init__(self) -> None:
        self.flattened: tuple[int, ...] | None = None  # (C, H, W)

    def enter(self, layer: nn.Module, shape: Sequence[Any]) -> None:
        if isinstance(layer, nn.Flatten):
            if len(shape) == 4 and getattr(layer, "order", "channels_first") == "channels_first":
                self.flattened = tuple(shape[1:])
        elif any(isinstance(module, nn.Linear) for module in layer.modules()):
            self.flattened = None  # its rows were permuted in the conversion

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.flattened).movedim(1, -1).flatten(1) if self.flattened else x


class Reshape(nn.Module):
    """`keras.layers.Reshape`: the numbers keep Keras's order, channels last; `target_shape` is Keras's.

    `(N, C, H, W)` or `(N, features)` → `(N, C', H', W')` for a target of three sizes, `(N, features)` for one.
    """

    def __init__(self, target_shape: Sequence[int]) -> None:
        super().__init__()
        self.target_shape = tuple(target_shape)

    def extra_repr(self) -> str:
        return f"target_shape={self.target_shape}"

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(len(x), *self.target_shape).movedim(-1, 1)
