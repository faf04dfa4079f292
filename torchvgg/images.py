"""From an image file to what goes into a model, pixel for pixel as Keras's `load_img` and `img_to_array` read it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .extras import extra
from .imagenet import preprocess_input

if TYPE_CHECKING:
    from .model import Model

COLOR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}  # Keras's names, by the number of channels
PREPROCESSING = ("vgg", "unit", "none")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # what is looked for in folders

# What Pillow may take a file for. Not EPS, say, which it gives to another program to run.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_PILLOW_MODES = {
    "grayscale": ("L", ("L", "I;16", "I")),  # what is converted to, and what is left as it is
    "rgb": ("RGB", ("RGB",)),
    "rgba": ("RGBA", ("RGBA",)),
}


def load_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = (224, 224),
    *,
    color_mode: str = "rgb",
    interpolation: str = "nearest",
    exif: bool = False,
) -> Tensor:
    """An image as a batch of one, the same pixels as `keras.utils.img_to_array(keras.utils.load_img(path, …))`.

    Args:
        path: BMP, GIF (its first frame), JPEG, PNG, PPM, TIFF or WebP.
        size: `(height, width)` to resize it to, its proportions aside; None leaves it as it is.
        color_mode: Keras's "rgb", "grayscale" or "rgba". Grey, palette, alpha and 16-bit images are converted as there.
        interpolation: "nearest", Keras's default, or "bilinear", "bicubic", "lanczos", "box", "hamming".
        exif: turn the image as its EXIF orientation says. Keras doesn't.

    Returns:
        `(1, C, H, W)`, float32, 0 to 255 (a 16-bit greyscale image keeps its own range): what `preprocess_input` takes.

    Raises:
        ValueError: the file is no such image, or is damaged; or an argument isn't one of those above.
        OSError: it can't be read.
        ImportError: Pillow isn't installed.
    """
    pixels = read_pixels(path, size, color_mode, interpolation, exif)
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).unsqueeze(0).contiguous()


def read_pixels(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None,
    color_mode: str = "rgb",
    interpolation: str = "nearest",
    exif: bool = False,
) -> np.ndarray:
    """As `load_image`, but `(H, W, C)` and of the file's own type, uint8 for most."""
    with extra("images"):
        from PIL import Image, ImageOps, UnidentifiedImageError
    if color_mode not in _PILLOW_MODES:
        raise ValueError(f"color_mode: expected one of {', '.join(_PILLOW_MODES)}. Received: {color_mode!r}")
    ways = {way.name.lower(): way for way in Image.Resampling}
    if interpolation not in ways:
        raise ValueError(f"interpolation: expected one of {', '.join(ways)}. Received: {interpolation!r}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size: expected (height, width), 1 or more each. Received: {size!r}")
    mode, accepted = _PILLOW_MODES[color_mode]
    with open(path, "rb") as stream:
        try:
            image: Any = Image.open(stream, formats=_FORMATS)
            if exif:
                image = ImageOps.exif_transpose(image)
            if image.mode not in accepted:
                image = image.convert(mode)
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), ways[interpolation])
            pixels = np.array(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise of every kind over a damaged file
            reason = "it isn't one that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
            raise ValueError(f"{os.fspath(path)}: can't be read as an image ({reason})") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def load_for(
    model: Model, path: str | os.PathLike[str], preprocessing: str | None = None, exif: bool = False
) -> Tensor:
    """An image file as a model takes it: its size, its channels, preprocessed, `(1, C, H, W)`.

    Args:
        model: what `VGG16`, `VGG19` or `load_model` made.
        path: the image, as for `load_image`.
        preprocessing: "vgg", "unit" or "none"; by default what the model needs, unless it was trained in another way.
        exif: turn the image as its EXIF orientation says.

    Raises:
        ValueError, OSError, ImportError: as `load_image`.
    """
    x = load_image(path, image_size(model), color_mode=color_mode(model), exif=exif)
    return preprocess(x, preprocessing or preprocessing_of(model))


def color_mode(model: Model) -> str:
    """Keras's name for the images that a model takes, by their channels. Raises a ValueError if it has none."""
    channels = model.input_shape[1]
    if channels not in COLOR_MODES:
        raise ValueError(f"expected a model of images with 1, 3 or 4 channels. Received: one with {channels}")
    return COLOR_MODES[channels]


def find_images(patterns: Iterable[str]) -> list[str]:
    """The image files that names, globs (`**` goes down) and folders (with all that is in them) stand for, each once.

    Folders and globs give them in alphabetical order; links to folders in folders aren't followed. A file that is named is
    taken whatever its suffix.

    Raises:
        ValueError: there is no image in a folder, no file for a glob, or nothing at all.
        OSError: a name isn't there, or a folder can't be read.
    """
    found = list(dict.fromkeys(path for pattern in patterns for path in _images_of(os.fspath(pattern))))
    if not found:
        raise ValueError("expected at least one image. Received: none")
    return found


def _images_of(pattern: str) -> list[str]:
    if os.path.isdir(pattern):  # noqa: PTH112  # as text all through: these are hundreds of thousands
        if found := sorted(_images_below(pattern)):
            return found
        raise ValueError(f"{pattern}: no image there; expected files that end in {', '.join(SUFFIXES)}")
    if glob.has_magic(pattern) and not os.path.lexists(pattern):
        if found := sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path)):  # noqa: PTH207, PTH113
            return found
        raise ValueError(f"{pattern}: no file has such a name")
    if not os.path.exists(pattern):  # noqa: PTH110
        raise FileNotFoundError(f"{pattern}: no such file or folder")
    return [pattern]


def _images_below(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118
            if name.lower().endswith(SUFFIXES) and os.path.isfile(path):  # noqa: PTH113  # not a pipe, say
                yield path


def image_size(model: Model) -> tuple[int, int]:
    """`(height, width)` of the images that a model takes; 224 where any will do."""
    _, _, height, width = model.input_shape
    return height or 224, width or 224


def preprocessing_of(model: Model) -> str:
    """What the images of a model go through before: "none" where its own first layer sees to it, else "vgg"."""
    first = next(model.children(), None)
    does_it_itself = type(first).__name__ in ("Normalization", "PreprocessInput", "Rescaling")
    return "none" if does_it_itself or model.input_shape[1] != 3 else "vgg"


def preprocess(x: Tensor, how: str) -> Tensor:
    """Images in [0, 255] as a model was trained on them: "vgg" for `preprocess_input`, "unit" for [0, 1], or "none"."""
    check_preprocessing(how)
    return preprocess_input(x) if how == "vgg" else x / 255 if how == "unit" else x


def check_preprocessing(how: str) -> str:
    """Raises a ValueError unless `how` is one of those that `preprocess` takes."""
    if how not in PREPROCESSING:
        raise ValueError(f"preprocessing: expected one of {', '.join(PREPROCESSING)}. Received: {how!r}")
    return how
