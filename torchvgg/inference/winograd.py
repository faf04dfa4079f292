"""Winograd's fast convolution, F(4×4, 3×3): a 4×4 tile of results of a 3×3 kernel takes 36 products instead of 144.

After Lavin and Gray, 2015 (arXiv 1509.09308). For a 6×6 patch d of the image and a kernel g,

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

where ⊙, over many channels, is 36 matrix products. Here are the matrices, and the convolution in PyTorch's own operators;
`winograd.cpp` has it in C++.

Maps are channels last and padded: `(N, 4 rows + 2, 4 columns + 2, C)` for so many tiles, the image at (1, 1), zeros around it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 4


NUMBERS: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever PyTorch's defaults are


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


# Bᵀ d B, G g Gᵀ and Aᵀ m A as one matrix each, for a patch, a kernel and products whose numbers lie in a row.
_KERNEL = torch.kron(G, G)  # (36, 9)


_INPUT = torch.kron(BT, BT).float()  # (36, 36)


_OUTPUT = torch.kron(AT, AT).float()  # (16, 36)


def transformed(kernel: Tensor) -> Tensor:
    """U = G g Gᵀ: `(K, C, 3, 3)` → `(36, C, K)`, computed in double precision."""
    filters, channels, _, _ = kernel.shape
    g = kernel.detach().permute(2, 3, 1, 0).reshape(9, channels, filters)
    u = g.new_empty(36, channels, filters)
    for first in range(0, channels, 64):  # in parts that the caches hold
        part = g[:, first : first + 64].double()
        u[:, first : first + 64] = (_KERNEL @ part.flatten(1)).view(36, -1, filters)
    return u


TILES = 256  # that are computed at a time: what lies between the steps stays in the caches


class Workspace(threading.local):
    """Memory for what lies between the steps, of each thread its own: fresh memory costs as much as the work in it."""

    def __init__(self) -> None:
        self._own: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor, whose numbers are those of the last one of this name."""
        numbers = math.prod(shape)
        if name not in self._own or self._own[name].numel() < numbers:
            self._own[name] = torch.empty(numbers, **NUMBERS)
        return self._own[name][:numbers].view(shape)


def _convolved(x: Tensor, u: Tensor, pool: bool, workspace: Workspace) -> Tensor:
    """A part of a padded map → the results over all of its tiles, pooled or not: `(N, rows, size, columns, size, K)`."""
    n, height, width, channels = x.shape
    rows, columns, filters = height // TILE, width // TILE, u.shape[2]
    tiles = n * rows * columns
    sn, sh, sw, sc = x.stride()
    patches = workspace.take("patches", tiles, 36, channels)
    patches.view(n, rows, columns, 6, 6, channels).copy_(
        x.as_strided((n, rows, columns, 6, 6, channels), (sn, TILE * sh, TILE * sw, sh, sw, sc))
    )
    v = torch.bmm(_INPUT.expand(tiles, 36, 36), patches, out=workspace.take("v", tiles, 36, channels))
    m = torch.bmm(v.transpose(0, 1), u, out=workspace.take("m", 36, tiles, filters))
    y = torch.bmm(_OUTPUT.expand(tiles, 16, 36), m.transpose(0, 1), out=workspace.take("y", tiles, 16, filters))
    y = y.view(n, rows, columns, TILE, TILE, filters)
    if pool:  # before bias and ReLU: fewer of them, and the same
        y = torch.maximum(y[..., 0::2, :, :], y[..., 1::2, :, :])
        y = torch.maximum(y[..., 0::2, :], y[..., 1::2, :])
    return y.transpose(2, 3)


def _linear() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """oneDNN's product, which PyTorch has for its compiler's use, where it is there and works; else PyTorch's own."""

    def one_dnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    x, weight, bias = torch.linspace(-1, 1, 3 * 64, **NUMBERS).split(64)
    x, weight = x[None], weight[None]
    try:
        works = torch.allclose(one_dnn(x, weight, bias[:1]), F.linear(x, weight, bias[:1]), rtol=1e-4, atol=1e-4)
    except (AttributeError, RuntimeError):  # there is none, or none for this machine
        works = False
    return one_dnn if works else F.linear


class Operators:
    """The convolution, and what goes with it, in PyTorch's operators: for float32 tensors on the CPU."""

    name = "operators"

    def __init__(self) -> None:
        self._workspace = Workspace()
        self._linear = _linear()

    def fits(self, channels: int, filters: int) -> bool:
        """Whether `convolve` gains anything."""
        return channels >= 32 and filters >= 32

    def fits_few(self, filters: int) -> bool:
        return True

    def pack(self, u: Tensor) -> Tensor:
        """U, `(36, C, K)`, as `convolve` wants it."""
        return u.contiguous()

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> None:
        """Convolution, bias, ReLU and 2×2 max pool of a padded map, into `y`, a view `(N, H, W, K)`."""
        n, height, width, _ = x.padded.shape
        rows, columns = height // TILE, width // TILE
        size = TILE // 2 if pool else TILE
        images, step = max(1, TILES // (rows * columns)), max(1, TILES // columns)
        for image in range(0, n, images):
            for row in range(0, rows, step):
                maps = x.padded[image : image + images, TILE * row : TILE * min(row + step, rows) + 2]
                out = _convolved(maps, u, pool, self._workspace)
                part = y[image : image + images, size * row : size * (row + step)]
                if part.shape[1:3] == (size * out.shape[1], size * columns):
                    part = part.unflatten(2, (columns, size)).unflatten(1, (-1, size))
                else:  # the last tiles hang over
                    out = out.flatten(1, 2).flatten(2, 3)[:, : part.shape[1], : part.shape[2]]
                torch.add(out, bias, out=part)
                if relu:
                    part.relu_()

    def pack_few(self, kernel: Tensor) -> Tensor:
        return kernel.contiguous(memory_format=torch.channels_last)

    def convolve_few(self, x: Tensor, kernel: Tensor, bias: Tensor, relu: bool, y: Tensor) -> None:
        """A convolution of few channels, from `(N, C, H, W)` with any strides."""
        for image, into in zip(x, y, strict=True):  # a whole batch would take fresh memory
            out = F.conv2d(image[None].contiguous(memory_format=torch.channels_last), kernel, bias, padding=1)
            least = 0 if relu else -math.inf  # ReLU and copy in one
            torch.clamp_min(out[0].permute(1, 2, 0), least, out=into)

    def pack_dense(self, weight: Tensor) -> Tensor:
        return weight.clone()

    def dense(self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """`(N, D)` → `(N, K)`."""
        y = self._linear(x, weight, bias)
        return y.relu_() if relu else y

    def padded(self, bias: Tensor) -> Tensor:
        return bias.clone()
