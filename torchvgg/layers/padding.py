"""Keras's padding "same", of windows that slide over images and sequences."""

from typing import Any

from torch import Tensor


def same_padding(x: Tensor, size: Any, strides: Any, dilation: Any = None) -> list[int]:
    """Returns `F.pad`'s argument for Keras's padding "same", which puts an odd pixel at the end."""
    padding: list[int] = []
    for n, k, s, d in zip(x.shape[2:], size, strides, dilation or (1,) * len(size), strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad begins with the last axis
    return padding
