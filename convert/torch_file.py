"""PyTorch's files: the tensors in one, and the architecture that a file of ours has beside them."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .archive import LONGEST_JSON, parse_json, read_pickle


class TorchFile(NamedTuple):
    """Tensors by name, of the file's own type, mapped from it where that is possible; and its metadata."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What builds the model that the tensors belong to, where the file says it."""
        text = self.metadata.get("architecture")
        return parse_json(text, "architecture") if text else None


def is_torch_file(path: Path) -> bool:
    """Whether the content is a `.safetensors`'s or a pickle's: neither HDF5 nor a zip with a Keras model."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: no plain file")
    with open(path, "rb") as stream:
        head = stream.read(9)
    if not head:
        raise ValueError(f"{path}: an empty file")
    if head[8:] == b"{":
        return True
    from .keras_file import is_keras_file

    return not is_keras_file(path)


def read_torch_file(path: Path) -> TorchFile:
    """The tensors of a `.safetensors`, or of a pickled dict of tensors (`.pt`, `.pth`), told by the content.

    Raises:
        ValueError: the file is neither, or is damaged.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(9)
    found = _read_safetensors(path) if head[8:9] == b"{" else TorchFile(_read_pickle(path), {})
    for name, tensor in found.tensors.items():
        if not _is_plain(tensor):
            raise ValueError(f"{path}: {name[:100]!r} is no plain tensor of numbers")
    return found


def _is_plain(tensor: Tensor) -> bool:
    """Dense, of real numbers, each of them stored: an expanded tensor has any size and a few bytes."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
        return False
    return tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _read_safetensors(path: Path) -> TorchFile:
    from safetensors import SafetensorError, safe_open

    try:
        _check_header(path)
        with safe_open(path, "pt") as file:
            found = TorchFile({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118
        found.architecture  # noqa: B018  # it is JSON, or the file is damaged
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: a damaged .safetensors file ({error})") from None
    return found


def _check_header(path: Path) -> None:
    """Raises a ValueError for what the library doesn't mind: a header of any length, a name that comes twice."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        parse_json(stream.read(min(length, LONGEST_JSON + 1)), "header")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    expected = f"{path}: expected a Keras file, or one that `convert` wrote (.safetensors, .pt, .pth)"
    try:
        with open(path, "rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise ValueError(
                    "none of them, nor one of PyTorch's before 1.6, which aren't read: torch.save it again"
                )
        _check_pickle(read_pickle(path))
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged pickle leads to
        reason = " ".join(f"{error}".split())[:200] or type(error).__name__
        raise ValueError(
            f"{expected}. Received: {reason.removeprefix(f'{path}: ')} (read with weights_only=True)"
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise ValueError(f"{expected}. Received: a pickle that isn't a dict of tensors")
    return tensors


def _check_pickle(content: bytes) -> None:
    """Raises a ValueError if a pickle names anything but tensors. Even what PyTorch deems safe may ask for any memory."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ", "NEWOBJ_EX", "BYTEARRAY8"):
            raise ValueError(f"a pickle with {opcode.name}, which isn't run")
        if opcode.name == "GLOBAL" and not _OF_TENSORS.fullmatch(str(argument)):
            raise ValueError(f"a pickle that names {str(argument).replace(' ', '.')}, which isn't run")


_OF_TENSORS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\.storage UntypedStorage|torch\._utils _rebuild_(tensor_v2|parameter)"
)
