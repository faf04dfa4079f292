"""`optimize_for_inference`: a model's twin that computes the same, faster, and can do no more than that."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import winograd
from .layers import Conv2D, Dense, MaxPooling2D
from .model import Model
from .winograd import Map, padded_shape

FEW = 16  # channels up to which a convolution is computed straight from its patches


def optimize_for_inference(model: Model, native: bool | None = None) -> Model:
    """A twin of a model for inference: the same outputs, `extract` and refusals, without gradients.

    On a CPU, 3×3 convolutions are computed by Winograd's algorithm (see `winograd`), in float32: by kernels that the machine's
    C++ compiler builds in a second or two, once, or in PyTorch's operators. In other types and on other devices the twin
    is channels-last, and compiled by `torch.compile` where there is no CPU.

    Args:
        model: what `VGG16`, `VGG19` or `load_model` made. It is left as it was; later changes of it don't reach the twin.
        native: True for the kernels, or an error that says what is missing; False for PyTorch's operators; None for the
            kernels where they can be built.

    Returns:
        A `Model` with the same layers' names, in `eval()`. Its memory is up to 1.5 times the model's.

    Raises:
        RuntimeError: `native=True`, and the kernels can't be built.
    """
    parameter = next(model.parameters(), torch.empty(0))
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        if native:
            raise RuntimeError(f"native=True: the kernels are for float32 on a CPU. Received: a model of {parameter.dtype} on {parameter.device}")
        return _plain(model)
    return OptimizedModel(model, _engine(native))


def _plain(model: Model) -> Model:
    twin = copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if next(twin.parameters(), torch.empty(0)).device.type != "cpu":
        twin.compile()
    return twin


def _engine(native: bool | None) -> Any:
    """What computes: the kernels, or PyTorch's operators, with the same functions."""
    if native is not False:
        from .native import MissingError, kernels

        try:
            return kernels()
        except MissingError as error:
            if native:
                raise RuntimeError(f"native=True: {error}") from None
    return winograd.Operators()
