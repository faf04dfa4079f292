"""The kernels of `winograd.cpp`: built by the machine's own C++ compiler when they are first wanted, kept, and called."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .winograd import AT, BT, Map

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
    compiler = shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise MissingError(f"no C++ compiler: neither $CXX nor {', '.join(COMPILERS)}")
    source = SOURCE.read_bytes()
    defined = [f"-D{name}={_as_array(matrix)}" for name, matrix in (("AT", AT), ("BT", BT))]
    # What a compiler defines by itself tells its version and all that it knows of this processor.
    macros = _run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(b"\0".join([source, macros, *(text.encode() for text in (*FLAGS, *defined))])).hexdigest()
    library = _folder() / f"winograd-{key[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, "winograd.so")
            _run([compiler, *FLAGS, *defined, str(SOURCE), "-o", str(built)])
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
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchvgg")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise MissingError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to another folder") from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise MissingError(f"{folder}: others can write to it; chmod 700, or set XDG_CACHE_HOME to another folder")
    return folder


class Kernels:
    """The functions of a library, for tensors: float32, on the CPU, channels last. Threads as PyTorch has them."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._columns: int = self._library.columns()
        self._rows: int = self._library.rows()

    def fits(self, channels: int, filters: int) -> bool:
        """Whether `convolve` takes such a layer: whole vectors."""
        return channels % (self._columns // 2) == 0 and filters % self._columns == 0

    def pack(self, matrices: Tensor) -> Tensor:
        """`(…, D, K)` → `(…, K / columns, D, columns)`: what a block of the product reads lies in a row. K may need zeros."""
        *others, depth, filters = matrices.shape
        panels = -(-filters // self._columns)
        padded = torch.nn.functional.pad(matrices, (0, panels * self._columns - filters))
        return padded.view(*others, depth, panels, self._columns).transpose(-3, -2).contiguous()

    def padded(self, bias: Tensor) -> Tensor:
        """A bias with as many zeros."""
        return torch.nn.functional.pad(bias, (0, -len(bias) % self._columns)).contiguous()

    def convolve(self, x: Map, u: Tensor, bias: Tensor, relu: bool, pool: bool, y: Tensor, scratch: Scratch) -> None:
        """Winograd's convolution of a padded map; `u` is packed, `y` a view `(N, H, W, K)` to write to."""
        n, height, width, channels = x.padded.shape
        rows, columns, filters = height // 4, width // 4, len(bias)
        threads = torch.get_num_threads()
        chunk, alone = self.chunk(n * rows * columns, channels, filters, threads)
        numbers = scratch(chunk * 36 * (channels + filters) * (threads if alone else 1))
        self._library.convolve(
            _pointer(x.padded), n, rows, columns, channels, filters, _pointer(u), _pointer(numbers), chunk, alone, threads,
            *_image(y), _pointer(bias), relu, pool,
        )  # fmt: skip
