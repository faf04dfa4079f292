"""Opens a `.keras`, and trusts nothing of it: a zip of `metadata.json`, `config.json` and `model.weights.h5`.

No member is extracted to where its name says; three are read, if each is what Keras writes. JSON is data.
PyTorch's zips are opened here too, as cautiously.
"""

from __future__ import annotations

import errno
import io
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from .strict_json import LONGEST_JSON, LONGEST_VERSION, parse_json

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"


UNPACKED_AT_MOST = (1 << 28, 8)  # so many bytes, and so many times what is stored: weights hardly compress


MOST_MEMBERS = 10_000


BLOCK = 1 << 20  # bytes read at a time


class KerasArchive(NamedTuple):
    """What a `.keras` says, and where the HDF5 file in it lies: in `path`, from `start`, of `length`."""

    config: dict[str, Any]
    keras_version: str
    path: Path
    start: int
    length: int


def is_archive(path: Path) -> bool:
    """Whether the content is that of a zip with a Keras model's weights in it."""
    with open(path, "rb") as stream, _damage_told(path):
        return stream.read(4) == b"PK\x03\x04" and WEIGHTS in zipfile.ZipFile(stream).namelist()


def read_archive(path: Path, scratch: Path) -> KerasArchive:
    """What a `.keras` holds; weights that are packed, which Keras doesn't do, are unpacked into the folder `scratch`.

    Raises:
        ValueError: a member is missing, or isn't as Keras writes it.
    """
    with open(path, "rb") as stream, _damage_told(path), zipfile.ZipFile(stream) as archive:
        members = _members(archive)
        if missing := {CONFIG, METADATA, WEIGHTS} - members.keys():
            raise ValueError(f"a damaged archive ({', '.join(sorted(missing))} missing)")
        starts = {name: _start(stream, members[name]) for name in (CONFIG, METADATA, WEIGHTS)}
        config = parse_json(_read(archive, members[CONFIG]), CONFIG)
        version = parse_json(_read(archive, members[METADATA]), METADATA).get("keras_version")
        if not isinstance(version, str) or len(version) > LONGEST_VERSION:
            raise ValueError(f"{METADATA}: expected the keras_version. Received: {version!r:.50}")
        weights = members[WEIGHTS]
        if weights.compress_type != zipfile.ZIP_STORED:
            with open(scratch / WEIGHTS, "wb") as unpacked:
                _unpack(archive, weights, unpacked)
            return KerasArchive(config, version, scratch / WEIGHTS, 0, weights.file_size)
        with archive.open(weights) as stored:  # it's read in place; here `zipfile` compares its CRC-32
            while stored.read(BLOCK):
                pass
        return KerasArchive(config, version, path, starts[WEIGHTS], weights.file_size)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turns all that `zipfile` raises over a damaged archive into a ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning
            raise
        raise ValueError(f"{path}: a damaged archive (it points to where it isn't)") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, struct.error, zlib.error) as error:
        raise ValueError(f"{path}: a damaged archive ({error})") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name, each of which is a plain one."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > MOST_MEMBERS:
        raise ValueError(f"an archive of more than {MOST_MEMBERS} members")
    for info in archive.infolist():
        name = info.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name or ":" in name:
            raise ValueError(f"a member whose name leads out of the archive ({name[:50]!r})")
        if name in members:
            raise ValueError(f"two members of the name {name[:50]!r}")
        if info.flag_bits & 1:
            raise ValueError(f"{name[:50]!r} is encrypted")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{name[:50]!r} is a link")
        least, times = UNPACKED_AT_MOST
        if info.file_size > least + times * info.compress_size:
            raise ValueError(
                f"{name[:50]!r} unpacks to {info.file_size:,} bytes, and {info.compress_size:,} are stored"
            )
        members[name] = info
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > LONGEST_JSON:
        raise ValueError(f"{info.filename}: longer than Keras writes it")
    content = io.BytesIO()
    _unpack(archive, info, content)
    return content.getvalue()


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, into: IO[bytes]) -> None:
    with archive.open(info) as packed:
        shutil.copyfileobj(packed, into)
    if into.tell() != info.file_size:
        raise ValueError(f"{info.filename}: {info.file_size:,} bytes are declared, and {into.tell():,} stored")


def _start(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its own header, which has to agree with the directory."""
    stream.seek(info.header_offset)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename}: there is no member where the archive's directory says")
    _, flags, method, _, _, _, packed, unpacked, name_length, extra_length = struct.unpack("<HHHHHIIIHH", header[4:])
    # Its lengths may come after it, or in an extra field; then the directory's count.
    elsewhere = flags & 8 or packed == unpacked == 0xFFFFFFFF
    if (
        stream.read(name_length) != info.filename.encode()
        or method != info.compress_type
        or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or (method == zipfile.ZIP_STORED and info.compress_size != info.file_size)
        or not (elsewhere or (packed, unpacked) == (info.compress_size, info.file_size))
    ):
        raise ValueError(f"{info.filename}: the archive's directory and the member disagree")
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.compress_size > stream.seek(0, 2):
        raise ValueError(f"{info.filename}: {info.compress_size:,} bytes are declared, and not stored in the archive")
    return start


class TorchArchive(NamedTuple):
    """The pickle of a zip that PyTorch wrote, and where the bytes of each storage lie: `(start, length)` by key."""

    pickle: bytes
    storages: dict[str, tuple[int, int]]


def read_torch_archive(path: Path) -> TorchArchive:
    """Finds the pickle and the storages in a zip that PyTorch wrote; the numbers themselves aren't read.

    Raises:
        ValueError: it isn't one, or a member isn't as PyTorch writes it.
    """
    with open(path, "rb") as stream, _damage_told(path), zipfile.ZipFile(stream) as archive:
        members = _members(archive)
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("no archive that PyTorch writes")
        places = {name: (_start(stream, info), info.file_size) for name, info in members.items()}

        def read(name: str) -> bytes:
            start, length = places[name]
            if length > LONGEST_JSON:
                raise ValueError(f"{name}: longer than PyTorch writes it")
            stream.seek(start)
            content = stream.read(length)
            if members[name].CRC not in (0, zlib.crc32(content)):  # 0: PyTorch was told to compute none
                raise ValueError(f"{name}: a damaged archive (its CRC-32 is wrong)")
            return content

        folder = pickles[0].removesuffix("data.pkl")
        order = read(f"{folder}byteorder").decode() if f"{folder}byteorder" in places else "little"
        if order != sys.byteorder:
            raise ValueError(f"its numbers are {order[:10]}-endian; torch.load it and torch.save it again")
        start = f"{folder}data/"
        storages = {name.removeprefix(start): place for name, place in places.items() if name.startswith(start)}
        return TorchArchive(read(pickles[0]), storages)
