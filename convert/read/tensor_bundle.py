"""TensorFlow's TensorBundle, the files of a checkpoint: a table in `.index`, which says where in `.data-…` each tensor lies.

The table is LevelDB's: blocks of entries in the order of their keys, each with a CRC-32C; the last 48 bytes say where the
block of the blocks lies. Each entry is a message of Protobuf (tensorflow/core/protobuf/tensor_bundle.proto).
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .protobuf import Message, varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
LONGEST_INDEX = 1 << 26
MOST_ENTRIES = 1 << 17
LONGEST_TEXT = 1 << 26
LANES = 1 << 14  # pieces of an array whose CRC is computed side by side
# TensorFlow's types by their number; 14 is bfloat16, which NumPy doesn't know.
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 14: "V2", 17: "<u2", 19: "<f2", 22: "<u4"}
TEXT = 7


class Stored(NamedTuple):
    """Where a tensor lies: from `start` of a file, of `length` bytes, with this CRC-32C. `kind` is NumPy's, "" of text."""

    kind: str
    shape: tuple[int, ...]
    path: Path
    start: int
    length: int
    crc: int

    def content(self) -> np.ndarray:
        """Maps its bytes. A ValueError tells of damage."""
        content = np.memmap(self.path, "u1", "r", self.start, (self.length,)) if self.length else np.empty(0, "u1")
        if masked(crc32c(content)) != self.crc:
            raise ValueError(f"{self.path.name}: damaged (its CRC-32C is wrong)")
        return content

    def text(self) -> bytes:
        """Reads a scalar of text: its length, a CRC of that, and the bytes."""
        with open(self.path, "rb") as stream:
            stream.seek(self.start)
            content = stream.read(min(self.length, LONGEST_TEXT))
        length, place = varint(memoryview(content), 0)
        if self.kind or self.shape or length != len(content) - place - 4:
            raise ValueError("a text that TensorFlow doesn't write")
        return content[place + 4 :]


def read_bundle(prefix: Path) -> dict[str, Stored]:
    """Reads the table of a checkpoint whose files' names begin with `prefix`.

    Raises a ValueError for a damaged one, and where a tensor isn't in its file. The numbers are checked when they are read.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.is_file():
        raise ValueError(f"{index.name} isn't there, or is no plain file")
    if index.stat().st_size > LONGEST_INDEX:
        raise ValueError(f"{index.name}: longer than TensorFlow writes it")
    table = dict(_table(memoryview(index.read_bytes())))
    header = Message(table.pop(b"", b""))
    shards = header.number(1)
    if not 0 < shards < 10**5 or header.number(2):
        raise ValueError(f"{index.name}: expected the number of files, with numbers in little-endian order")
    return {key.decode(): _stored(key.decode(), Message(entry), prefix, shards) for key, entry in table.items()}


def _stored(key: str, entry: Message, prefix: Path, shards: int) -> Stored:
    kind, number, start, length, crc = map(entry.number, (1, 3, 4, 5, 6))
    if min(number, start, length) < 0:
        raise ValueError(f"{key[:100]}: a place that TensorFlow doesn't write")
    if entry.views(7):
        raise ValueError(f"{key[:100]}: stored in slices, which aren't read")
    sizes = [size for shape in entry.views(2) for size in Message(shape).views(2)]
    shape = tuple(Message(size).number(1) for size in sizes)
    path = prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}")
    if not path.is_file():
        raise ValueError(f"{path.name} isn't beside {prefix.name}.index")
    if start + length > path.stat().st_size:
        raise ValueError(f"{path.name}: it ends before {key[:100]!r} does")
    if kind != TEXT and kind not in TYPES:
        raise ValueError(f"{key[:100]}: numbers of a type that isn't read ({kind})")
    if kind in TYPES and (min(shape, default=0) < 0 or math.prod(shape) * np.dtype(TYPES[kind]).itemsize != length):
        raise ValueError(f"{key[:100]}: the shape {shape} and {length:,} bytes disagree")
    return Stored(TYPES.get(kind, ""), shape, path, start, length, crc)


def _table(file: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the entries of a table. Raises a ValueError for a damaged one."""
    if len(file) < 48 or file[-8:] != MAGIC:
        raise ValueError("no .index that TensorFlow writes")
    footer = file[-48:-8]
    _, place = varint(footer, 0)  # of a block with facts about the table
    _, place = varint(footer, place)
    count = 0
    for _, handle in _block(file, *_handle(footer[place:])):
        for entry in _block(file, *_handle(handle)):
            count += 1
            if count > MOST_ENTRIES:
                raise ValueError(f"more than {MOST_ENTRIES:,} tensors")
            yield entry


