"""Which arrays a Keras file holds, whatever version wrote it: names, shapes, order. What they mean is for others to say.

What is in the file is told by `hdf5`, in a process of its own, and by `archive`. Here the numbers are read, from where
these two say that they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..array import Units
from ..files import scratch_folder
from .archive import is_archive, read_archive
from .hdf5_process import read_in_process
from .strict_json import parse_json

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasArray:
    """One array of the file, read when it is asked for."""

    name: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    path: Path
    offset: int

    @property
    def owner(self) -> str:
        """The layer that the array's name names: `head/dense/kernel:0` → `dense`."""
        return "".join(self.name.split("/")[-2:-1])

    @property
    def dtype(self) -> torch.dtype:
        return _tensor_of(np.empty(0, self.stored)).dtype

    def read(self, units: Units = ...) -> torch.Tensor:
        """The array as Keras laid it out, or a part of it, see `network.Array`.

        It is mapped from the file, as PyTorch and safetensors do too: to take a kernel's columns otherwise takes as long as
        all the rest. Who cuts the file in the midst of that ends the process (SIGBUS); nothing half-written gets a name.

        Raises:
            ValueError: the file no longer holds it.
        """
        try:
            if self.path.stat().st_size < self.offset + math.prod(self.shape) * self.stored.itemsize:
                raise ValueError("it ends before the array does")
            numbers = self._mapped
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}: can't be read from the file any more ({error})") from None
        return _tensor_of(numbers if units is ... else numbers[..., units])

    @cached_property
    def _mapped(self) -> np.ndarray:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.stored)
        return np.memmap(self.path, self.stored, "c", self.offset, self.shape)


@dataclass(frozen=True)
class KerasLayer:
    """A layer, or a nested model, and its arrays in Keras's order."""

    name: str
    arrays: list[KerasArray]


@dataclass(frozen=True)
class KerasFile:
    """A file: `layers` in the file's own order, layers without arrays among them.

    `config` is the architecture, as Keras's JSON has it; None in a file of weights alone. `is_named` says that the layers'
    names are Keras's; in a `.weights.h5` they are places. `turned` says that Keras 2 wrote it on Theano, whose kernels
    are turned by 180°.
    """

    path: Path
    format: str
    keras_version: str
    layers: list[KerasLayer]
    config: dict[str, Any] | None = None
    is_named: bool = True
    turned: bool = False

    @property
    def arrays(self) -> list[KerasArray]:
        return [array for layer in self.layers for array in layer.arrays]


def _tensor_of(numbers: np.ndarray) -> torch.Tensor:
    """A tensor of an array that may have its bytes in another order."""
    if numbers.dtype.kind == "V":  # bfloat16, which neither HDF5 nor numpy knows
        return torch.from_numpy(numbers.view(np.int16)).view(torch.bfloat16)
    if numbers.dtype.kind == "u" and numbers.itemsize > 1:  # for which PyTorch has a type, and little more
        numbers = numbers.astype(np.int64)
    return torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("="), copy=False))


def is_keras_file(path: Path) -> bool:
    """Whether the content is that of a Keras file: HDF5, or a zip that holds a model's weights."""
    with open(path, "rb") as stream:
        magic = stream.read(8)
    return magic == HDF5_MAGIC or (magic[:4] == b"PK\x03\x04" and is_archive(path))


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Opens a Keras file of any kind, told by its content. Its arrays can be read while it is open.

    Raises:
        ValueError: it isn't one, or isn't as Keras writes it.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        magic = stream.read(8)
    with scratch_folder() as scratch:
        if magic == HDF5_MAGIC:
            yield _read_hdf5(path, path, 0, path.stat().st_size, scratch / "spool")
        elif is_archive(path):
            archive = read_archive(path, scratch)
            found = _read_hdf5(path, archive.path, archive.start, archive.length, scratch / "spool")
            yield KerasFile(path, ".keras", archive.keras_version, found.layers, archive.config, is_named=False)
        else:
            raise ValueError(f"{path}: neither an HDF5 file nor a .keras archive; expected a file that Keras wrote")


def _read_hdf5(path: Path, source: Path, start: int, length: int, spool: Path) -> KerasFile:
    """What the HDF5 file at `start` of `source` holds; `path` is what the user calls it."""
    found = read_in_process(path, source, start, length, spool)
    if "error" in found:
        raise ValueError(f"{path}: {found['error']}")
    if not found["layers"] and found["config"] is None and source == path:
        raise ValueError(f"{path}: an HDF5 file without Keras layers; expected `layer_names` or a group `layers`")
    layers = [
        KerasLayer(
            name,
            [
                KerasArray(array, tuple(shape), np.dtype(kind), spool if is_packed else source, offset)
                for array, shape, kind, is_packed, offset in arrays
            ],
        )
        for name, arrays in found["layers"]
    ]
    config = None if found["config"] is None else parse_json(found["config"], f"{path}: model_config")
    return KerasFile(path, found["format"], found["version"], layers, config, found["is_named"], found["turned"])
