"""Layouts of arrays in Keras (channels-last) and in PyTorch (channels-first): for each change a pure function and its inverse.

All take a tensor and return one, a view where that is possible. Rows of a kernel are moved together before they are
transposed, which is faster by far.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def conv2d_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, out)` → `(out, in, kh, kw)`."""
    height, width, channels, units = kernel.shape
    return kernel.movedim(2, 0).reshape(-1, units).t().unflatten(1, (channels, height, width))


def conv2d_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in, kh, kw)` → `(kh, kw, in, out)`."""
    return weight.permute(2, 3, 1, 0)


def conv1d_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(k, in, out)` → `(out, in, k)`."""
    return kernel.permute(2, 1, 0)


def conv1d_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in, k)` → `(k, in, out)`."""
    return weight.permute(2, 1, 0)


def deconvolution_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, out)` → `(in, out, kh, kw)`: Keras 1's; later ones have `(kh, kw, out, in)`, turned as a Conv2D's kernel."""
    return kernel.permute(2, 3, 0, 1)


def deconvolution_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(in, out, kh, kw)` → `(kh, kw, in, out)`."""
    return weight.permute(2, 3, 0, 1)


def depthwise_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, multiplier)` → `(in * multiplier, 1, kh, kw)`: PyTorch has a group for each channel."""
    return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)


def depthwise_kernel_to_keras(weight: Tensor, multiplier: int) -> Tensor:
    """`(in * multiplier, 1, kh, kw)` → `(kh, kw, in, multiplier)`."""
    return weight.squeeze(1).unflatten(0, (-1, multiplier)).permute(2, 3, 0, 1)


def turned_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(kh, kw, in, out)`, turned by 180°, since Theano convolves where PyTorch correlates → `(out, in, kh, kw)`."""
    return conv2d_kernel_to_torch(kernel.flip(0, 1))


def turned_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in, kh, kw)` → `(kh, kw, in, out)`, turned by 180°."""
    return conv2d_kernel_to_keras(weight).flip(0, 1)


def theano_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(out, in, kh, kw)`, turned by 180° → the same shape."""
    return kernel.flip(2, 3)


def theano_kernel_to_keras(weight: Tensor) -> Tensor:
    """The same again: turning twice by 180° changes nothing."""
    return weight.flip(2, 3)


def dense_kernel_to_torch(kernel: Tensor) -> Tensor:
    """`(in, out)` → `(out, in)`."""
    return kernel.contiguous().t()


def dense_kernel_to_keras(weight: Tensor) -> Tensor:
    """`(out, in)` → `(in, out)`."""
    return weight.t()


def cudnn_kernel_to_torch(kernel: Tensor, gates: int) -> Tensor:
    """`(in, gates * units)` → `(gates * units, in)`: in each gate's part the numbers lie as in its transpose, `(units, in)`."""
    return torch.cat([part.reshape(part.shape[1], part.shape[0]) for part in kernel.chunk(gates, 1)])


def cudnn_kernel_to_keras(weight: Tensor, gates: int) -> Tensor:
    """`(gates * units, in)` → `(in, gates * units)`."""
    return torch.cat([part.reshape(part.shape[1], part.shape[0]) for part in weight.chunk(gates)], 1)


def cudnn_bias_to_torch(bias: Tensor) -> Tensor:
    """`(2 * gates * units,)` → `(2, gates * units)`: for the input, and for the state."""
    return bias.unflatten(0, (2, -1))


def cudnn_bias_to_keras(bias: Tensor) -> Tensor:
    """`(2, gates * units)` → `(2 * gates * units,)`."""
    return bias.flatten()


def flattened_to_torch(array: Tensor, height: int, width: int) -> Tensor:
    """`(h * w * c, …)` → `(c * h * w, …)`: Keras flattens `(h, w, c)`, PyTorch `(c, h, w)`."""
    return array.unflatten(0, (height, width, -1)).movedim(2, 0).reshape(array.shape)


def flattened_to_keras(array: Tensor, height: int, width: int) -> Tensor:
    """`(c * h * w, …)` → `(h * w * c, …)`."""
    return array.unflatten(0, (-1, height, width)).movedim(0, 2).reshape(array.shape)


