"""Winograd's fast convolution, F(4×4, 3×3): a 4×4 tile of outputs of a 3×3 kernel takes 36 products instead of 144.

After Lavin and Gray, 2015 (arXiv 1509.09308). For a 6×6 patch d of the image and a kernel g,

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

where ⊙, over many channels, is 36 matrix products. This module has the matrices and the convolution in PyTorch's operators;
`winograd.cpp` has the convolution in C++.

Maps are channels last and padded to whole tiles: `(N, 4 rows + 2, 4 columns + 2, C)`, the image at (1, 1), zeros around it.
"""

import contextlib
import math
import mmap
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor
from torch.nn import functional as F

FEW = 16  # channels up to which a convolution is one matrix product of its patches
TILE = 4
TILES = 256  # computed at a time: their patches and products stay in the caches
NUMBERS: Any = {"dtype": torch.float32, "device": "cpu"}  # independent of PyTorch's defaults
Call = Callable[[], Any]  # computes something when it is called

# Toom-Cook: polynomials are multiplied by their values at points. These are exact in binary; with the usual 0, ±1, ±2, errors
# are 1.5 times as large. G (6×3) evaluates a kernel, a polynomial of degree 2, at the points (and at infinity: its last
# coefficient). Bᵀ (6×6) is the interpolation of the transposed problem, by Lagrange's polynomials, Aᵀ (4×6) its evaluation.
POINTS = (0, 5 / 8, -5 / 8, 5 / 4, -5 / 4)
_OTHERS = [[q for q in POINTS if q != p] for p in POINTS]
_VALUES = [[p**k / math.prod(p - q for q in rest) for k in range(3)] for p, rest in zip(POINTS, _OTHERS, strict=True)]
_exact = partial(torch.tensor, dtype=torch.float64, device="cpu")
AT = _exact([[p**i for p in POINTS] + [float(i == TILE - 1)] for i in range(TILE)])
G = _exact([*_VALUES, [0.0, 0.0, 1.0]])
BT = _exact(np.array([[*polyfromroots(rest), 0.0] for rest in _OTHERS] + [[*polyfromroots(POINTS)]]))


class Map(NamedTuple):
    """A padded map and the size of the image in it."""

    padded: Tensor
    height: int
    width: int

    @property
    def image(self) -> Tensor:
        """The view `(N, H, W, C)` without the padding."""
        return self.padded[:, 1 : self.height + 1, 1 : self.width + 1]


def padded_shape(n: int, height: int, width: int, channels: int) -> tuple[int, int, int, int]:
    """Returns the shape of the padded map for images of this size."""
    return n, height + -height % TILE + 2, width + -width % TILE + 2, channels


# G g Gᵀ, Bᵀ d B and Aᵀ m A as one matrix each, for a flattened kernel, patch and products.
_KERNEL = torch.kron(G, G)  # (36, 9)
_INPUT = torch.kron(BT, BT).float()  # (36, 36)
_OUTPUT = torch.kron(AT, AT).float()  # (16, 36)


def transform_kernel(kernel: Tensor) -> Tensor:
    """Computes U = G g Gᵀ in double precision: `(K, C, 3, 3)` → `(36, C, K)`."""
    filters, channels, _, _ = kernel.shape
    g = kernel.detach().permute(2, 3, 1, 0).reshape(9, channels, filters)
    u = g.new_empty(36, channels, filters)
    for first in range(0, channels, 64):  # parts that fit in the caches
        part = g[:, first : first + 64].double()
        u[:, first : first + 64] = (_KERNEL @ part.flatten(1)).view(36, -1, filters)
    return u


