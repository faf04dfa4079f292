"""One module for one Keras layer: PyTorch's own class, under Keras's name, with Keras's defaults and its activation.

The activation is part of the layer, so that what a layer returns (and what a hook on it sees) is what Keras calls that
layer's output. Tensors are channels-first, `(N, C, H, W)`; parameters are PyTorch's, `weight` and `bias`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .activations import Activation, ActivationFunction, get_activation


class Conv2D(nn.Conv2d):
    """`keras.layers.Conv2D`: `(N, in_channels, H, W)` → `(N, filters, H', W')`; `weight` is `(filters, in, kh, kw)`."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int | tuple[int, int],
        padding: str = "valid",
        activation: Activation = None,
    ) -> None:
        super().__init__(in_channels, filters, kernel_size, padding=padding)
        self.activation = _fused(activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={_name(self.activation)}"

    def reset_parameters(self) -> None:
        _initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


class Dense(nn.Linear):
    """`keras.layers.Dense`: `(N, in_features)` → `(N, units)`; `weight` is `(units, in_features)`."""

    def __init__(self, in_features: int, units: int, activation: Activation = None) -> None:
        super().__init__(in_features, units)
        self.activation = _fused(activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={_name(self.activation)}"

    def reset_parameters(self) -> None:
        _initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def _fused(activation: Activation) -> ActivationFunction:
    """The activation for a layer that calls it on its own fresh result, which ReLU may overwrite: no second buffer."""
    return _relu if activation == "relu" else get_activation(activation)


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def _name(activation: ActivationFunction) -> str:
    return getattr(activation, "__name__", type(activation).__name__).lstrip("_")


def _initialise_as_keras(layer: nn.Conv2d | nn.Linear) -> None:
    """Keras's defaults: Glorot uniform weights, zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MaxPooling2D(nn.MaxPool2d):
    """`keras.layers.MaxPooling2D`: the largest of each window; an incomplete window at the edge is left out."""

    def __init__(self, pool_size: int | tuple[int, int] = 2) -> None:
        super().__init__(pool_size)


class Flatten(nn.Flatten):
    """`keras.layers.Flatten`: `(N, C, H, W)` → `(N, C * H * W)`.

    Keras flattens in the order `(H, W, C)`: the conversion brings the rows of the Dense that follows into this one.
    """


class GlobalAveragePooling2D(nn.Module):
    """`keras.layers.GlobalAveragePooling2D`: `(N, C, H, W)` → `(N, C)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class GlobalMaxPooling2D(nn.Module):
    """`keras.layers.GlobalMaxPooling2D`: `(N, C, H, W)` → `(N, C)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


# What a configuration's class builds; `n` is the number of input channels (of features, after a Flatten).
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "Conv2D": lambda n, kernel_size, **config: Conv2D(n, kernel_size=tuple(kernel_size), **config),
    "Dense": Dense,
    "MaxPooling2D": lambda n, pool_size: MaxPooling2D(tuple(pool_size)),
    "Flatten": lambda n: Flatten(),
    "GlobalAveragePooling2D": lambda n: GlobalAveragePooling2D(),
    "GlobalMaxPooling2D": lambda n: GlobalMaxPooling2D(),
}


def from_config(class_name: str, config: dict[str, Any], in_features: int) -> nn.Module:
    """The layer that a Keras class name and configuration describe.

    Raises:
        ValueError: there is no such layer here.
    """
    if class_name not in _BUILDERS:
        raise ValueError(f"expected a layer out of {', '.join(_BUILDERS)}. Received: {class_name!r}")
    return _BUILDERS[class_name](in_features, **config)
