"""Limits for an untrusted HDF5 file: what is followed, opened and unpacked in it, and what is refused.

Only plain links are followed, so that no other file is ever opened; only numbers are read; nothing is unpacked that
declares much more than it stores. Nothing else in this package opens what lies in an HDF5 file.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5t, h5z

from .archive import UNPACKED_AT_MOST

MEMORY = 1 << 30  # of the reading process's address space, half of it the libraries'
MOST_MEMBERS = 5000  # of a group
MOST_OBJECTS = 20_000  # looked at in all
LONGEST_NAME = 1000
LONGEST_ATTRIBUTE = 1 << 24
LARGEST_CHUNK = 1 << 28
MOST_CHUNKS = 10**5
BLOCK = 1 << 24  # bytes unpacked at a time
UNPACKED_A_SECOND = 1 << 25  # bytes, and chunks, on a slow machine
CHUNKS_A_SECOND = 1 << 13
TYPES = {
    h5t.COMPOUND: "compound",
    h5t.STRING: "text",
    h5t.REFERENCE: "references",
    h5t.VLEN: "lists",
    h5t.ENUM: "enums",
}


class RefusedError(Exception):
    """Says what is wrong with the file, and where."""


@dataclass
class GuardedFile:
    """An open HDF5 file, read within limits."""

    root: h5py.File
    start: int  # where it begins in the file that holds it
    length: int  # its bytes
    spool: IO[bytes]  # takes the numbers of compressed arrays
    deadline: float  # the processor time at which the process ends; what is unpacked postpones it
    objects: int = 0  # looked at
    stored: int = 0  # bytes of contiguous arrays
    packed: int = 0  # bytes of the other arrays, as stored
    unpacked: int = 0  # and as declared

    def members(self, group: h5py.Group) -> list[str]:
        if group.id.get_num_objs() > MOST_MEMBERS:
            raise RefusedError(f"{group.name}: more than {MOST_MEMBERS} members")
        return [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in group]

    def member(self, group: h5py.Group, name: str) -> Any:
        """Returns the member of a group under a plain name. A link that leads elsewhere isn't followed."""
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise RefusedError(f"more than {MOST_OBJECTS} groups and arrays")
        if not has(group, name):
            raise RefusedError(f"{group.name}: {name[:50]!r} isn't there")
        if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise RefusedError(f"{group.name}: {name[:50]!r} is a link that leads elsewhere, which isn't followed")
        return group[name]

    def folder(self, group: h5py.Group, path: list[str]) -> h5py.Group | None:
        """Returns the group at the end of a path of plain names, if it is there. Keras 2 allowed slashes in a layer's name."""
        for name in path:
            if not has(group, name):
                return None
            group = self.group(group, name)
        return group

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        found = self.member(parent, name)
        if not isinstance(found, h5py.Group):
            raise RefusedError(f"{parent.name}: {name[:50]!r} is no group")
        return found

    def array(self, group: h5py.Group, key: str, name: str) -> list[Any]:
        """Returns `[name, shape, type, whether it is in the spool, offset]` of an array of numbers."""
        found = self.member(group, key)
        if not isinstance(found, h5py.Dataset):
            raise RefusedError(f"the array {name!r} is named, but isn't there")
        file_type = found.id.get_type()
        kind = number_type(file_type)
        if kind == "V2" and self.text(found, "dtype") not in (None, "bfloat16"):
            raise RefusedError(f"{name}: two bytes a number, and not said to be bfloat16")
        if kind is None:
            received = TYPES.get(file_type.get_class(), "another type")
            raise RefusedError(f"{name}: expected floating-point numbers. Received: {received}")
        shape = found.shape
        if shape is None or len(shape) > 8:
            raise RefusedError(f"{name}: an array of no shape that Keras writes")
        size = math.prod(shape) * np.dtype(kind).itemsize
        plist = found.id.get_create_plist()
        if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
            raise RefusedError(f"{name}: its numbers lie in another file, which isn't opened")
        stored = found.id.get_storage_size()
        if plist.get_layout() == h5d.CONTIGUOUS:
            offset = found.id.get_offset()
            self.stored += size
            if size and (offset is None or stored != size or offset + size > self.length or self.stored > self.length):
                raise RefusedError(f"{name}: {size:,} bytes are declared, and not stored in the file")
            return [name, shape, kind, False, self.start + (offset or 0)]
        self.packed, self.unpacked = self.packed + stored, self.unpacked + size
        least, times = UNPACKED_AT_MOST
        if stored > self.length or self.packed > self.length or self.unpacked > least + times * self.packed:
            raise RefusedError(f"{name}: {size:,} bytes are declared, and only {stored:,} stored in the file")
        if plist.get_layout() == h5d.CHUNKED:
            self.check_chunks(found, plist, name)
        offset = self.spool.tell()
        for block in blocks(found):
            self.spool.write(block.tobytes())
        return [name, shape, kind, True, offset]

    def check_chunks(self, dataset: h5py.Dataset, plist: Any, name: str) -> None:
        """Checks that each chunk is there and unpacks to its full length: HDF5 leaves missing data uninitialised."""
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize
        if size > LARGEST_CHUNK:
            raise RefusedError(f"{name}: chunks of more than {LARGEST_CHUNK:,} bytes")
        filters = {code: values for code, _, values, _ in map(plist.get_filter, range(plist.get_nfilters()))}
        shuffled = filters.pop(h5z.FILTER_SHUFFLE, None)
        deflated = filters.pop(h5z.FILTER_DEFLATE, None)
        if filters or shuffled not in (None, (dataset.dtype.itemsize,)):
            raise RefusedError(f"{name}: stored with a filter that isn't known here; deflate and shuffle are")
        expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if expected > MOST_CHUNKS or dataset.id.get_num_chunks() != expected:
            raise RefusedError(f"{name}: {expected:,} chunks are declared, and not stored in the file")
        self.deadline += dataset.nbytes / UNPACKED_A_SECOND + expected / CHUNKS_A_SECOND
        set_limit("RLIMIT_CPU", self.deadline)

        def check(chunk: Any) -> None:
            length = chunk.size
            if deflated is not None:
                _, content = dataset.id.read_direct_chunk(chunk.chunk_offset)
                try:
                    length = len(zlib.decompressobj().decompress(content, size + 1))
                except zlib.error as error:
                    raise RefusedError(f"{name}: a damaged chunk ({error})") from None
            if chunk.filter_mask or length != size:
                raise RefusedError(f"{name}: a chunk that isn't stored whole")

        dataset.id.chunk_iter(check)

    def names(self, group: h5py.Group, attribute: str) -> list[str]:
        """Returns a list of names; Keras splits one too long for an HDF5 attribute into `attribute0`, `attribute1`, …"""
        if attribute in group.attrs:
            return self.strings(group, attribute)
        parts = itertools.takewhile(group.attrs.__contains__, (f"{attribute}{n}" for n in itertools.count()))
        return [name for part in parts for name in self.strings(group, part)]

    def text(self, group: h5py.Group | h5py.Dataset, attribute: str) -> str | None:
        return "".join(self.strings(group, attribute)[:1]) if attribute in group.attrs else None

    def strings(self, group: h5py.Group | h5py.Dataset, attribute: str) -> list[str]:
        """Returns the strings of an attribute, one or many. Keras writes an empty list as an empty array of numbers."""
        where = f"{group.name}: the attribute {attribute!r}"
        found = h5a.open(group.id, attribute.encode())
        count = math.prod(found.shape)
        if not count:
            return []
        if count > MOST_OBJECTS or found.get_storage_size() > LONGEST_ATTRIBUTE:
            raise RefusedError(f"{where} is longer than Keras writes one")
        if found.get_type().get_class() != h5t.STRING or len(found.shape) > 1:
            raise RefusedError(f"{where} holds no names")
        value = group.attrs[attribute]
        texts = [value] if isinstance(value, str | bytes) else list(value)
        try:
            return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in texts]
        except UnicodeDecodeError:
            raise RefusedError(f"{where} holds a name that Keras doesn't write (no UTF-8)") from None


