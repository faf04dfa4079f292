"""Protobuf's wire format, strictly: the fields of one message, as numbers and views of bytes. Messages within are left to the caller."""

from collections import defaultdict
from collections.abc import Iterator

MOST_FIELDS = 1 << 17  # of one message; what keeps them all takes some 200 bytes for each

_FIXED = {1: 8, 5: 4}  # bytes by wire type
_LONGEST_VARINT = 10


def fields(data: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Yields each field's number and value: an unsigned int for a varint or fixed-size number, else a view of the bytes.

    Nothing is copied, and no memory is taken by a declared size. Raises a ValueError for malformed data.
    """
    view, place = memoryview(data), 0
    for _ in range(MOST_FIELDS):
        if place == len(view):
            return
        key, place = varint(view, place)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"malformed protobuf: a field numbered {number}")
        if kind == 0:
            value, place = varint(view, place)
            yield number, value
            continue
        if kind == 2:
            size, place = varint(view, place)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"malformed protobuf: a field of wire type {kind}")
        if size > len(view) - place:
            raise ValueError(f"truncated protobuf: a field of {size:,} bytes, of which {len(view) - place:,} are there")
        content = view[place : place + size]
        place += size
        yield number, content if kind == 2 else int.from_bytes(content, "little")
    raise ValueError(f"malformed protobuf: a message of more than {MOST_FIELDS:,} fields")


class Message:
    """The fields of one message by their numbers. A ValueError tells of one of another type than is asked for, or that comes twice."""

    def __init__(self, data: memoryview | bytes) -> None:
        self._found: dict[int, list[int | memoryview]] = defaultdict(list)
        for number, value in fields(data):
            self._found[number].append(value)

    def views(self, number: int) -> list[memoryview]:
        """Returns all values of a field of bytes, texts or messages."""
        found = [value for value in self._found[number] if isinstance(value, memoryview)]
        if len(found) < len(self._found[number]):
            raise ValueError(f"malformed protobuf: a number in field {number}, which is bytes")
        return found

    def view(self, number: int) -> memoryview:
        """Returns the value of a field of bytes; none if there is no such field."""
        found = self.views(number)
        if len(found) > 1:
            raise ValueError(f"malformed protobuf: field {number} comes twice")
        return found[0] if found else memoryview(b"")

    def number(self, number: int) -> int:
        """Returns the last value of a field of numbers, as an int64; 0 if there is none."""
        found = self._found[number][-1:]
        if any(isinstance(value, memoryview) for value in found):
            raise ValueError(f"malformed protobuf: bytes in field {number}, which is a number")
        return signed(int(found[0])) if found else 0

    def text(self, number: int) -> str:
        """Returns the value of a field of text; "" if there is none."""
        return bytes(self.view(number)).decode(errors="replace")


def varints(data: memoryview) -> Iterator[int]:
    """Yields the numbers of a packed field, unsigned. Raises a ValueError for malformed data."""
    place = 0
    while place < len(data):
        value, place = varint(data, place)
        yield value


def signed(value: int) -> int:
    """Reads a varint or a fixed64 as an int64 (an int32 is stored as one)."""
    return value - (1 << 64) if value >> 63 else value


def varint(view: memoryview, place: int) -> tuple[int, int]:
    """Reads a number of up to 64 bits, and says where the next field begins."""
    value = 0
    for shift, byte in enumerate(view[place : place + _LONGEST_VARINT]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            if value >> 64:
                break
            return value, place + shift + 1
    raise ValueError("malformed protobuf: a number without an end, or larger than 64 bits")
