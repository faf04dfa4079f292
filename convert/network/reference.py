"""What a layer returns, computed channels-last straight from the Keras arrays, sharing no code with the model.

It is written to be plainly right: a convolution is a sum of matrix products, one for each shift of the image; a pool is the
maximum or the mean over shifts; long sums run in float64, lest the reference be the less exact of the two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .arrays import Config


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (x / 6 + 0.5).clamp(0, 1)


def _selu(x: Tensor) -> Tensor:
    return 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * x.expm1())


def _shrink(x: Tensor, by: float) -> Tensor:
    return torch.where(x.abs() > 0.5, x - x.sign() * by, torch.zeros_like(x))


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _sparse_plus(x: Tensor) -> Tensor:
    return torch.where(x <= -1, torch.zeros_like(x), torch.where(x < 1, (x + 1) ** 2 / 4, x))


def _softmax(x: Tensor, axis: int = -1) -> Tensor:
    powers = (x - x.amax(axis, keepdim=True)).exp()
    return powers / powers.sum(axis, keepdim=True)


def _sparsemax(x: Tensor) -> Tensor:
    """Keras 3's, which adds up all of the sums that the paper takes the last of."""
    output = torch.empty_like(x)
    for index in itertools.product(*map(range, x.shape[:-1])):
        ordered = sorted(x[index].tolist(), reverse=True)
        sums = list(itertools.accumulate(ordered))
        support = [
            k for k, (value, total) in enumerate(zip(ordered, sums, strict=True)) if value > (total - 1) / (k + 1)
        ]
        threshold = (sum(sums[k] for k in support) - 1) / len(support)
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
    "selu": _selu,
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "swish": lambda x: x / (1 + (-x).exp()),
    "mish": lambda x: x * _softplus(x).tanh(),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + x.abs()),
    "squareplus": lambda x: (x + (x * x + 4).sqrt()) / 2,
    "sparse_plus": _sparse_plus,
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
    "hard_shrink": lambda x: _shrink(x, 0),
    "soft_shrink": lambda x: _shrink(x, 0.5),
    "softmax": _softmax,
    "log_softmax": lambda x: x - x.logsumexp(-1, keepdim=True),
    "sparsemax": _sparsemax,
}


def activate(activation: str | dict[str, Any], x: Tensor) -> Tensor:
    """An activation's values: of one by its name, or of a layer that stands as one."""
    if isinstance(activation, dict):
        return layer_output(activation["class_name"], activation["config"], [], x)
    return ACTIVATIONS[activation](x.double()).to(x.dtype)


def layer_output(class_name: str, config: Config, arrays: list[Tensor], x: Tensor) -> Tensor:
    """What a layer returns for `x`, `(N, H, W, C)` or `(N, features)`, at inference, its activation left off.

    Args:
        class_name: Keras's class.
        config: its settings, all of them.
        arrays: its arrays, in Keras's order and layout.
        x: what goes in.
    """
    match class_name:
        case "Conv2D":
            return _conv2d(config, arrays, x)
        case "Dense":
            # A long row of products is added up in parts, in float64.
            kernel = arrays[0]
            parts = zip(x.split(1024, dim=-1), kernel.split(1024), strict=True)
            total = sum((a.double() @ b.double() for a, b in parts), start=x.new_zeros((), dtype=torch.float64))
            return (total + arrays[1] if config["use_bias"] else total).float()
        case "MaxPooling2D":
            return torch.stack(list(_pool(config, x, -math.inf))).amax(0)
        case "AveragePooling2D":
            inside = list(_pool(config, torch.ones_like(x), 0))
            return torch.stack(list(_pool(config, x, 0))).sum(0) / torch.stack(inside).sum(0)
        case "GlobalAveragePooling2D":
            return x.double().mean((1, 2), keepdim=bool(config["keepdims"])).float()
        case "GlobalMaxPooling2D":
            return x.amax((1, 2), keepdim=bool(config["keepdims"]))
        case "ZeroPadding2D":
            return _pad(x, config["padding"], 0)
        case "Flatten":
            return x.flatten(1)
        case "Reshape":
            return x.reshape(len(x), *config["target_shape"])
        case "BatchNormalization":
            *affine, mean, variance = arrays
            return _affine((x - mean) / (variance + config["epsilon"]).sqrt(), config, affine)
        case "LayerNormalization":
            axes = (-1,) if config["axis"] == -1 else config["axis"]
            y = x.double()
            y = (y - y.mean(axes, keepdim=True)) / (y.var(axes, correction=0, keepdim=True) + config["epsilon"]).sqrt()
            return _affine(y, config, arrays).float()
        case "Normalization":
            mean, variance = arrays[:2] if arrays else (torch.tensor(config[key]) for key in ("mean", "variance"))
            deviation = variance.sqrt().clamp_min(1e-7)
            return x * deviation + mean if config["invert"] else (x - mean) / deviation
        case "Rescaling":
            return x * torch.tensor(config["scale"]) + torch.tensor(config["offset"])
        case "PreprocessInput":
            return x[..., [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68])
        case "ReLU":
            kept = torch.where(x >= config["threshold"], x, config["negative_slope"] * (x - config["threshold"]))
            return kept if config["max_value"] is None else kept.clamp_max(config["max_value"])
        case "LeakyReLU":
            return torch.where(x > 0, x, config["negative_slope"] * x)
        case "PReLU":
            return torch.where(x > 0, x, arrays[0] * x)
        case "ELU":
            return torch.where(x > 0, x, config["alpha"] * x.expm1())
        case "Softmax":
            return _softmax(x.double(), config["axis"]).float()
        case "Activation" | "Dropout" | "SpatialDropout2D" | "AlphaDropout" | "GaussianDropout" | "GaussianNoise":
            return x
    raise ValueError(f"no reference for a layer of type {class_name}")


