"""Reads what a Keras HDF5 file says of itself, and trusts nothing of it. A program of its own: `python hdf5.py …`.

A file from a stranger can send the HDF5 library into an endless loop, or crash it. So it runs in a process that can be
killed, with limits on memory and time. It prints one JSON object: which arrays there are, their types and shapes, and
where in the file their numbers lie, for the caller to read them there. Arrays that are compressed it unpacks into a spool
file. It follows no link but plain ones, so that no other file is ever opened, and takes no type but numbers.

The three layouts of Keras (the facts were read off files that Keras wrote, and off its source):

- with `layer_names`: weights of Keras 1 and 2, and, under `/model_weights`, whole models of Keras 2 and 3. Each layer is a
  group whose attribute `weight_names` names its arrays, in order; a nested model is one group with all its arrays.
- without: `.weights.h5` of Keras 2 and 3. `/layers/<type>[_N]/vars/0, 1, …`, nested models alike.
- inside a `.keras`: such a `.weights.h5`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5t, h5z

MEMORY = 3 << 30  # of address space, most of it the libraries'
MOST_MEMBERS = 5000  # of a group
MOST_OBJECTS = 20_000  # looked at in all
MOST_NESTED = 20  # models in models
LONGEST_NAME = 1000
LONGEST_ATTRIBUTE = 1 << 24
FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
UNPACKED_AT_MOST = (1 << 28, 8)  # so many bytes, and so many times what is stored: weights hardly compress
BLOCK = 1 << 24


class Refused(Exception):
    """What is wrong, and where."""


class Slice:
    """A part of a file as a file, for a `.h5` that lies in a `.keras`."""

    def __init__(self, stream: IO[bytes], start: int, length: int) -> None:
        self.stream, self.start, self.length, self.position = stream, start, length, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.length)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        self.stream.seek(self.start + self.position)
        wanted = max(0, min(len(buffer), self.length - self.position))
        count = self.stream.readinto(buffer[:wanted])  # type: ignore[attr-defined]
        self.position += count
        return count

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(max(0, self.length - self.position) if size < 0 else size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def write(self, content: bytes) -> int:
        raise OSError("read only")

    def flush(self) -> None:
        pass


class Reader:
    """Walks one file. What it finds of packed arrays goes into the spool."""

    def __init__(self, root: h5py.File, start: int, length: int, spool: IO[bytes]) -> None:
        self.root, self.start, self.length, self.spool = root, start, length, spool
        self.objects = self.stored = self.packed = self.unpacked = 0

    def read(self) -> dict[str, Any]:
        """All that the file says of its arrays."""
        weights = self.group(self.root, "model_weights") if "model_weights" in self.root else self.root
        version = self.text(self.root, "keras_version") or self.text(weights, "keras_version")
        found: dict[str, Any] = {"config": self.text(self.root, "model_config")}
        if names := self.names(weights, "layer_names"):
            found["layers"] = [self.named_layer(weights, name) for name in names]
            found["format"] = "weights .h5" if weights is self.root else "whole model .h5"
            return found | {"version": version or "1", "is_named": True}
        layers = list(self.numbered_layers(self.root, 0)) if "layers" in self.root else []
        has_names = any(name for *_, name in layers)
        found["layers"] = [[place, arrays] for place, arrays, _ in layers]
        return found | {"format": ".weights.h5", "version": version or ("3" if has_names else "2"), "is_named": False}

    def named_layer(self, weights: h5py.Group, name: str) -> list[Any]:
        group = self.folder(weights, name.split("/"))
        if group is None:
            raise Refused(f"layer {name!r} is named, but has no group")
        names = self.names(group, "weight_names")
        if len(set(names)) < len(names):
            raise Refused(f"layer {name!r}: two arrays of one name, of which Keras has kept one")
        arrays = []
        for weight_name in names:
            *folders, last = weight_name.split("/")
            place = self.folder(group, folders)
            if place is None or last not in place:
                raise Refused(f"layer {name!r}: the array {weight_name!r} is named, but isn't there")
            arrays.append(self.array(place, last, weight_name))
        return [name, arrays]

    def numbered_layers(self, model: h5py.Group, depth: int) -> Iterator[tuple[str, list[Any], bool]]:
        if depth > MOST_NESTED:
            raise Refused(f"{model.name}: models nested deeper than {MOST_NESTED}, or in themselves")
        layers = self.group(model, "layers")
        for key in sorted(self.members(layers), key=natural):
            group = self.group(layers, key)
            if "layers" in group:
                yield from self.numbered_layers(group, depth + 1)
            elif "vars" in group:
                variables = self.group(group, "vars")
                keys = self.members(variables)
                if not all(re.fullmatch(r"\d{1,6}", number) for number in keys):
                    raise Refused(f"{variables.name}: expected arrays 0, 1, … Received: {keys[:3]}")
                place = group.name[1:]
                arrays = [self.array(variables, n, f"{place}/vars/{n}") for n in sorted(keys, key=int)]
                yield place, arrays, h5a.exists(variables.id, b"name")

    def members(self, group: h5py.Group) -> list[str]:
        if group.id.get_num_objs() > MOST_MEMBERS:
            raise Refused(f"{group.name}: more than {MOST_MEMBERS} members")
        return [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in group]

    def member(self, group: h5py.Group, name: str) -> Any:
        """What lies in a group under a plain name. A link that leads elsewhere isn't followed."""
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise Refused(f"more than {MOST_OBJECTS} groups and arrays")
        if name in ("", ".", "..") or len(name) > LONGEST_NAME or "/" in name or "\0" in name:
            raise Refused(f"{group.name}: a name that Keras doesn't write ({name[:50]!r})")
        if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise Refused(f"{group.name}: {name[:50]!r} is a link that leads elsewhere, which isn't followed")
        return group[name]

    def folder(self, group: h5py.Group, path: list[str]) -> h5py.Group | None:
        """The group at the end of a path of plain names (Keras 2 let a layer's have slashes), if it is there."""
        for name in path:
            if name not in group:
                return None
            group = self.group(group, name)
        return group

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        found = self.member(parent, name)
        if not isinstance(found, h5py.Group):
            raise Refused(f"{parent.name}: {name[:50]!r} is no group")
        return found

    def array(self, group: h5py.Group, key: str, name: str) -> list[Any]:
        """`[name, shape, type, whether it is in the spool, offset]` of an array of numbers."""
        found = self.member(group, key)
        if not isinstance(found, h5py.Dataset):
            raise Refused(f"the array {name!r} is named, but isn't there")
        kind = number_type(found.id.get_type())
        if kind is None:
            raise Refused(f"{name}: expected floating-point numbers. Received: {type_name(found.id.get_type())}")
        shape = found.shape
        if shape is None or len(shape) > 8:
            raise Refused(f"{name}: an array of no shape that Keras writes")
        size = math.prod(shape) * np.dtype(kind).itemsize
        plist = found.id.get_create_plist()
        if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
            raise Refused(f"{name}: its numbers lie in another file, which isn't opened")
        stored = found.id.get_storage_size()
        if plist.get_layout() == h5d.CONTIGUOUS:
            offset = found.id.get_offset()
            self.stored += size
            if size and (offset is None or stored != size or offset + size > self.length or self.stored > self.length):
                raise Refused(f"{name}: {size:,} bytes are declared, and not stored in the file")
            return [name, shape, kind, False, self.start + (offset or 0)]
        self.packed, self.unpacked = self.packed + stored, self.unpacked + size
        if plist.get_layout() == h5d.CHUNKED:
            self.check_chunks(found, plist, name)
        least, times = UNPACKED_AT_MOST
        if stored > self.length or self.packed > self.length or self.unpacked > least + times * self.packed:
            raise Refused(f"{name}: {size:,} bytes are declared, and only {stored:,} stored in the file")
        offset = self.spool.tell()
        for block in blocks(found):
            self.spool.write(np.ascontiguousarray(block).tobytes())
        return [name, shape, kind, True, offset]

    def check_chunks(self, dataset: h5py.Dataset, plist: Any, name: str) -> None:
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        if filters - FILTERS:
            raise Refused(f"{name}: packed by a filter that isn't known here ({min(filters - FILTERS)})")
        chunk = plist.get_chunk()
        if math.prod(chunk) * dataset.dtype.itemsize > 1 << 28:
            raise Refused(f"{name}: chunks of more than 256 MiB")
        expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, chunk, strict=True))
        if expected > 10**6 or dataset.id.get_num_chunks() != expected:
            raise Refused(f"{name}: {expected:,} chunks are declared, and not stored in the file")

    def names(self, group: h5py.Group, attribute: str) -> list[str]:
        """A list of names; one too long for an HDF5 attribute is split into `attribute0`, `attribute1`, …"""
        if h5a.exists(group.id, attribute.encode()):
            return self.strings(group, attribute)
        names: list[str] = []
        part = 0
        while h5a.exists(group.id, f"{attribute}{part}".encode()):
            names += self.strings(group, f"{attribute}{part}")
            part += 1
        return names

    def text(self, group: h5py.Group, attribute: str) -> str | None:
        if not h5a.exists(group.id, attribute.encode()):
            return None
        strings = self.strings(group, attribute)
        return strings[0] if strings else ""

    def strings(self, group: h5py.Group, attribute: str) -> list[str]:
        """The strings of an attribute, one or many. Keras writes an empty list as an empty array of numbers."""
        found = h5a.open(group.id, attribute.encode())
        count = math.prod(found.shape)
        if not count:
            return []
        if count > MOST_OBJECTS or found.get_storage_size() > LONGEST_ATTRIBUTE:
            raise Refused(f"{group.name}: the attribute {attribute!r} is longer than Keras writes one")
        if found.get_type().get_class() != h5t.STRING or len(found.shape) > 1:
            raise Refused(f"{group.name}: the attribute {attribute!r} holds no names")
        value = group.attrs[attribute]
        texts = [value] if isinstance(value, str | bytes) else list(value)
        return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in texts]


