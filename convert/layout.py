"""How Keras lays an array out and how PyTorch does: for each change a pure function and its inverse.

All take a tensor and return a tensor, a view where that is possible. Keras is channels-last, PyTorch channels-first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


def conv2d_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, out)` → `(out, in, kh, kw)`."""
    return kernel.permute(3, 2, 0, 1)


def conv2d_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in, kh, kw)` → `(kh, kw, in, out)`."""
    return weight.permute(2, 3, 1, 0)


def theano_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(out, in, kh, kw)`, both spatial axes turned round: Theano convolves, where Keras and PyTorch correlate."""
    return kernel.flip(2, 3)


def theano_kernel_to_keras(weight: Tensor) -> Tensor:
    """The inverse, which is the same."""
    return weight.flip(2, 3)


def dense_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(in, out)` → `(out, in)`."""
    return kernel.t()


def dense_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in)` → `(in, out)`."""
    return weight.t()


def flattened_dense_kernel_to_torch(kernel: Tensor, height: int, width: int) -> Tensor:
    """`(h * w * c, out)` → `(out, c * h * w)`: Keras flattens `(h, w, c)`, PyTorch `(c, h, w)`."""
    rows = kernel.unflatten(0, (height, width, -1)).permute(2, 0, 1, 3)  # whole rows move, then one transposition
    return rows.reshape(kernel.shape).t()


def flattened_dense_kernel_to_keras(weight: Tensor, height: int, width: int) -> Tensor:
    """`(out, c * h * w)` → `(h * w * c, out)`."""
    rows = weight.t().unflatten(0, (-1, height, width)).permute(1, 2, 0, 3)
    return rows.reshape(weight.t().shape)


def unchanged(array: Tensor) -> Tensor:
    """A vector is the same in both."""
    return array


class Layout(NamedTuple):
    """A change of layout and the way back."""

    to_torch: Callable[[Tensor], Tensor]
    to_keras: Callable[[Tensor], Tensor]


UNCHANGED = Layout(unchanged, unchanged)
CONV2D_KERNEL = Layout(conv2d_kernel_to_torch, conv2d_kernel_to_keras)
THEANO_KERNEL = Layout(theano_kernel_to_torch, theano_kernel_to_keras)
DENSE_KERNEL = Layout(dense_kernel_to_torch, dense_kernel_to_keras)


def flattened_dense_kernel(height: int, width: int) -> Layout:
    """For the Dense that follows a Flatten of `(height, width, channels)`."""
    return Layout(
        lambda kernel: flattened_dense_kernel_to_torch(kernel, height, width),
        lambda weight: flattened_dense_kernel_to_keras(weight, height, width),
    )