def has(group: h5py.Group, name: str) -> bool:
    """Tells whether a group has a link of that plain name, wherever it leads."""
    if name in ("", ".", "..") or len(name) > LONGEST_NAME or "/" in name or not name.isprintable():
        raise RefusedError(f"{group.name[:200]}: a name that Keras doesn't write ({name[:50]!a})")
    return group.id.links.exists(name.encode())


def number_type(kind: h5t.TypeID) -> str | None:
    """Returns numpy's name of a type of numbers that Keras writes, "V2" for bfloat16, which HDF5 lacks; else None."""
    if kind.get_class() == h5t.OPAQUE:
        return "V2" if kind.get_size() == 2 else None
    if kind.get_class() not in (h5t.FLOAT, h5t.INTEGER) or kind.get_size() not in (1, 2, 4, 8):
        return None
    dtype = kind.dtype
    return dtype.str if dtype.kind in "fiu" and kind == h5t.py_create(dtype) else None


def blocks(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """Yields a dataset's numbers in order, some rows at a time."""
    if not dataset.shape:
        yield dataset[()]
        return
    row = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = dataset.chunks[0] if dataset.chunks else 1  # no chunk is unpacked for two blocks
    rows = max(1, BLOCK // (row * step)) * step
    for first in range(0, dataset.shape[0], rows):
        yield dataset[first : first + rows]


def set_limit(name: str, most: float) -> None:
    """Limits what this process may use, by a name of `resource`'s, as far as the hard limit lets it.

    Of RLIMIT_CPU, seconds of processor time in all, the system ends the process by SIGXCPU.
    """
    with suppress(ImportError, AttributeError, ValueError, OSError):  # a system without that limit
        import resource

        kind = getattr(resource, name)
        _, highest = resource.getrlimit(kind)
        most = most if highest == resource.RLIM_INFINITY else min(most, highest)
        resource.setrlimit(kind, (math.ceil(most), highest))
