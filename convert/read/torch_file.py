"""Tensors in a file of PyTorch's, and the architecture that a `.safetensors` of `convert`'s has beside them."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import naming_file
from .archive import read_torch_archive
from .file_kind import EXPECTED, FileKind, file_kind
from .strict_json import LONGEST_JSON, parse_json
from .torch_pickle import StorageEntry, TensorEntry, read_old_pickles, read_pickle


class TorchFile(NamedTuple):
    """Tensors by name, of the file's own type, mapped from it where that is possible; and its metadata."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def architecture(self) -> dict[str, Any] | None:
        """The layers of the model that the tensors belong to, where the file has them."""
        text = self.metadata.get("architecture")
        return parse_json(text, "architecture") if text else None


def read_torch_file(path: Path) -> TorchFile:
    """Reads the tensors of a `.safetensors`, or of a dict or a checkpoint that `torch.save` wrote, of a model's tensors alone.

    A ValueError tells of any other file.
    """
    kind = file_kind(path)
    with naming_file(path):
        if kind is FileKind.SAFETENSORS:
            found = _read_safetensors(path)
        else:
            found = TorchFile(_read_saved(path, is_old=kind is FileKind.OLD_TORCH_FILE), {})
        for name, tensor in found.tensors.items():
            if tensor.is_floating_point() and tensor.element_size() == 1:
                raise ValueError(f"{name[:100]!r}: {tensor.dtype} isn't read; save tensor.float()")
            # An expanded tensor has any size and a few bytes.
            is_whole = math.prod(tensor.shape) * tensor.element_size() <= tensor.untyped_storage().nbytes()
            if tensor.is_complex() or tensor.device.type != "cpu" or not is_whole:
                raise ValueError(f"{name[:100]!r} is no plain tensor of numbers")
    return found


def _read_safetensors(path: Path) -> TorchFile:
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as stream:  # safetensors accepts a header of any length, and a name that comes twice
            length = int.from_bytes(stream.read(8), "little")
            parse_json(stream.read(min(length, LONGEST_JSON + 1)), "header")
        with safe_open(path, "pt") as file:
            found = TorchFile({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118
        found.architecture  # noqa: B018  # it is JSON, or the file is damaged
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"a damaged .safetensors file ({error})") from error
    return found


def _read_saved(path: Path, is_old: bool) -> dict[str, Tensor]:
    try:
        content = np.memmap(path, "u1", "c")
        if is_old:
            entries, in_order, start = read_old_pickles(content[:LONGEST_JSON].tobytes())
            return _map_tensors(entries, _old_storages(content, in_order, start))
        pickle, storages = read_torch_archive(path)
        stored = {key: content[start : start + length] for key, (start, length) in storages.items()}
        return _map_tensors(read_pickle(pickle), stored)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200].removeprefix(f"{path}: ")
        raise ValueError(
            f"{EXPECTED}. Received: {reason} (only tensors are read, as with weights_only=True)"
        ) from error


def _old_storages(content: np.ndarray, storages: Iterable[StorageEntry], start: int) -> dict[str, np.ndarray]:
    """Finds the bytes of each storage in a file from before PyTorch 1.6, where its length stands in front of it."""
    stored = {}
    for storage in storages:
        first, end = start + 8, start + 8 + storage.length * storage.dtype.itemsize
        stated = int.from_bytes(content[start:first].tobytes(), "little")
        if not first <= end <= len(content) or stated != storage.length:
            raise ValueError(f"{storage.length:,} numbers are declared, and another number of them is stored")
        stored[storage.key] = content[first:end]
        start = end
    return stored


def _map_tensors(entries: Mapping[str, TensorEntry], stored: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Makes tensors over the bytes of their storages, which are shared where they were, and copied only if misaligned."""
    storages: dict[StorageEntry, Tensor] = {}
    tensors = {}
    for name, (storage, offset, size, stride) in entries.items():
        if storage not in storages:
            content = stored.get(storage.key, np.empty(0, "u1"))
            if storage.length * storage.dtype.itemsize != len(content):
                raise ValueError(
                    f"{name[:100]!r}: {storage.length:,} numbers are declared, and {len(content):,} bytes stored"
                )
            aligned = content if content.ctypes.data % storage.dtype.itemsize == 0 else content.copy()
            storages[storage] = torch.from_numpy(aligned).view(storage.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        is_possible = max(offset, math.prod(max(n, 1) for n in size), *stride, 0) < 2**63  # they are int64
        if not is_possible or min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= storage.length):
            raise ValueError(f"{name[:100]!r}: it reaches beyond the numbers that are stored")
        tensors[name] = storages[storage].as_strided(size, stride, offset)
    return tensors
