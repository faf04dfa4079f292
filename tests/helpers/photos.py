"""Real images: those that scikit-image ships, in every kind of file that people have."""

from pathlib import Path
from typing import Any

import skimage
from PIL import Image

SHIPPED = Path(skimage.__file__).parent / "data"


def photo(name: str = "chelsea.png", size: tuple[int, int] | None = None) -> Any:
    """One of the shipped images, as Pillow has it, in colour."""
    with Image.open(SHIPPED / name) as image:
        colour = image.convert("RGB")
    return colour.resize(size) if size else colour


def write_photos(folder: Path, number: int, size: tuple[int, int] = (120, 90)) -> list[Path]:
    """JPEGs, each of another part of the shipped images; in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [photo(name, (300, 300)) for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")]
    paths = []
    for index in range(number):
        paths.append(folder / f"{index:03}.jpg")
        part = sources[index % 4].crop((index, index, 200 + index, 150 + index))
        part.resize(size).save(paths[-1], quality=90)
    return paths
