"""Keras's built-in activations as functions of one tensor, images channels-first, by Keras's names."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

ActivationFunction: TypeAlias = Callable[[Tensor], Tensor]
Activation: TypeAlias = str | ActivationFunction | None


def channel_axis(x: Tensor) -> int:
    """Returns the axis of the channels: the third from the end of images, `(N, C, H, W)`, else the last, `(N, time, C)`."""
    return -3 if x.dim() > 3 else -1


def linear(x: Tensor) -> Tensor:
    return x


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def keras2_hard_sigmoid(x: Tensor) -> Tensor:
    """Computes Keras 2's `hard_sigmoid`; Keras 3's is PyTorch's."""
    return torch.clamp(0.2 * x + 0.5, 0, 1)


def softmax(x: Tensor) -> Tensor:
    return F.softmax(x, dim=channel_axis(x))


def log_softmax(x: Tensor) -> Tensor:
    return F.log_softmax(x, dim=channel_axis(x))


def glu(x: Tensor) -> Tensor:
    return F.glu(x, dim=channel_axis(x))


def squareplus(x: Tensor) -> Tensor:
    return (x + torch.sqrt(x * x + 4)) / 2


def sparse_plus(x: Tensor) -> Tensor:
    return torch.where(x >= 1, x, torch.relu(x + 1) ** 2 / 4)


def sparse_sigmoid(x: Tensor) -> Tensor:
    return torch.clamp((x + 1) / 2, 0, 1)


def sparsemax(x: Tensor) -> Tensor:
    """Computes Keras 3's sparsemax, whose threshold sums the support's cumulative sums instead of taking the last.

    So it is the projection onto the simplex of arXiv 1602.02068 only if one feature is far larger than the others.
    """
    axis = channel_axis(x)
    ordered = x.sort(axis, descending=True).values
    rank = torch.arange(1, x.shape[axis] + 1, dtype=x.dtype, device=x.device)
    rank = rank.reshape(-1, *[1] * (-axis - 1))
    sums = ordered.cumsum(axis)
    support = ordered - (sums - 1) / rank > 0
    threshold = (torch.where(support, sums, 0).sum(axis, keepdim=True) - 1) / support.sum(axis, keepdim=True)
    return torch.relu(x - threshold)


ACTIVATIONS: dict[str, ActivationFunction] = {
    "celu": F.celu,
    "elu": F.elu,
    "exponential": torch.exp,
    "gelu": F.gelu,
    "glu": glu,
    "hard_shrink": F.hardshrink,
    "hard_sigmoid": F.hardsigmoid,
    "hard_silu": F.hardswish,
    "hard_swish": F.hardswish,
    "hard_tanh": F.hardtanh,
    "keras2_hard_sigmoid": keras2_hard_sigmoid,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "log_sigmoid": F.logsigmoid,
    "log_softmax": log_softmax,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "soft_shrink": F.softshrink,
    "softmax": softmax,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sparse_plus": sparse_plus,
    "sparse_sigmoid": sparse_sigmoid,
    "sparsemax": sparsemax,
    "squareplus": squareplus,
    "swish": F.silu,
    "tanh": torch.tanh,
    "tanh_shrink": F.tanhshrink,
}


def get_activation(activation: Activation) -> ActivationFunction:
    """Returns the function of a Keras activation, given by name, as a function of one tensor, or None for the identity.

    Raises:
        ValueError: Keras has no such activation.
    """
    if activation is None:
        return linear
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"unknown activation: expected None, a function, or one of {known}. Received: {activation!r}")
    return ACTIVATIONS[activation]


def fused(activation: Activation) -> ActivationFunction:
    """Returns the activation for a layer to call on its own fresh result, which ReLU overwrites to save a buffer."""
    return relu_in_place if activation == "relu" else get_activation(activation)


def relu_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def activation_name(activation: ActivationFunction) -> str:
    return getattr(activation, "__name__", type(activation).__name__).removesuffix("_in_place")
