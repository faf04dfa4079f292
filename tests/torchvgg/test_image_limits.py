"""Hostile and damaged images are refused; the largest that cameras make are read."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from torchvgg import load_image
from torchvgg.image_limits import open_image

from ..helpers.photos import SHIPPED, photo


def bomb(path: Path) -> None:
    """A PNG that says that it is 60,000 pixels wide and high."""
    content = bytearray(shipped("coffee.png"))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def flat_webp(path: Path, side: int) -> None:
    """A lossless WebP of one colour: its sides less one in 14 bits each, and five codes of one symbol."""
    # After three bits that say that nothing else is there.
    codes = sum(0b0001 << (4 * number) for number in range(5)) << 3
    body = b"\x2f" + ((side - 1) | (side - 1) << 14 | codes << 32).to_bytes(7, "little")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)


def tiff(path: Path, *tags: tuple[int, int]) -> None:
    """A deflated TIFF of 16×16 grey pixels, cut after its directory."""
    size = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    entries = [struct.pack("<HHII", number, 4, 1, value) for number, value in (*size, *tags)]
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


def with_scans(path: Path, scans: int, side: int = 64, frame: int = 0xC2, layers: int = 1) -> None:
    """A JPEG of a DC scan of one layer of colour, and others that skip all blocks; its thumbnail has scans too."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([255, marker]) + struct.pack(">H", 2 + len(body)) + body

    def code(table: int, symbol: int) -> bytes:  # one symbol, in one bit
        return segment(0xC4, bytes([table, 1, *[0] * 15, symbol]))

    head = b"\xff\xd8" + segment(0xE1, b"Exif" + b"\xff\xda\0\x08" * 200) + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(frame, struct.pack(">BHHB", 8, side, side, layers) + b"\1\x11\0" * layers)
    head += code(0, 0) + code(0x10, 0xE0)
    dc = segment(0xDA, b"\1\1\0\0\0\0") + bytes(side * side // 64 // 8)
    ac = segment(0xDA, b"\1\1\0\1\x3f\0") + b"\x7f\xfe"  # 0, then 14 ones and one more to fill the byte
    path.write_bytes(head + dc + (scans - 1) * ac + b"\xff\xd9" + b"\xff\xda\0\x08" * 200)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.jpg": (lambda path: path.write_bytes(b""), "isn't one that Pillow knows"),
    "text.jpg": (lambda path: path.write_text("no image"), "isn't one that Pillow knows"),
    "cut.jpg": (lambda path: path.write_bytes(shipped("rocket.jpg")[:5000]), "truncated"),
    "cut.png": (lambda path: path.write_bytes(shipped("coffee.png")[:5000]), "can't be read as an image"),
    "spoilt.png": (lambda path: path.write_bytes(shipped("coffee.png").replace(b"IDAT", b"IDAX")), "can't be read"),
    "bomb.png": (bomb, "60,000×60,000 pixels, expected 200,000,000 in all at most"),
    "bomb.webp": (lambda path: flat_webp(path, 10_001), "10,001×10,001 pixels, expected 100,000,000 in all at most"),
    "tile.tif": (lambda path: tiff(path, (322, 20_000), (323, 20_000), (324, 8), (325, 9)), "20,000×20,000 pixels"),
    "scans.jpg": (lambda path: with_scans(path, 101), "101 scans, expected 100 at most; save it again"),
    "sequential scans.jpg": (lambda path: with_scans(path, 101, frame=0xC0, layers=3), "101 scans, expected 100"),
    "script.eps": (lambda path: photo().save(path), "isn't one that Pillow knows"),
}


def shipped(name: str) -> bytes:
    return (SHIPPED / name).read_bytes()


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused(name: str, tmp_path: Path) -> None:
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_large_photographs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the largest cameras, beyond Pillow's own limit; whoever changes that chooses the limit."""
    (image := Image.new("1", (16_320, 12_240))).save(tmp_path / "large.png")
    image.save(tmp_path / "large.tif")
    image.save(tmp_path / "packed.tif", compression="tiff_deflate")
    image.close()
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("large.png", "large.tif", "packed.tif"):
            assert load_image(tmp_path / name, (8, 8), color_mode="grayscale").shape == (1, 1, 8, 8)
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match="exceeds limit of 2000000 pixels"):
        load_image(tmp_path / "large.png")
    flat_webp(tmp_path / "image.webp", 100)
    assert load_image(tmp_path / "image.webp").shape == (1, 3, 224, 224)
    with_scans(tmp_path / "image.jpg", 100)
    assert load_image(tmp_path / "image.jpg").shape == (1, 3, 224, 224)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    flat_webp(tmp_path / "large.webp", 10_001)
    with open(tmp_path / "large.webp", "rb") as stream:
        assert open_image(stream).size == (10_001, 10_001)


def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiff(tmp_path / "broken.tif", (278, 16), (279, 9), (273, 8))
    with pytest.raises(ValueError, match=r"broken\.tif: can't be read as an image \(decoder error"):
        load_image(tmp_path / "broken.tif")
    assert capfd.readouterr() == ("", "")
