"""The C++ kernels of `winograd.cpp`: compiled on this machine when first needed, cached, and called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .winograd import AT, BT, FEW, TILE, Call, Map, Workspace, zeros

SOURCE = Path(__file__).with_name("winograd.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-shared", "-fPIC", "-fopenmp")
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT = 60  # seconds; a build takes one or two


class MissingError(Exception):
    """The kernels can't be used on this machine; the message says what they lack."""


@cache
def kernels() -> Kernels:
    """Loads the kernels from the cache, or builds them.

    Raises:
        MissingError: this isn't Linux, or there is no compiler, or it fails, or there is no folder that only this user can
            write to, or what was built can't be loaded from there.
    """
    try:
        return Kernels(_library())
    except (OSError, RuntimeError, AttributeError) as error:  # no home, a function that isn't in the library
        raise MissingError(
            f"{str(error).rstrip('.')}; the kernels are kept in $XDG_CACHE_HOME, by default ~/.cache"
        ) from None


def _library() -> Path:
    """Returns a library of the kernels in the cache, built unless it is there."""
    from ..convert.atomic_files import is_own, scratch_folder

    if sys.platform != "linux":  # Apple's clang has no OpenMP
        raise MissingError(f"the kernels are for Linux, and haven't been tried on {sys.platform}")
    compiler = shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise MissingError(f"no C++ compiler: neither $CXX nor {', '.join(COMPILERS)}")
    matrices = f"-DAT={AT.tolist()}", f"-DBT={BT.tolist()}"
    defined = [text.replace("[", "{").replace("]", "}") for text in matrices]
    # The predefined macros tell the compiler's version and, with -march=native, this processor's features.
    macros = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(repr([SOURCE.read_bytes(), macros, FLAGS, defined]).encode()).hexdigest()
    library = _cache_folder() / f"winograd-{key[:32]}.so"
    # Missing, or planted by another user while the folder was open to all, or damaged.
    if not is_own(library) or _sealed((content := library.read_bytes())[:-32]) != content:
        with scratch_folder(library.parent, ".winograd-") as folder:
            built = folder / "winograd.so"
            _run([compiler, *FLAGS, *defined, str(SOURCE), "-o", str(built)])
            if not built.exists():
                raise MissingError(f"{compiler} fails: it wrote no library")
            built.write_bytes(_sealed(built.read_bytes()))
            built.chmod(0o700)
            built.replace(library)  # replaces the same file if another process was faster
    return library


def _sealed(content: bytes) -> bytes:
    """Appends a library's hash, which the loader ignores; a library that is cut off may kill the process that loads it."""
    return content + hashlib.sha256(content).digest()


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise MissingError(f"{command[0]} fails: {reason[0] if reason else f'status {error.returncode}'}") from None
    except subprocess.TimeoutExpired:
        raise MissingError(f"{command[0]} fails: it takes more than {BUILD_TIMEOUT} seconds") from None


def _cache_folder() -> Path:
    """Makes the folder of built libraries. Their code is run, so it must be this user's alone."""
    from ..convert.atomic_files import is_own

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchvgg")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(folder.resolve()):
        raise MissingError(f"{folder}: others can write to it; chmod 700, or set XDG_CACHE_HOME to another folder")
    return folder


class View(ctypes.Structure):
    """A tensor of four axes as C++ sees it: `struct View` in `winograd.cpp`."""

    _fields_ = (("data", c_void_p), ("shape", c_int64 * 4), ("strides", c_int64 * 4))

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        view = cls(tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        view.tensor = tensor  # lives as long as the view
        return view


class Kernels:
    """The functions of a built library for float32 tensors on the CPU, channels last, in as many threads as PyTorch."""

    name = "native"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._columns: int = self._library.columns()
        self._tiles: int = self._library.tiles()
        self._workspace = Workspace()
        common = (POINTER(View), c_void_p, c_void_p, POINTER(View), c_int)  # x, weights, bias, y, ReLU
        self._library.convolve.argtypes = (*common, c_int, POINTER(View), c_int64, c_int, c_int)
        self._library.convolve_few.argtypes = self._library.dense.argtypes = (*common, c_int)

    def fits(self, channels: int, filters: int) -> bool:
        """Tells whether `convolve`, or for few channels `convolve_few`, takes such a layer: it must fill whole vectors."""
        return filters % self._columns == 0 and (channels <= FEW or channels % (self._columns // 2) == 0)

    def pack(self, matrices: Tensor) -> Tensor:
        """Packs U, `(36, C, K)`, for `convolve`: `(…, D, K)` → `(…, K / columns, D, columns)`, K padded with zeros.

        A block of the product then reads its numbers in a row.
        """
        if lack := -matrices.shape[-1] % self._columns:
            matrices = F.pad(matrices, (0, lack))
        panels = matrices.unflatten(-1, (-1, self._columns)).transpose(-3, -2)
        return zeros(*panels.shape).copy_(panels)

    def pack_dense(self, weight: Tensor) -> Tensor:
        """Packs a weight, `(K, D)`, for `dense`, or a kernel, `(K, C, 3, 3)`, for `convolve_few`."""
        return self.pack(weight.flatten(1).t())

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> Call:
        """Prepares convolution, bias, ReLU and 2×2 max pool of a padded map into `y`, a view `(N, H, W, K)`."""
        n, height, width, channels = x.padded.shape
        filters, threads = len(bias), torch.get_num_threads()
        tiles = n * (height // TILE) * (width // TILE)
        # Each thread takes a few tiles of its own at a time: they stay in its cache. But U is read again for each few, so where it
        # is large or tiles are few, all threads take the same tiles and a part of U each.
        alone = channels * filters <= (256 * 256 if tiles >= threads * self._tiles else 128 * 128)
        chunk = max(1, min(self._tiles, -(-tiles // threads)) if alone else min(196, tiles))
        scratch = self._workspace.take("scratch", threads if alone else 1, chunk, 36, channels + filters)
        settings = (relu, pool, View.of(scratch), chunk, alone)
        return self._call(self._library.convolve, x.padded, u, bias, y, *settings)

    def convolve_few(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool, y: Tensor) -> Call:
        """Prepares a convolution of few channels, `(N, C, H, W)` with any strides, into `y`, a view `(N, H, W, K)`."""
        return self._call(self._library.convolve_few, x, packed, bias, y, relu)

    def dense(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """Computes a dense layer, `(N, D)` → `(N, K)`, where K is the length of the padded bias."""
        x = x.contiguous()
        y = x.new_empty(len(x), len(bias))
        self._call(self._library.dense, x[:, None, None], packed, bias, y[:, None, None], relu)()
        return y

    def _call(self, function: Any, x: Tensor, weights: Tensor, bias: Tensor, y: Tensor, *settings: Any) -> Call:
        arguments = View.of(x), weights.data_ptr(), bias.data_ptr(), View.of(y), *settings
        return partial(function, *arguments, torch.get_num_threads())
