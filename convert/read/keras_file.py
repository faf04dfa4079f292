"""The arrays of a Keras file, of any version: names, shapes, order, numbers; and its configuration, not yet understood.

`hdf5_process` and `archive` say where in the file the numbers lie; they are read here.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..array import Units
from ..atomic_files import scratch_folder
from ..errors import naming_file
from .archive import TASK_WEIGHTS, read_keras_archive, read_keras_folder
from .file_kind import SAVED_AGAIN, FileKind, file_kind
from .hdf5_process import run_hdf5_reader
from .saved_model import read_checkpoint, read_saved_model
from .strict_json import parse_json


@dataclass(frozen=True)
class KerasArray:
    """One array of the file, whose numbers are read on demand."""

    name: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    path: Path
    offset: int

    @property
    def place(self) -> tuple[Path, int, str]:
        """What tells it from other arrays; one that is empty lies where another does."""
        return self.path, self.offset, "" if math.prod(self.shape) else self.name

    @property
    def owner(self) -> str:
        """The layer in the array's name: `head/dense/kernel:0` → `dense`, `lstm/lstm_cell/kernel:0` → `lstm`."""
        folders = self.name.split("/")[:-1]
        if len(folders) > 1 and re.fullmatch(r"(lstm|gru|simple_rnn)_cell(_\d+)?", folders[-1]):
            folders.pop()
        return "".join(folders[-1:])

    @property
    def dtype(self) -> torch.dtype:
        return tensor_of(np.empty(0, self.stored)).dtype

    def read(self, units: Units = ...) -> torch.Tensor:
        """Returns the array as Keras laid it out, or a part of it. A ValueError tells that the file no longer holds it.

        It is mapped from the file, as PyTorch and safetensors do: reading a kernel's columns takes as long as all the rest
        of a conversion. If the file is truncated meanwhile, the system ends the process (SIGBUS).
        """
        try:
            if self.path.stat().st_size < self.offset + math.prod(self.shape) * self.stored.itemsize:
                raise ValueError("it ends before the array does")
            numbers = self._mapped
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}: can't be read from the file any more ({error})") from None
        return tensor_of(numbers if units is ... else numbers[..., units])

    @cached_property
    def _mapped(self) -> np.ndarray:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.stored)
        return np.memmap(self.path, self.stored, "c", self.offset, self.shape)


class GroupNames(Enum):
    """What a file calls the group of a layer's arrays; the examples are of a second convolution that ten layers follow."""

    OWN = "the layer's own name, block1_conv2"
    CLASS = "its class, numbered by itself, layers/conv2d_1"
    PLACE = "its place in the model from the end, layer-11"


@dataclass(frozen=True)
class KerasLayer:
    """A layer, or a nested model, and its arrays in Keras's order."""

    name: str
    arrays: list[KerasArray]


@dataclass(frozen=True)
class KerasFile:
    """What a file of Keras's holds."""

    format: str  # for the report
    keras_version: str  # of the Keras that wrote it
    layers: list[KerasLayer]  # in the file's order, those without arrays among them
    config: dict[str, Any] | None  # Keras's JSON of the architecture; None in a file of weights alone
    group_names: GroupNames
    turned: bool = False  # Keras 2 wrote it on Theano, whose kernels are turned by 180°
    by_order: bool = False  # the configuration is from elsewhere: layers may be numbered otherwise, and as in Keras the order decides

    @property
    def is_named(self) -> bool:
        """Whether groups have their layers' own names, and so one group the arrays of all layers in a nested model."""
        return self.group_names is GroupNames.OWN

    @property
    def in_order(self) -> bool:
        """Whether the groups come in the order of the layers; HDF5 sorts those that are named by class."""
        return self.group_names is not GroupNames.CLASS

    def with_architecture(self, config: dict[str, Any], keras_version: str) -> "KerasFile":
        """Copies the file with the architecture of a model that its weights are for, written by that version, if it's known."""
        return replace(self, config=config, keras_version=keras_version or self.keras_version, by_order=True)

    @property
    def unshared(self) -> list[KerasLayer]:
        """The layers, each once: a SavedModel has one that two models share in both."""
        first = {tuple(array.place for array in layer.arrays): id(layer) for layer in self.layers[::-1] if layer.arrays}
        once = {*first.values()}
        return [layer for layer in self.layers if not layer.arrays or id(layer) in once]

    @property
    def arrays(self) -> list[KerasArray]:
        return [array for layer in self.unshared for array in layer.arrays]