def flattened_dense_kernel_to_torch(kernel: Tensor, height: int, width: int) -> Tensor:
    """`(h * w * c, out)` → `(out, c * h * w)`: whole rows move, then one transposition."""
    return flattened_to_torch(kernel, height, width).t()


def flattened_dense_kernel_to_keras(weight: Tensor, height: int, width: int) -> Tensor:
    """`(out, c * h * w)` → `(h * w * c, out)`."""
    return flattened_to_keras(weight.t().contiguous(), height, width)


def features_to_torch(array: Tensor) -> Tensor:
    """`(…, h, w, c)` → `(…, c, h, w)`: images, or a number for each of their places and channels."""
    return array.movedim(-1, -3)


def features_to_keras(array: Tensor) -> Tensor:
    """`(…, c, h, w)` → `(…, h, w, c)`."""
    return array.movedim(-3, -1)


def images_to_torch(x: Tensor) -> Tensor:
    """`(N, …, h, w, c)` → `(N, …, c, h, w)`; `(N, time, features)` and `(N, features)` stay."""
    return features_to_torch(x) if x.dim() > 3 else x


def images_to_keras(x: Tensor) -> Tensor:
    """`(N, …, c, h, w)` → `(N, …, h, w, c)`; `(N, time, features)` and `(N, features)` stay."""
    return features_to_keras(x) if x.dim() > 3 else x


def unchanged(array: Tensor) -> Tensor:
    """`(c,)` → `(c,)`: one number for each channel."""
    return array


class Layout(NamedTuple):
    """A change of layout and its inverse.

    `by_units` says that the part for some units (Keras's last axis, PyTorch's first) has the same layout, so that a large
    array can be converted in parts.
    """

    to_torch: Callable[[Tensor], Tensor]
    to_keras: Callable[[Tensor], Tensor]
    by_units: bool = False


UNCHANGED = Layout(unchanged, unchanged)
CONV1D_KERNEL = Layout(conv1d_kernel_to_torch, conv1d_kernel_to_keras, by_units=True)
CONV2D_KERNEL = Layout(conv2d_kernel_to_torch, conv2d_kernel_to_keras, by_units=True)
TURNED_KERNEL = Layout(turned_kernel_to_torch, turned_kernel_to_keras, by_units=True)  # Keras 2's on Theano
THEANO_KERNEL = Layout(theano_kernel_to_torch, theano_kernel_to_keras)  # for channels-first images
DECONVOLUTION_KERNEL = Layout(deconvolution_kernel_to_torch, deconvolution_kernel_to_keras)
DENSE_KERNEL = Layout(dense_kernel_to_torch, dense_kernel_to_keras, by_units=True)
CUDNN_BIAS = Layout(cudnn_bias_to_torch, cudnn_bias_to_keras)
FEATURES = Layout(features_to_torch, features_to_keras)


def depthwise_kernel(multiplier: int) -> Layout:
    """Makes the layout of a depthwise convolution's kernel, with so many filters for each channel."""
    return Layout(depthwise_kernel_to_torch, lambda weight: depthwise_kernel_to_keras(weight, multiplier))


def cudnn_kernel(gates: int) -> Layout:
    """Makes the layout of a kernel of CuDNNLSTM or CuDNNGRU."""
    return Layout(
        lambda kernel: cudnn_kernel_to_torch(kernel, gates), lambda weight: cudnn_kernel_to_keras(weight, gates)
    )


def flattened(height: int, width: int) -> Layout:
    """Makes the layout of an array with one number for each feature of a flattened `(height, width, channels)`."""
    return Layout(
        lambda array: flattened_to_torch(array, height, width),
        lambda array: flattened_to_keras(array, height, width),
    )


def flattened_dense_kernel(height: int, width: int) -> Layout:
    """Makes the layout of the kernel of a Dense on a flattened `(height, width, channels)`."""
    return Layout(
        lambda kernel: flattened_dense_kernel_to_torch(kernel, height, width),
        lambda weight: flattened_dense_kernel_to_keras(weight, height, width),
        by_units=True,
    )