def _conv2d(config: Config, arrays: list[Tensor], x: Tensor) -> Tensor:
    kernel = arrays[0]
    groups = config["groups"]
    outputs = []
    for part, own in zip(x.chunk(groups, -1), kernel.chunk(groups, -1), strict=True):
        shifts = _shifts(part, kernel.shape[:2], config["strides"], config["dilation_rate"], config["padding"], 0)
        total: Tensor | None = None
        for shifted, matrix in zip(shifts, own.flatten(0, 1), strict=True):
            rows = shifted.reshape(-1, shifted.shape[-1])
            total = rows @ matrix if total is None else total.addmm_(rows, matrix)
        assert total is not None
        outputs.append(total.reshape(*shifted.shape[:3], -1))
    output = torch.cat(outputs, -1)
    return output.add_(arrays[1]) if config["use_bias"] else output


def _pool(config: Config, x: Tensor, fill: float) -> Iterator[Tensor]:
    size = config["pool_size"]
    return _shifts(x, size, config["strides"] or size, (1, 1), config["padding"], fill)


def _shifts(x: Tensor, size: Any, strides: Any, dilation: Any, padding: str, fill: float) -> Iterator[Tensor]:
    """What each place of a window sees, over all positions of the window: views, `(N, H', W', C)`, row by row."""
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    if padding == "same":  # as TensorFlow pads: what is odd comes last
        lack = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(x.shape[1:3], strides, reach, strict=True)]
        x = _pad(x, [(n // 2, n - n // 2) for n in lack], fill)
    height, width = ((n - r) // s + 1 for n, s, r in zip(x.shape[1:3], strides, reach, strict=True))
    for i in range(0, reach[0], dilation[0]):
        for j in range(0, reach[1], dilation[1]):
            rows = slice(i, i + (height - 1) * strides[0] + 1, strides[0])
            yield x[:, rows, j : j + (width - 1) * strides[1] + 1 : strides[1]]


def _pad(x: Tensor, sides: Sequence[Sequence[int]], fill: float) -> Tensor:
    rows, columns = sides
    n, height, width, channels = x.shape
    padded = x.new_full((n, height + sum(rows), width + sum(columns), channels), fill)
    padded[:, rows[0] : rows[0] + height, columns[0] : columns[0] + width] = x
    return padded


def _affine(x: Tensor, config: Config, arrays: list[Tensor]) -> Tensor:
    """Times gamma, plus beta, where the layer has them."""
    remaining = iter(arrays)
    x = x * next(remaining) if config["scale"] else x
    return x + next(remaining) if config["center"] else x