def tensor_of(numbers: np.ndarray) -> torch.Tensor:
    """Makes a tensor of numbers as a file stores them, without a copy where PyTorch has the type."""
    if numbers.dtype.kind == "V":  # bfloat16, which neither HDF5 nor numpy knows
        return torch.from_numpy(numbers.view(np.int16)).view(torch.bfloat16)
    if numbers.dtype.kind == "u" and numbers.itemsize > 1:  # PyTorch has such types, but few operators for them
        numbers = numbers.astype(np.int64)
    return torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("="), copy=False))


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Opens what Keras wrote; its arrays can be read while it is open. A ValueError tells of any other file."""
    kind = file_kind(path)
    with scratch_folder() as scratch:
        with naming_file(path):
            if kind is FileKind.HDF5:
                found = _read_hdf5(path, path, 0, path.stat().st_size, scratch / "spool")
                if not found.layers and found.config is None:
                    raise ValueError("an HDF5 file without Keras layers; expected `layer_names` or a group `layers`")
            elif kind in (FileKind.KERAS_ARCHIVE, FileKind.KERAS_FOLDER):
                is_folder = kind is FileKind.KERAS_FOLDER
                archive = read_keras_folder(path) if is_folder else read_keras_archive(path, scratch)
                found = _read_hdf5(path, archive.path, archive.start, archive.length, scratch / "spool")
                if is_folder and (task := path / TASK_WEIGHTS).is_file():
                    head = _read_hdf5(path, task, 0, task.stat().st_size, scratch / "task")
                    inner = [replace(layer, name=f"layers/vgg_backbone/{layer.name}") for layer in found.layers]
                    found = replace(found, layers=inner + head.layers)
                found = replace(found, format=".keras", keras_version=archive.keras_version, config=archive.config)
            elif kind in (FileKind.SAVED_MODEL, FileKind.CHECKPOINT):
                found = _read_saved_model(path, kind)
            else:
                raise ValueError(f"{kind.value}, which isn't read; {SAVED_AGAIN}")
        try:
            yield found
        finally:
            for layer in found.layers:
                for array in layer.arrays:
                    vars(array).pop("_mapped", None)  # Windows removes no file that is mapped


def _read_hdf5(path: Path, source: Path, start: int, length: int, spool: Path) -> KerasFile:
    """Describes the HDF5 file at `start` of `source`; `path` is the file that the user named."""
    found = run_hdf5_reader(path, source, start, length, spool)

    def array(name: str, shape: list[int], kind: str, is_packed: bool, offset: int) -> KerasArray:
        return KerasArray(name, tuple(shape), np.dtype(kind), spool if is_packed else source, offset)

    layers = [KerasLayer(name, [array(*described) for described in arrays]) for name, arrays in found["layers"]]
    config = None if found["config"] is None else parse_json(found["config"], "model_config")
    names = GroupNames.OWN if found["is_named"] else GroupNames.CLASS
    return KerasFile(found["format"], found["version"], layers, config, names, found["turned"])


def _read_saved_model(path: Path, kind: FileKind) -> KerasFile:
    is_checkpoint = kind is FileKind.CHECKPOINT
    found = read_checkpoint(path) if is_checkpoint else read_saved_model(path)
    layers = [
        KerasLayer(
            layer.place,
            [KerasArray(name, x.shape, np.dtype(x.kind), x.path, x.start) for name, x in layer.arrays],
        )
        for layer in found.layers
    ]
    if not layers:
        raise ValueError("no layer with arrays in it")
    name = "TensorFlow checkpoint" if is_checkpoint else "SavedModel"
    return KerasFile(name, found.keras_version or "2", layers, found.config, GroupNames.PLACE)
