"""Layouts of arrays in Keras (channels-last) and in PyTorch (channels-first): each change a pure function, its inverse beside it.

All take a tensor and return one, a view where that is possible. Rows of a kernel are moved together before they are
transposed, which is faster by far.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """A change of layout and its inverse.

    `by_units` says that the part for some units (Keras's last axis, PyTorch's first) has the same layout, so that a large
    array can be converted in parts.
    """

    to_torch: Callable[[Tensor], Tensor]
    to_keras: Callable[[Tensor], Tensor]
    by_units: bool = False


def conv2d_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, out)` → `(out, in, kh, kw)`."""
    height, width, channels, units = kernel.shape
    return kernel.movedim(2, 0).reshape(-1, units).t().unflatten(1, (channels, height, width))


def conv2d_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in, kh, kw)` → `(kh, kw, in, out)`."""
    return weight.permute(2, 3, 1, 0)


def theano_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(out, in, kh, kw)`, turned by 180° as well → the same shape; its own inverse."""
    return kernel.flip(2, 3)


def dense_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(in, out)` → `(out, in)`."""
    return kernel.contiguous().t()


def flattened_dense_kernel_to_torch(kernel: Tensor, height: int, width: int) -> Tensor:
    """`(h * w * c, out)` → `(out, c * h * w)`: whole rows move, then one transposition."""
    return flattened(height, width).to_torch(kernel).t()


def flattened_dense_kernel_to_keras(weight: Tensor, height: int, width: int) -> Tensor:
    """`(out, c * h * w)` → `(h * w * c, out)`."""
    return flattened(height, width).to_keras(weight.t().contiguous())


UNCHANGED = Layout(lambda array: array, lambda array: array)  # `(c,)`: one number for each channel
CONV2D_KERNEL = Layout(conv2d_kernel_to_torch, conv2d_kernel_to_keras, by_units=True)
# Keras 2's on Theano: the same, but turned by 180°, since Theano convolves where PyTorch correlates.
TURNED_KERNEL = Layout(
    lambda kernel: conv2d_kernel_to_torch(kernel.flip(0, 1)),
    lambda weight: conv2d_kernel_to_keras(weight).flip(0, 1),
    by_units=True,
)
THEANO_KERNEL = Layout(theano_kernel_to_torch, theano_kernel_to_torch)  # for channels-first images
DENSE_KERNEL = Layout(dense_kernel_to_torch, Tensor.t, by_units=True)
FEATURES = Layout(lambda array: array.movedim(-1, 0), lambda array: array.movedim(0, -1))  # `(h, w, c)` ↔ `(c, h, w)`


def depthwise_kernel(multiplier: int) -> Layout:
    """`(kh, kw, in, multiplier)` ↔ `(in * multiplier, 1, kh, kw)`: PyTorch has a group for each channel."""
    return Layout(
        lambda kernel: kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1),
        lambda weight: weight.squeeze(1).unflatten(0, (-1, multiplier)).permute(2, 3, 0, 1),
    )


def flattened(height: int, width: int) -> Layout:
    """`(h * w * c, …)` ↔ `(c * h * w, …)`: Keras flattens `(h, w, c)`, PyTorch `(c, h, w)`."""
    return Layout(
        lambda array: array.unflatten(0, (height, width, -1)).movedim(2, 0).reshape(array.shape),
        lambda array: array.unflatten(0, (-1, height, width)).movedim(0, 2).reshape(array.shape),
    )


def flattened_dense_kernel(height: int, width: int) -> Layout:
    """Makes the layout of the kernel of a Dense on a flattened `(height, width, channels)`."""
    return Layout(
        lambda kernel: flattened_dense_kernel_to_torch(kernel, height, width),
        lambda weight: flattened_dense_kernel_to_keras(weight, height, width),
        by_units=True,
    )
