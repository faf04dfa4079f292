"""The C++ kernels of `winograd.cpp`: compiled on this machine when first needed, cached, and called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .winograd import AT, BT, TILE, Map

SOURCE = Path(__file__).with_name("winograd.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-shared", "-fPIC", "-fopenmp")
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT = 60  # seconds; a build takes one or two


class MissingError(RuntimeError):
    """The kernels can't be built on this machine; the message says what they lack."""


@cache
def kernels() -> Kernels:
    """Loads the kernels from the cache, or builds them.

    Raises:
        MissingError: there is no compiler, or it fails, or there is no folder that only this user can write to.
    """
    from ..convert.files import is_own

    compiler = shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise MissingError(f"no C++ compiler: neither $CXX nor {', '.join(COMPILERS)}")
    source = SOURCE.read_bytes()
    defined = [f"-D{name}={_cpp_array(matrix)}" for name, matrix in (("AT", AT), ("BT", BT))]
    # The predefined macros tell the compiler's version and, with -march=native, this processor's features.
    macros = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(b"\0".join([source, macros, *(text.encode() for text in (*FLAGS, *defined))])).hexdigest()
    library = _cache_folder() / f"winograd-{key[:32]}.so"
    if not is_own(library):  # missing, or planted by another user while the folder was open to all
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, "winograd.so")
            _run([compiler, *FLAGS, *defined, str(SOURCE), "-o", str(built)])
            built.chmod(0o700)
            built.replace(library)  # replaces the same file if another process was faster
    return Kernels(library)


def _cpp_array(matrix: Tensor) -> str:
    """Formats a matrix as a C++ initialiser."""
    return "{" + ",".join("{" + ",".join(f"{number!r}f" for number in row) + "}" for row in matrix.tolist()) + "}"


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise MissingError(f"{command[0]} fails: {reason[0] if reason else error}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]} fails: {error}") from None


def _cache_folder() -> Path:
    """Makes the folder of built libraries. Their code is run, so it must be this user's alone."""
    from ..convert.files import is_own

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchvgg")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to another folder") from None
    if not is_own(folder.resolve()):
        raise MissingError(f"{folder}: others can write to it; chmod 700, or set XDG_CACHE_HOME to another folder")
    return folder


class View(ctypes.Structure):
    """A tensor of four axes as C++ sees it: `struct View` in `winograd.cpp`."""

    _fields_ = (("data", c_void_p), ("shape", c_int64 * 4), ("strides", c_int64 * 4))

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        return cls(tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


# Each function takes the input, packed weights, bias, the output, and whether to apply ReLU.
_LAYER = (POINTER(View), c_void_p, c_void_p, POINTER(View), c_int)
_ARGUMENTS = {
    "convolve": (*_LAYER, c_int, c_void_p, c_int64, c_int, c_int),  # pool, scratch, chunk, alone, threads
    "convolve_few": (*_LAYER, c_int),  # threads
    "dense": (*_LAYER, c_int),  # threads
}


class Kernels:
    """The functions of a built library for float32 tensors on the CPU, channels last, in as many threads as PyTorch."""

    name = "native"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, arguments in _ARGUMENTS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, None
        self._columns: int = self._library.columns()

    def fits(self, channels: int, filters: int) -> bool:
        """Tells whether `convolve` takes such a layer: its channels must fill whole vectors."""
        return channels % (self._columns // 2) == 0 and filters % self._columns == 0

    def fits_few(self, filters: int) -> bool:
        return filters % self._columns == 0

    def pack(self, u: Tensor) -> Tensor:
        """Packs U, `(36, C, K)`, for `convolve`."""
        return self._panels(u)

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor) -> None:
        """Computes convolution, bias, ReLU and 2×2 max pool of a padded map into `y`, a view `(N, H, W, K)`."""
        n, height, width, channels = x.padded.shape
        filters, threads = len(bias), torch.get_num_threads()
        chunk, alone = _chunk(n * (height // TILE) * (width // TILE), channels, filters, threads)
        scratch = bias.new_empty(chunk * 36 * (channels + filters) * (threads if alone else 1))
        source, target = View.of(x.padded), View.of(y)
        self._library.convolve(
            *(source, u.data_ptr(), bias.data_ptr(), target, relu),
            *(pool, scratch.data_ptr(), chunk, alone, threads),
        )

    def pack_few(self, kernel: Tensor) -> Tensor:
        """Packs a kernel, `(K, C, 3, 3)`, for `convolve_few`."""
        return self._panels(kernel.flatten(1).t())

    def convolve_few(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool, y: Tensor) -> None:
        """Computes a convolution of few channels, `(N, C, H, W)` with any strides, into `y`, a view `(N, H, W, K)`."""
        source, target = View.of(x), View.of(y)
        self._library.convolve_few(source, packed.data_ptr(), bias.data_ptr(), target, relu, torch.get_num_threads())

    def pack_dense(self, weight: Tensor) -> Tensor:
        """Packs a weight, `(K, D)`, for `dense`."""
        return self._panels(weight.t())

    def dense(self, x: Tensor, packed: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """Computes a dense layer, `(N, D)` → `(N, K)`, where K is the length of the padded bias."""
        x = x.contiguous()
        y = x.new_empty(len(x), len(bias))
        source, target = View.of(x[:, None, None]), View.of(y[:, None, None])
        self._library.dense(source, packed.data_ptr(), bias.data_ptr(), target, relu, torch.get_num_threads())
        return y

    def padded(self, bias: Tensor) -> Tensor:
        """Pads a bias with zeros to a whole panel."""
        return torch.nn.functional.pad(bias, (0, -len(bias) % self._columns)).contiguous()

    def _panels(self, matrices: Tensor) -> Tensor:
        """`(…, D, K)` → `(…, K / columns, D, columns)`: a block of the product reads its numbers in a row."""
        *others, depth, filters = matrices.shape
        panels = -(-filters // self._columns)
        if lack := panels * self._columns - filters:
            matrices = torch.nn.functional.pad(matrices, (0, lack))
        return matrices.reshape(*others, depth, panels, self._columns).transpose(-3, -2).contiguous()


def _chunk(tiles: int, channels: int, filters: int, threads: int) -> tuple[int, bool]:
    """Chooses how many tiles to compute at a time, and whether each thread takes tiles of its own.

    In small layers U stays in every core's cache, with V and M of some tiles. In large ones each thread computes a part of U
    and of M, for as many tiles as there are, so that U is read once.
    """
    if channels * filters <= 128 * 128:
        return max(1, min(48, -(-tiles // threads))), True
    return max(1, min(196, tiles)), False
