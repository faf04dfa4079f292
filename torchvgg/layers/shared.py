"""One module for one Keras layer: PyTorch's own class, under Keras's name, with Keras's defaults and its activation.

The activation is part of the layer, so that what a layer returns (and what a hook on it sees) is what Keras calls that
layer's output. Tensors are channels-first, `(N, C, H, W)`; parameters are PyTorch's, `weight` and `bias`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Size = int | Sequence[int]


def check_like_weights(x: Tensor, weight: Tensor) -> None:
    """Raises a ValueError unless a layer's input has the type and the device of its weights. Autocast sees to the type.

    PyTorch would find most of it, in its kernels' own words; and compute with what isn't there if weights are on "meta".
    """
    has_type = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
    if not has_type or x.device != weight.device:
        raise ValueError(
            f"expected a tensor like the weights, {weight.dtype} on {weight.device}. Received: {x.dtype} on {x.device}"
        )


def initialise_as_keras(layer: nn.Conv2d | nn.Linear) -> None:
    """Keras's defaults: Glorot uniform weights, zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def same_padding(x: Tensor, size: Any, strides: Any, dilation: Any = (1, 1)) -> list[int]:
    """What `F.pad` needs for Keras's padding "same": as many places as strides fit, what is odd comes last."""
    padding: list[int] = []
    for n, k, s, d in zip(x.shape[2:], size, strides, dilation, strict=True):
        lack = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        padding = [lack // 2, lack - lack // 2, *padding]  # F.pad begins with the last axis
    return padding


def along_channels(vector: Tensor, x: Tensor) -> Tensor:
    """`(C,)` → `(C, 1, 1)` for images, `(C,)` for features."""
    return vector.reshape(-1, *[1] * (x.dim() - 2)) if vector.dim() == 1 else vector
