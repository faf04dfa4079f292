"""The kernels of `winograd.cpp`: built by the machine's own C++ compiler when they are first wanted, kept, and called."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .winograd import AT, BT, TILE, Map

SOURCE = Path(__file__).with_name("winograd.cpp")


FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-shared", "-fPIC", "-fopenmp")


COMPILERS = ("c++", "g++", "clang++")


SECONDS = 60  # to build; one or two are usual


class MissingError(RuntimeError):
    """What the kernels lack on this machine."""


@cache
def kernels() -> Kernels:
    """The kernels, from the cache or built now.

    Raises:
        MissingError: there is no compiler, or it fails, or there is no place that only this user can write.
    """
    from ..convert.files import is_own

    compiler = shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise MissingError(f"no C++ compiler: neither $CXX nor {', '.join(COMPILERS)}")
    source = SOURCE.read_bytes()
    defined = [f"-D{name}={_as_array(matrix)}" for name, matrix in (("AT", AT), ("BT", BT))]
    # What a compiler defines by itself tells its version and all that it knows of this processor.
    macros = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(b"\0".join([source, macros, *(text.encode() for text in (*FLAGS, *defined))])).hexdigest()
    library = _folder() / f"winograd-{key[:32]}.so"
    if not is_own(library):  # it isn't there, or somebody else put it there before the folder was this user's alone
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, "winograd.so")
            _run([compiler, *FLAGS, *defined, str(SOURCE), "-o", str(built)])
            built.chmod(0o700)
            built.replace(library)  # another process may have been faster: its file is the same
    return Kernels(library)


def _as_array(matrix: Tensor) -> str:
    """A matrix as C++ writes one."""
    return "{" + ",".join("{" + ",".join(f"{number!r}f" for number in row) + "}" for row in matrix.tolist()) + "}"


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=SECONDS).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise MissingError(f"{command[0]} fails: {reason[0] if reason else error}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]} fails: {error}") from None


def _folder() -> Path:
    """Where libraries are kept: what lies there is run, so nobody else may write there."""
    from ..convert.files import is_own

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchvgg")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to another folder") from None
    if not is_own(folder.resolve()):
        raise MissingError(f"{folder}: others can write to it; chmod 700, or set XDG_CACHE_HOME to another folder")
    return folder


class Kernels:
    """The functions of a library, for tensors: float32, on the CPU, channels last. Threads are as many as PyTorch's."""

    name = "native"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._columns: int = self._library.columns()

    def fits(self, channels: int, filters: int) -> bool:
        """Whether Winograd's convolution here takes such a layer: whole vectors of channels."""
        return channels % (self._columns // 2) == 0 and filters % self._columns == 0

    def fits_few(self, filters: int) -> bool:
        return filters % self._columns == 0

    def pack(self, u: Tensor) -> Tensor:
        """U, `(36, C, K)`, as `convolve` wants it."""
        return self._panels(u)

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> None:
        """Convolution, bias, ReLU and 2×2 max pool of a padded map, into `y`, a view `(N, H, W, K)`."""
        n, height, width, channels = x.padded.shape
        rows, columns, filters = height // TILE, width // TILE, len(bias)
        threads = torch.get_num_threads()
        chunk, alone = _chunk(n * rows * columns, channels, filters, threads)
        scratch = bias.new_empty(chunk * 36 * (channels + filters) * (threads if alone else 1))
        self._library.convolve(
            *(
                _pointer(x.padded),
                n,
                rows,
                columns,
                channels,
                filters,
                _pointer(u),
                _pointer(scratch),
                chunk,
                alone,
                threads,
            ),
            *(*_image(y), _pointer(bias), relu, pool),
        )

    def pack_few(self, kernel: Tensor) -> Tensor:
        """`(K, C, 3, 3)` as `convolve_few` wants it."""
        return self._panels(kernel.flatten(1).t())

    def convolve_few(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool, y: Tensor) -> None:
        """A convolution of few channels, from `(N, C, H, W)` with any strides."""
        n, channels, height, width = x.shape
        strides = map(ctypes.c_long, x.stride())
        self._library.convolve_few(
            *(_pointer(x), *strides, n, height, width, channels, len(bias), _pointer(packed), torch.get_num_threads()),
            *(*_image(y)[:-2], _pointer(bias), relu),
        )

    def pack_dense(self, weight: Tensor) -> Tensor:
        """`(K, D)` as `dense` wants it."""
        return self._panels(weight.t())

    def dense(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """`(N, D)` → `(N, K)`, K as the padded bias has it."""
        x = x.contiguous()
        y = x.new_empty(len(x), len(bias))
        self._library.dense(
            _pointer(x),
            *x.shape,
            len(bias),
            _pointer(packed),
            torch.get_num_threads(),
            _pointer(y),
            _pointer(bias),
            relu,
        )
        return y

    def padded(self, bias: Tensor) -> Tensor:
        """A bias with zeros up to a whole panel."""
        return torch.nn.functional.pad(bias, (0, -len(bias) % self._columns)).contiguous()

    def _panels(self, matrices: Tensor) -> Tensor:
        """`(…, D, K)` → `(…, K / columns, D, columns)`: what a block of the product reads lies in a row."""
        *others, depth, filters = matrices.shape
        panels = -(-filters // self._columns)
        if lack := panels * self._columns - filters:
            matrices = torch.nn.functional.pad(matrices, (0, lack))
        return matrices.reshape(*others, depth, panels, self._columns).transpose(-3, -2).contiguous()


def _chunk(tiles: int, channels: int, filters: int, threads: int) -> tuple[int, bool]:
    """How many tiles are computed at a time, and whether each thread takes tiles of its own.

    Of small layers U stays in every core's cache, and so do V and M of some tiles. Of large ones each thread has a part of U
    and of M, for as many tiles as there are, so that U is read once.
    """
    if channels * filters <= 128 * 128:
        return max(1, min(48, -(-tiles // threads))), True
    return max(1, min(196, tiles)), False


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _image(y: Tensor) -> tuple[Any, ...]:
    """A view to write to: where it begins, its strides, its height and width."""
    n, height, width, channels = y.stride()
    assert channels == 1
    return _pointer(y), *map(ctypes.c_long, (n, height, width)), y.shape[1], y.shape[2]
