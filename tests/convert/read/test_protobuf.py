"""Protobuf's wire format: what is read, and what is refused."""

import pytest

from torchvgg.convert.read.protobuf import MOST_FIELDS, fields, signed, varints


def test_reads_each_wire_type() -> None:
    data = b"\x08\x96\x01\x12\x03abc\x1d\x01\x00\x00\x00\x21\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00"
    found = [(number, value if isinstance(value, int) else bytes(value)) for number, value in fields(data)]
    assert found == [(1, 150), (2, b"abc"), (3, 1), (4, 2**64 - 1), (2, b"")]
    assert [signed(value) for value in varints(memoryview(b"\x01\xac\x02" + b"\xff" * 9 + b"\x01"))] == [1, 300, -1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "without an end"),
        (b"\x08" + b"\x80" * 11, "without an end"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "larger than 64 bits"),
        (b"\x00\x01", "a field numbered 0"),
        (b"\x80\x80\x80\x80\x10\x01", "a field numbered"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x12\x05abc", "5 bytes, of which 3"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01abc", "of which 3"),
        (b"\x1d\x00", "4 bytes, of which 1"),
        (b"\x08\x00" * (MOST_FIELDS + 1), "more than 131,072 fields"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_is_malformed(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(fields(data))
