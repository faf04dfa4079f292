"""Zip archives from untrusted sources: Keras's `.keras` and those that `torch.save` writes.

No member is extracted to where its name says, and each has to be as Keras or PyTorch writes it.
"""

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

from ..errors import naming_file
from .strict_json import LONGEST_JSON, LONGEST_VERSION, parse_json

ZIP_MAGIC = b"PK\x03\x04"
WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"  # the members of a .keras
# Of a model that KerasHub builds on the backbone in the other files.
TASK, TASK_WEIGHTS = "task.json", "task.weights.h5"
UNPACKED_AT_MOST = (1 << 28, 8)  # so many bytes, and so many times what is stored: weights hardly compress
MOST_MEMBERS = 10_000
LONGEST_DIRECTORY = 1 << 22  # bytes, which `zipfile` reads at once, and takes ten times the memory for


class KerasArchive(NamedTuple):
    """What a `.keras` says, and where the HDF5 file in it lies: in `path`, from `start`, of `length`."""

    config: dict[str, Any]
    keras_version: str
    path: Path
    start: int
    length: int


def member_names(path: Path) -> list[str]:
    """Lists the names of an archive's members. A ValueError tells of a damaged one."""
    with naming_file(path), _open(path) as (_, archive):
        return archive.namelist()


def read_keras_archive(path: Path, scratch: Path) -> KerasArchive:
    """Reads what a `.keras` holds; compressed weights, which Keras doesn't write, are unpacked into the folder `scratch`.

    A ValueError tells of a member that is missing, or isn't as Keras writes it.
    """
    with naming_file(path), _open(path) as (stream, archive):
        members = _members(archive)
        if missing := {CONFIG, METADATA, WEIGHTS} - members.keys():
            raise ValueError(f"a damaged archive ({', '.join(sorted(missing))} missing)")
        starts = {name: _start(stream, members[name]) for name in (CONFIG, METADATA, WEIGHTS)}
        config = _read_json(archive, members[CONFIG])
        version = _version(_read_json(archive, members[METADATA]))
        weights = members[WEIGHTS]
        if weights.compress_type != zipfile.ZIP_STORED:
            with open(scratch / WEIGHTS, "wb") as unpacked:
                _unpack(archive, weights, unpacked)
            return KerasArchive(config, version, scratch / WEIGHTS, 0, weights.file_size)
        with _reporting_damage(), archive.open(weights) as stored:  # to compare its CRC-32: it is read in place
            while stored.read(1 << 20):
                pass
        return KerasArchive(config, version, path, starts[WEIGHTS], weights.file_size)


def read_keras_folder(path: Path) -> KerasArchive:
    """Reads what a folder with the members of a `.keras` holds. A ValueError tells of one that isn't as Keras writes it.

    With a task's files beside them, as in KerasHub's presets, the configuration is the task's.
    """
    names = (TASK if (path / TASK_WEIGHTS).is_file() else CONFIG, METADATA)
    config, metadata = (parse_json(_first_bytes(path / name), name) for name in names)
    weights = path / WEIGHTS
    return KerasArchive(config, _version(metadata), weights, 0, weights.stat().st_size)


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(LONGEST_JSON + 1)


def _version(metadata: dict[str, Any]) -> str:
    version = metadata.get("keras_version")
    if not isinstance(version, str) or len(version) > LONGEST_VERSION:
        raise ValueError(f"{METADATA}: expected the keras_version. Received: {version!r:.50}")
    return version


def read_torch_archive(path: Path) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Returns the pickle in a zip that PyTorch wrote, and where the bytes of each storage lie: `(start, length)` by key.

    A ValueError tells of a zip, or a member, that PyTorch doesn't write.
    """
    with naming_file(path), _open(path) as (stream, archive):
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
        return read(pickles[0]), storages


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], zipfile.ZipFile]]:
    with _Stream(io.FileIO(path)) as stream:
        with _reporting_damage():
            archive = zipfile.ZipFile(stream)
        yield stream, archive


class _Stream(io.BufferedReader):
    """A file from which `zipfile` can't read a directory that is too long."""

    def read(self, size: int | None = -1) -> bytes:
        if size and size > LONGEST_DIRECTORY:
            raise ValueError(f"its directory has more than {LONGEST_DIRECTORY:,} bytes")
        return super().read(size)


@contextmanager
def _reporting_damage() -> Iterator[None]:
    """Turns what `zipfile` raises over a damaged archive into a ValueError; nothing but its calls stands inside."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning
            raise
        raise ValueError("a damaged archive (a place in it lies before its beginning)") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, struct.error, zlib.error) as error:
        raise ValueError(f"a damaged archive ({error})") from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's members by name. Raises a ValueError unless each is a plain one."""
    if len(archive.infolist()) > MOST_MEMBERS:
        raise ValueError(f"an archive of more than {MOST_MEMBERS} members")
    members: dict[str, zipfile.ZipInfo] = {}
    least, times = UNPACKED_AT_MOST
    for info in archive.infolist():
        name = info.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name or name[1:2] == ":":
            raise ValueError(f"a member whose name leads out of the archive ({name[:50]!r})")
        if name in members:
            raise ValueError(f"two members of the name {name[:50]!r}")
        if info.flag_bits & 1:
            raise ValueError(f"{name[:50]!r} is encrypted")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{name[:50]!r} is a link")
        unpacked, stored = info.file_size, info.compress_size
        if unpacked > least + times * stored:
            raise ValueError(f"{name[:50]!r} unpacks to {unpacked:,} bytes, and {stored:,} are stored")
        members[name] = info
    return members


def _read_json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.file_size > LONGEST_JSON:
        raise ValueError(f"{info.filename}: longer than Keras writes it")
    _unpack(archive, info, content := io.BytesIO())
    return parse_json(content.getvalue(), info.filename)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: IO[bytes]) -> None:
    with _reporting_damage(), archive.open(info) as packed:
        shutil.copyfileobj(packed, target)
    if target.tell() != info.file_size:
        raise ValueError(f"{info.filename}: {info.file_size:,} bytes are declared, and {target.tell():,} stored")


def _start(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Returns where a member's bytes begin: after its own header, which has to agree with the archive's directory."""
    end = stream.seek(0, 2)
    stream.seek(info.header_offset if 0 <= info.header_offset < end else end)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != ZIP_MAGIC:
        raise ValueError(f"{info.filename}: there is no member where the archive's directory says")
    _, flags, method, _, _, _, packed, unpacked, name_length, extra_length = struct.unpack("<HHHHHIIIHH", header[4:])
    # The lengths may come after the member, or in an extra field; then the directory's count.
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
    if start + info.compress_size > end:
        raise ValueError(f"{info.filename}: {info.compress_size:,} bytes are declared, and not stored in the archive")
    return start
