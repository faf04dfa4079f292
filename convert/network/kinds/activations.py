"""Activations: Keras's functions by their names, and the layers that are nothing else."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...layout import UNCHANGED
from .kind import KINDS, Arrays, Features, Kind, Settings, Spec
from .validators import REQUIRED, Setting, anything, axes, number

ACTIVATION = Setting("linear", anything)  # validated by `settings.read_settings`


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (x / 6 + 0.5).clamp(0, 1)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _softmax(x: Tensor, axis: int = -1) -> Tensor:
    powers = (x - x.amax(axis, keepdim=True)).exp()
    return powers / powers.sum(axis, keepdim=True)


def _sparsemax(x: Tensor) -> Tensor:
    """Keras 3's, which adds up all of the sums that the paper takes the last of."""
    output = torch.empty_like(x)
    for index in itertools.product(*map(range, x.shape[:-1])):
        ordered = sorted(x[index].tolist(), reverse=True)
        sums = list(itertools.accumulate(ordered))
        support = [total for k, total in enumerate(sums) if ordered[k] > (total - 1) / (k + 1)]
        threshold = (sum(support) - 1) / len(support)
        output[index] = (x[index] - threshold).clamp_min(0)
    return output


# Keras 3's activations by name, and what Keras 2 called hard_sigmoid, as formulas on channels-last float64.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": lambda x: x.clamp_min(0),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
    "elu": lambda x: torch.where(x > 0, x, x.expm1()),
    "celu": lambda x: torch.where(x > 0, x, x.expm1()),
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * x.expm1()),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "swish": lambda x: x / (1 + (-x).exp()),
    "mish": lambda x: x * _softplus(x).tanh(),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + x.abs()),
    "squareplus": lambda x: (x + (x * x + 4).sqrt()) / 2,
    "sparse_plus": lambda x: torch.where(x <= -1, 0, torch.where(x < 1, (x + 1) ** 2 / 4, x)),
    "exponential": lambda x: x.exp(),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "log_sigmoid": lambda x: -_softplus(-x),
    "hard_sigmoid": _hard_sigmoid,
    "keras2_hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "sparse_sigmoid": lambda x: (x / 2 + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
    "hard_tanh": lambda x: x.clamp(-1, 1),
    "tanh_shrink": lambda x: x - x.tanh(),
    "hard_shrink": lambda x: torch.where(x.abs() > 0.5, x, 0),
    "soft_shrink": lambda x: torch.where(x.abs() > 0.5, x - x.sign() / 2, 0),
    "softmax": _softmax,
    "log_softmax": lambda x: x - x.logsumexp(-1, keepdim=True),
    "sparsemax": _sparsemax,
}


def activate(activation: str | dict[str, Any], x: Tensor) -> Tensor:
    """Computes an activation, given by its name, or by the class and the settings of a layer that stands as one."""
    if isinstance(activation, dict):
        return KINDS[activation["class_name"]].reference(activation["config"], [], x)
    return ACTIVATIONS[activation](x.double()).to(x.dtype)


class Activation(Kind):
    settings = {"activation": ACTIVATION._replace(default=REQUIRED)}
    any_order = True
    is_steep = True


class ReLU(Kind):
    settings = {
        "max_value": Setting(None, number),
        "negative_slope": Setting(0.0, number),
        "threshold": Setting(0.0, number),
    }
    any_order = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        threshold, most = settings["threshold"], settings["max_value"]
        kept = torch.where(x > threshold, x, settings["negative_slope"] * (x - threshold))
        return kept if most is None else kept.clamp_max(most)


class LeakyReLU(Kind):
    settings = {"negative_slope": Setting(0.3, number)}
    any_order = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, settings["negative_slope"] * x)


class PReLU(Kind):
    settings = {"shared_axes": Setting(None, axes)}
    any_order = True

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        shared = settings["shared_axes"] or ()
        if any(axis > len(x.shape) for axis in shared):
            raise ValueError(f"shared_axes={shared!r} of an input of shape {(None, *x.shape)}")
        shape = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape, start=1))
        yield Spec("weight", shape, UNCHANGED if shape == (1,) else x.per_feature)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, arrays[0] * x)


class ELU(Kind):
    settings = {"alpha": Setting(1.0, number)}
    any_order = True
    is_steep = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, settings["alpha"] * x.expm1())


class ThresholdedReLU(Kind):
    settings = {"theta": Setting(1.0, number)}
    any_order = True
    is_steep = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where(x > settings["theta"], x, 0)


class Softmax(Kind):
    settings = {"axis": Setting(-1, anything)}
    only = {"axis": (-1, 1, 2)}
    any_order = True
    is_steep = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return _softmax(x.double(), settings["axis"]).float()