def zeros(*shape: int) -> Tensor:
    """Returns zeros, in pages of 2 MB where the system has them: weights are read from those up to 1.5 times as fast."""
    count = math.prod(shape)
    if not count or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, **NUMBERS)
    memory = mmap.mmap(-1, 4 * count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # this Linux has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class Workspace(threading.local):
    """Each thread's memory for intermediate results, reused: fresh memory costs as much as computing in it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns a tensor in the buffer of this name, with whatever numbers are in it."""
        count = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < count:
            self._buffers[name] = zeros(count)
        return self._buffers[name][:count].view(shape)


def _convolve_tiles(x: Tensor, u: Tensor, pool: bool, workspace: Workspace) -> Tensor:
    """Convolves a part of a padded map, pooled or not, over all of its tiles: `(N, rows, size, columns, size, K)`."""
    n, height, width, channels = x.shape
    rows, columns, filters = height // TILE, width // TILE, u.shape[2]
    tiles = n * rows * columns
    patches = workspace.take("patches", tiles, 36, channels)
    windows = x.unfold(1, 6, TILE).unfold(2, 6, TILE)  # (N, rows, columns, C, 6, 6)
    patches.view(n, rows, columns, 6, 6, channels).copy_(windows.permute(0, 1, 2, 4, 5, 3))
    v = torch.bmm(_INPUT.expand(tiles, 36, 36), patches, out=workspace.take("v", tiles, 36, channels))
    m = torch.bmm(v.transpose(0, 1), u, out=workspace.take("m", 36, tiles, filters))
    y = torch.bmm(_OUTPUT.expand(tiles, 16, 36), m.transpose(0, 1), out=workspace.take("y", tiles, 16, filters))
    y = y.view(n, rows, columns, TILE, TILE, filters)
    if pool:  # before bias and ReLU, which commute with it: fewer numbers
        y = torch.maximum(y[..., 0::2, :, :], y[..., 1::2, :, :])
        y = torch.maximum(y[..., 0::2, :], y[..., 1::2, :])
    return y.transpose(2, 3)


def _one_dnn_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _linear() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Returns oneDNN's linear function, which PyTorch has for its compiler, if it is there and works, else PyTorch's own."""
    x, weight, (bias,) = torch.linspace(-1, 1, 3 * 64, **NUMBERS).view(3, 1, 64)
    example = x, weight, bias[:1]
    try:
        works = torch.allclose(_one_dnn_linear(*example), F.linear(*example), rtol=1e-4, atol=1e-4)
    except (AttributeError, RuntimeError):  # this PyTorch lacks it, or it doesn't run on this machine
        return F.linear
    return _one_dnn_linear if works else F.linear


class Operators:
    """The functions of `Kernels` in PyTorch's operators, for float32 tensors on the CPU."""

    name = "operators"

    def __init__(self) -> None:
        self._workspace = Workspace()
        self._linear = _linear()

    def fits(self, channels: int, filters: int) -> bool:
        """Tells whether `convolve`, or for few channels `convolve_few`, is faster than PyTorch's convolution."""
        return channels <= FEW or min(channels, filters) >= 32

    def pack(self, u: Tensor) -> Tensor:
        """Packs U, `(36, C, K)`, for `convolve`."""
        return zeros(*u.shape).copy_(u)

    def pack_dense(self, weight: Tensor) -> Tensor:
        """Copies a weight, `(K, D)`, for `dense`, or a kernel, `(K, C, 3, 3)`, for `convolve_few`."""
        return weight.clone(memory_format=torch.channels_last if weight.dim() == 4 else torch.preserve_format)

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> Call:
        """Prepares convolution, bias, ReLU and 2×2 max pool of a padded map into `y`, a view `(N, H, W, K)`."""
        return partial(self._convolve, x, u, bias, relu, pool, y)

    def _convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> None:
        n, height, width, _ = x.padded.shape
        rows, columns = height // TILE, width // TILE
        size = TILE // 2 if pool else TILE
        images, step = max(1, TILES // (rows * columns)), max(1, TILES // columns)
        for image in range(0, n, images):
            for row in range(0, rows, step):
                maps = x.padded[image : image + images, TILE * row : TILE * min(row + step, rows) + 2]
                out = _convolve_tiles(maps, u, pool, self._workspace)
                part = y[image : image + images, size * row : size * (row + step)]
                if part.shape[1:3] == (size * out.shape[1], size * columns):
                    part = part.unflatten(2, (columns, size)).unflatten(1, (-1, size))
                else:  # the last tiles extend beyond the image
                    out = out.flatten(1, 2).flatten(2, 3)[:, : part.shape[1], : part.shape[2]]
                torch.add(out, bias, out=part)
                if relu:
                    part.relu_()

    def convolve_few(self, x: Tensor, kernel: Tensor, bias: Tensor, relu: bool, y: Tensor) -> Call:
        """Prepares a convolution of few channels, `(N, C, H, W)` with any strides, into `y`, a view `(N, H, W, K)`."""
        return partial(self._convolve_few, x, kernel, bias, relu, y)

    def _convolve_few(self, x: Tensor, kernel: Tensor, bias: Tensor, relu: bool, y: Tensor) -> None:
        for image, into in zip(x, y, strict=True):  # a whole batch would need fresh memory
            out = F.conv2d(image[None].contiguous(memory_format=torch.channels_last), kernel, bias, padding=1)
            least = 0 if relu else -math.inf  # ReLU and copy in one
            torch.clamp_min(out[0].permute(1, 2, 0), least, out=into)

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """Computes a dense layer, `(N, D)` → `(N, K)`."""
        y = self._linear(x, weight, bias)
        return y.relu_() if relu else y
