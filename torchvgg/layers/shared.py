"""Helpers that several layers share: argument pairs, initialisation, input checks."""

import inspect
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..activations import channel_axis

Size = int | Sequence[int]
Shapes = Mapping[str, Sequence[int]]  # of a layer's tensors, by their names
Config = Mapping[str, Any]  # Keras's settings of a layer


def check_like_weights(x: Tensor, weight: Tensor) -> None:
    """Raises a ValueError unless a layer's input has the type and device of its weights; autocast may cast the type.

    PyTorch notices most of this, in its kernels' own words, but computes garbage from weights on the meta device.
    """
    if x.device != weight.device or not (x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)):
        raise ValueError(
            f"expected a tensor like the weights, {weight.dtype} on {weight.device}. Received: {x.dtype} on {x.device}"
        )


def initialise_as_keras(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    """Initialises a layer with Keras's defaults: Glorot uniform weights, zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def pair(size: Size) -> tuple[int, int]:
    """Returns `(height, width)` of a size that may be one number for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def single(size: Size) -> tuple[int]:
    """Returns `(size,)` of a size along a sequence."""
    (length,) = (size,) if isinstance(size, int) else size
    return (length,)


def along_channels(vector: Tensor, x: Tensor) -> Tensor:
    """Reshapes one number per channel to broadcast over `x`: `(C,)` → `(C, 1, 1)` for images. Other shapes stay."""
    return vector.reshape(-1, *[1] * (-channel_axis(x) - 1)) if vector.dim() == 1 else vector


def channels_last(x: Tensor) -> Tensor:
    """Moves the channels of images to where Keras has them: `(…, C, H, W)` → `(…, H, W, C)`. `(N, time, C)` stays."""
    return x.movedim(-3, -1) if x.dim() > 3 else x


def channels_first(x: Tensor) -> Tensor:
    """Moves the channels of images to where PyTorch has them: `(…, H, W, C)` → `(…, C, H, W)`. `(N, time, C)` stays."""
    return x.movedim(-1, -3) if x.dim() > 3 else x


def torch_axis(axis: int, rank: int) -> int:
    """Returns PyTorch's number of one of Keras's axes of a tensor with `rank` axes."""
    axis %= rank
    if rank < 4 or axis < rank - 3:
        return axis
    return rank - 3 if axis == rank - 1 else axis + 1


def remembering_arguments(layer_class: type[nn.Module]) -> None:
    """Makes the layers of a class remember by name what they were made with, `keras_arguments`, which `save_model` writes."""
    init = layer_class.__init__
    signature = inspect.signature(init)

    @wraps(init)
    def remembering(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **keywords)
        if type(self) is layer_class:  # not for a subclass, whose own arguments count
            bound = signature.bind(self, *arguments, **keywords).arguments
            more = bound.pop("arguments", {})  # a recurrent layer's **arguments
            self.__dict__["keras_arguments"] = {key: value for key, value in (bound | more).items() if key != "self"}

    layer_class.__init__ = remembering  # type: ignore[method-assign]
