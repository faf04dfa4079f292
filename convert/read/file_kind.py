"""What kind of file a file is, by its content; its name doesn't matter."""

from enum import Enum
from pathlib import Path

from .archive import WEIGHTS, ZIP_MAGIC, member_names

EXPECTED = "expected a Keras file, or one that `convert` wrote (.safetensors, .pt, .pth)"


class FileKind(Enum):
    HDF5 = "Keras's .h5 and .weights.h5"
    KERAS_ARCHIVE = "Keras's .keras, a zip"
    SAFETENSORS = "PyTorch tensors as .safetensors"
    TORCH_ARCHIVE = "PyTorch tensors as torch.save writes them, a zip"

    @property
    def is_keras(self) -> bool:
        return self in (FileKind.HDF5, FileKind.KERAS_ARCHIVE)


def file_kind(path: Path) -> FileKind:
    """Returns the kind of a file. A ValueError tells of one that isn't read."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: no plain file")
    with open(path, "rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{":  # a JSON header after its length
        return FileKind.SAFETENSORS
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return FileKind.HDF5
    if head[:4] == ZIP_MAGIC:
        return FileKind.KERAS_ARCHIVE if WEIGHTS in member_names(path) else FileKind.TORCH_ARCHIVE
    if not head:
        raise ValueError(f"{path}: an empty file")
    raise ValueError(
        f"{path}: {EXPECTED}. Received: another kind of file; files of PyTorch before 1.6, which aren't read, are "
        "read after torch.save(torch.load(path, weights_only=True), path)"
    )
