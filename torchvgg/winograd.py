"""Winograd's fast convolution, F(4×4, 3×3): a 4×4 tile of results of a 3×3 kernel takes 36 products instead of 144.

After Lavin and Gray, 2015 (arXiv 1509.09308). For a 6×6 patch d of the image and a kernel g,

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

where ⊙, over many channels, is 36 matrix products. Here are the matrices, and the convolution in PyTorch's own operators;
`winograd.cpp` has it in C++.

Maps are channels last and padded: `(N, 4 rows + 2, 4 columns + 2, C)` for so many tiles, the image at (1, 1), zeros around it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 4
# Exact in binary. With the usual ones, 0, ±1, ±2, errors are half as large again.
POINTS = (0, 5 / 8, -5 / 8, 5 / 4, -5 / 4)


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Aᵀ (4×6), G (6×3) and Bᵀ (6×6), by Toom and Cook: polynomials are multiplied by their values at points.

    A kernel is a polynomial of degree 2, whose values at the points (and at infinity: its last coefficient) G gives. The
    transposed problem's interpolation, by Lagrange's polynomials, is Bᵀ; its evaluation is Aᵀ.
    """
    others = [[q for q in POINTS if q != p] for p in POINTS]
    at = [[p**i for p in POINTS] + [float(i == TILE - 1)] for i in range(TILE)]
    g = [[p**k / math.prod(p - q for q in rest) for k in range(3)] for p, rest in zip(POINTS, others, strict=True)]
    bt = [[*np.polynomial.polynomial.polyfromroots(rest), 0.0] for rest in others]
    bt.append([*np.polynomial.polynomial.polyfromroots(POINTS)])
    return (
        torch.tensor(at, dtype=torch.float64),
        torch.tensor([*g, [0.0, 0.0, 1.0]], dtype=torch.float64),
        torch.tensor(np.array(bt)),
    )


AT, G, BT = _matrices()


class Map(NamedTuple):
    """A padded map, and the size of the image in it."""

    padded: Tensor
    height: int
    width: int

    @property
    def image(self) -> Tensor:
        """`(N, H, W, C)`, the image itself."""
        return self.padded[:, 1 : self.height + 1, 1 : self.width + 1]


def tiles_over(size: int) -> int:
    """How many tiles cover so many pixels."""
    return -(-size // TILE)


def padded_shape(n: int, height: int, width: int, channels: int) -> tuple[int, int, int, int]:
    """Of a map for images of that size."""
    return n, TILE * tiles_over(height) + 2, TILE * tiles_over(width) + 2, channels


def transformed(kernel: Tensor) -> Tensor:
    """U = G g Gᵀ: `(K, C, 3, 3)` → `(36, C, K)`, computed in double precision."""
    u = torch.einsum("ai,kcij,bj->abck", G, kernel.detach().double(), G)
    return u.flatten(0, 1).to(kernel.dtype)


_INPUT = torch.kron(BT, BT).float()  # (36, 36): Bᵀ d B for a patch whose 36 numbers lie in a row
_OUTPUT = torch.kron(AT, AT).float()  # (16, 36)


def _products(v: Tensor, u: Tensor) -> Tensor:
    """M = V U: `(tiles, 36, C)` → `(tiles, 36, K)`."""
    if u.layout == torch.strided:
        return torch.bmm(v.transpose(0, 1), u).transpose(0, 1)
    tiles, groups, channels = v.shape  # 36 matrix products are a 1×1 convolution in 36 groups
    image = v.view(1, tiles, 1, groups * channels).permute(0, 3, 1, 2)
    m = torch.ops.mkldnn._convolution_pointwise(image, u, None, [0, 0], [1, 1], [1, 1], groups, "none", [], "")
    return m.permute(0, 2, 3, 1).reshape(tiles, groups, -1)


class Operators:
    """The convolution, and what goes with it, in PyTorch's operators: for float32 tensors on the CPU."""

    name = "operators"

    def fits(self, channels: int, filters: int) -> bool:
        """Whether `convolve` gains anything."""
        return channels >= 32 and filters >= 32

    def fits_few(self, filters: int) -> bool:
        return True

    def pack(self, u: Tensor) -> Tensor:
        """U, `(36, C, K)`, as `convolve` wants it: packed by oneDNN, where PyTorch has its private operators for that."""
        groups, channels, filters = u.shape
        try:
            grouped = u.transpose(1, 2).reshape(groups * filters, channels, 1, 1)
            image = [1, groups * channels, 1, TILE * TILE]
            packed = torch.ops.mkldnn._reorder_convolution_weight(grouped, [0, 0], [1, 1], [1, 1], groups, image)
            _products(torch.zeros(1, groups, channels), packed)
        except (AttributeError, RuntimeError, NotImplementedError):
            return u.contiguous()
        return packed

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> None:
        """Convolution, bias, ReLU and 2×2 max pool of a padded map, into `y`, a view `(N, H, W, K)`."""
        n, height, width, channels = x.padded.shape
        rows, columns = height // TILE, width // TILE
        sn, sh, sw, sc = x.padded.stride()
        patches = x.padded.as_strided((n, rows, columns, 6, 6, channels), (sn, TILE * sh, TILE * sw, sh, sw, sc))
        v = torch.matmul(_INPUT, patches.reshape(n * rows * columns, 36, channels))
        out = torch.matmul(_OUTPUT, _products(v, u)).view(n, rows, columns, TILE, TILE, -1)
        size = TILE
        if pool:  # before bias and ReLU: fewer of them, and the same
            out, size = out.view(n, rows, columns, 2, 2, 2, 2, -1).amax((4, 6)), TILE // 2
        out = out.transpose(2, 3).reshape(n, rows * size, columns * size, -1)[:, : y.shape[1], : y.shape[2]] + bias
        y.copy_(out.relu_() if relu else out)

    def pack_few(self, kernel: Tensor) -> Tensor:
        return kernel.contiguous(memory_format=torch.channels_last)

    def convolve_few(self, x: Tensor, kernel: Tensor, bias: Tensor, relu: bool, y: Tensor) -> None:
        """A convolution of few channels, from `(N, C, H, W)` with any strides."""
        out = F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel, bias, padding=1)
        y.copy_((out.relu_() if relu else out).permute(0, 2, 3, 1))

    def pack_dense(self, weight: Tensor) -> Tensor:
        return weight.clone()

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """`(N, D)` → `(N, K)`."""
        y = F.linear(x, weight, bias)
        return y.relu_() if relu else y

    def padded(self, bias: Tensor) -> Tensor:
        return bias.clone()