def _handle(content: memoryview) -> tuple[int, int]:
    start, place = varint(content, 0)
    return start, varint(content, place)[0]


def _block(file: memoryview, start: int, length: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the keys and values of a block, each key without what it shares with the one before."""
    end = start + length
    if length < 4 or end + 5 > len(file):
        raise ValueError("a damaged .index: a block beyond its end")
    if file[end] != 0:
        raise ValueError("a compressed .index, which TensorFlow doesn't write")
    if masked(crc32c(np.frombuffer(file[start : end + 1], "u1"))) != int.from_bytes(file[end + 1 : end + 5], "little"):
        raise ValueError("a damaged .index (its CRC-32C is wrong)")
    restarts = int.from_bytes(file[end - 4 : end], "little")
    entries = file[start : max(start, end - 4 - 4 * restarts)]
    key, place = b"", 0
    while place < len(entries):
        shared, place = varint(entries, place)
        own, place = varint(entries, place)
        length, place = varint(entries, place)
        if shared > len(key) or place + own + length > len(entries):
            raise ValueError("a damaged .index: an entry beyond the end of its block")
        key = key[:shared] + bytes(entries[place : place + own])
        yield key, entries[place + own : place + own + length]
        place += own + length


def masked(crc: int) -> int:
    """Returns a CRC as TensorFlow stores it: rotated, and a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: np.ndarray) -> int:
    """Computes the CRC-32C of bytes, a million at a time in NumPy: of pieces side by side, which are then joined in pairs."""
    lanes = 1 << max(0, min(LANES.bit_length(), (len(content) // 4).bit_length()) - 1)
    low, high = _tables()
    whole = len(content) // (4 * lanes) * 4 * lanes
    crcs = np.zeros(lanes, "<u4")
    for words in content[:whole].reshape(lanes, -1).view("<u4").T if whole else ():
        crcs ^= words
        crcs = low[crcs & 0xFFFF] ^ high[crcs >> 16]
    zeros = _zeros(whole // lanes)
    while len(crcs) > 1:
        crcs, zeros = _apply(zeros, crcs[0::2]) ^ crcs[1::2], _apply(zeros, zeros)
    crc = int(crcs[0] ^ _apply(_zeros(whole), np.full(1, 0xFFFFFFFF, "<u4"))[0])
    for byte in content[whole:].tolist():
        crc = crc >> 8 ^ int(_bytewise()[(crc ^ byte) & 255])
    return crc ^ 0xFFFFFFFF


@cache
def _bytewise() -> np.ndarray:
    """Returns what a byte makes of a CRC, by the polynomial of Castagnoli."""
    table = np.arange(256, dtype="<u4")
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns what four bytes make of a CRC, by its lower and its upper half."""
    half = np.arange(1 << 16, dtype="<u4")
    four = _zeros(4)
    return _apply(four, half), _apply(four, half << 16)


def _zeros(count: int) -> np.ndarray:
    """Returns what so many zero bytes make of a CRC, of each of its bits by itself."""
    bits = np.uint32(1) << np.arange(32, dtype="<u4")
    step = bits >> 8 ^ _bytewise()[bits & 255]
    result = bits
    while count:
        result = _apply(step, result) if count & 1 else result
        step, count = _apply(step, step), count >> 1
    return result


def _apply(operator: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    """Applies what is known of each bit to CRCs."""
    result = np.zeros(len(crcs), "<u4")
    for bit in range(32):
        result ^= np.where(crcs >> bit & 1, operator[bit], np.uint32(0))
    return result