def natural(key: str) -> tuple[str, int]:
    """`conv2d_2` before `conv2d_10`, and `conv2d` before both."""
    match = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", key, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (key, 0)


def number_type(kind: h5t.TypeID) -> str | None:
    """numpy's name of a type of numbers that Keras writes, "V2" for bfloat16, which HDF5 doesn't know; else None."""
    if kind.get_class() == h5t.OPAQUE:
        return "V2" if kind.get_size() == 2 else None
    if kind.get_class() not in (h5t.FLOAT, h5t.INTEGER) or kind.get_size() not in (1, 2, 4, 8):
        return None
    dtype = kind.dtype
    own = h5t.py_create(dtype)
    return dtype.str if dtype.kind in "fiu" and own.get_size() == kind.get_size() else None


def type_name(kind: h5t.TypeID) -> str:
    classes = {
        h5t.COMPOUND: "compound",
        h5t.STRING: "text",
        h5t.REFERENCE: "references",
        h5t.VLEN: "lists",
        h5t.ENUM: "enums",
    }
    return classes.get(kind.get_class(), "another type")


def blocks(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """A dataset's numbers in order, some rows at a time."""
    if not dataset.shape:
        yield dataset[()]
        return
    row = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    rows = max(1, BLOCK // row)
    if dataset.chunks:
        rows = max(rows, dataset.chunks[0])
    for first in range(0, dataset.shape[0], rows):
        yield dataset[first : first + rows]


def main(path: str, start: int, length: int, spool: str) -> dict[str, Any]:
    """What the HDF5 file at `path`, from `start` and of `length`, holds; or `{"error": reason}`."""
    try:
        with (
            open(path, "rb", buffering=0) as stream,
            open(spool, "wb") as packed,
            h5py.File(Slice(stream, start, length), "r") as root,
        ):
            return Reader(root, start, length, packed).read()
    except Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "a damaged HDF5 file, or one that asks for more memory than there is"}
    except Exception as error:  # whatever the library says of a damaged file
        return {"error": f"a damaged or incomplete HDF5 file ({' '.join(str(error).split())[:200]})"}


if __name__ == "__main__":
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # a system without such limits
        pass
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
