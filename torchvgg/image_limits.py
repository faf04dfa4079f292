"""Opening image files that may be hostile: which formats, how many pixels, how many passes over them."""

import ctypes
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import IO, Any

# The formats that Pillow may detect; EPS isn't one, since it would run Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

MOST_PIXELS = 200_000_000  # of an image, and of a TIFF's tile; decoding takes 4 to 10 bytes for each
MOST_WEBP_PIXELS = 100_000_000  # decoding takes 15 bytes for each
MOST_SCANS = 100  # of a JPEG, as in libtiff; each is a pass over all pixels, and encoders write about ten

_PILLOWS_MOST = 1024**3 // 12  # PIL.Image.MAX_IMAGE_PIXELS, unless it was changed
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # in a JPEG's scans only the end of each
_lock = Lock()


def open_image(stream: IO[bytes]) -> Any:
    """Opens an image with Pillow, without decoding it.

    Whoever sets `PIL.Image.MAX_IMAGE_PIXELS` chooses the number of pixels; otherwise it is `MOST_PIXELS`, since some
    cameras take more than Pillow's own limit.

    Raises:
        ValueError: it is in none of the formats, or over a limit. Pillow may raise any other exception for a damaged file.
    """
    from PIL import Image, UnidentifiedImageError, _imaging

    with _without_pillows_limit() as before:
        try:
            image: Any = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it isn't one that Pillow knows") from None
    sizes = [image.size]
    if image.format == "TIFF":
        sizes.append((image.tag_v2.get(322, 1), image.tag_v2.get(323, 1)))  # of a tile, which is decoded whole
        with suppress(AttributeError, OSError):  # libtiff prints what Pillow raises
            ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
    most = MOST_WEBP_PIXELS if image.format == "WEBP" else MOST_PIXELS
    for width, height in sizes:
        if before == _PILLOWS_MOST and width * height > most:
            raise ValueError(f"{width:,}×{height:,} pixels, expected {most:,} in all at most")
    if image.format in ("JPEG", "MPO"):
        only = 0 if image.info.get("progressive") else image.layers
        if (scans := _count_scans(stream, only)) > MOST_SCANS:
            raise ValueError(f"{scans:,} scans, expected {MOST_SCANS} at most; save it again")
    if image.format == "TIFF" and image.width * image.height > _PILLOWS_MOST:
        with _without_pillows_limit():
            image.load_prepare()  # makes room for the pixels; Pillow 13 checks its limit again here, otherwise when decoding
    return image


@contextmanager
def _without_pillows_limit() -> Iterator[int | None]:
    """Yields Pillow's limit on pixels, which is off inside, unless somebody changed it."""
    from PIL import Image

    with _lock:
        before = Image.MAX_IMAGE_PIXELS
        if before == _PILLOWS_MOST:
            Image.MAX_IMAGE_PIXELS = None
        try:
            yield before
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _count_scans(stream: IO[bytes], only: int) -> int:
    """Counts the scans of a JPEG, up to the end of its first image; if the first has `only` components, it is the only one decoded."""
    scans, position = 0, 0
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while (found := _MARKER.search(content, position)) and found[1] != b"\xd9":
            position = found.end()
            if found[1] == b"\xda":
                scans += 1
                if scans == 1 and content[position + 2 : position + 3] == bytes([only]):
                    break
            if found[1] not in b"\x01\xd8":  # a segment follows, which may have markers of a thumbnail
                position += int.from_bytes(content[position : position + 2], "big")
    return scans
