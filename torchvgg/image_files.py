"""Reading and preprocessing image files, pixel for pixel as Keras's `load_img` and `img_to_array` do."""

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .imagenet import preprocess_input
from .layers.preprocessing import Normalization, PreprocessInput, Rescaling
from .model import Model
from .optional_imports import require

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of images in folders

# The formats that Pillow may detect; EPS isn't one, since it would run Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's modes that are kept; others are converted to the first.
_PILLOW_MODES = {"grayscale": ("L", "I;16", "I"), "rgb": ("RGB",), "rgba": ("RGBA",)}


def load_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = (224, 224),
    *,
    color_mode: str = "rgb",
    interpolation: str = "nearest",
    exif: bool = False,
) -> Tensor:
    """Loads an image as a batch of one, the same pixels as `keras.utils.img_to_array(keras.utils.load_img(path, …))`.

    Args:
        path: a BMP, GIF (first frame), JPEG, PNG, PPM, TIFF or WebP file.
        size: `(height, width)` to resize to, ignoring proportions; None keeps the size.
        color_mode: "rgb", "grayscale" or "rgba". Grey, palette, alpha and 16-bit images are converted as in Keras.
        interpolation: "nearest", Keras's default, or "bilinear", "bicubic", "lanczos", "box", "hamming".
        exif: rotate the image by its EXIF orientation, which Keras ignores.

    Returns:
        `(1, C, H, W)`, float32, 0 to 255 (16-bit greyscale images keep their range), ready for `preprocess_input`.

    Raises:
        ValueError: the file is no such image, or damaged; or an argument is invalid.
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
    """Reads an image like `load_image`, but as `(H, W, C)` in the file's own type, mostly uint8."""
    require("PIL")
    from PIL import Image, ImageOps, UnidentifiedImageError

    if color_mode not in _PILLOW_MODES:
        raise ValueError(f"color_mode: expected one of {', '.join(_PILLOW_MODES)}. Received: {color_mode!r}")
    ways = {way.name.lower(): way for way in Image.Resampling}
    if interpolation not in ways:
        raise ValueError(f"interpolation: expected one of {', '.join(ways)}. Received: {interpolation!r}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size: expected (height, width), 1 or more each. Received: {size!r}")
    modes = _PILLOW_MODES[color_mode]
    with open(path, "rb") as stream:
        try:
            image: Any = Image.open(stream, formats=_FORMATS)
            if exif:
                image = ImageOps.exif_transpose(image)
            if image.mode not in modes:
                image = image.convert(modes[0])
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), ways[interpolation])
            pixels = np.array(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise any kind of exception for a damaged file
            reason = "it isn't one that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
            raise ValueError(f"{os.fspath(path)}: can't be read as an image ({reason})") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def load_for(
    model: Model,
    path: str | os.PathLike[str],
    how: str | None = None,
    exif: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Loads an image for a model: in its size, or another `(height, width)`, and its channels, preprocessed, `(1, C, H, W)`.

    `how` is as for `preprocess`, by default `preprocessing_of(model)`; errors are those of `load_image`.
    """
    x = load_image(path, size or image_size(model), color_mode=color_mode(model), exif=exif)
    return preprocess(x, how or preprocessing_of(model))


def color_mode(model: Model) -> str:
    """Returns Keras's color mode for a model's number of input channels. Raises a ValueError if there is none."""
    channels = image_shape(model)[1]
    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    if channels not in modes:
        raise ValueError(f"expected a model of images with 1, 3 or 4 channels. Received: one with {channels}")
    return modes[channels]


def find_images(patterns: Iterable[str]) -> list[str]:
    """Lists the image files of some paths, globs (`**` matches subfolders) and folders (with subfolders), each once.

    The files of a folder or a glob are sorted; links to folders inside folders aren't followed. A file given by its path may
    have any suffix.

    Raises:
        ValueError: a folder has no images, a glob matches no file, or no patterns are given.
        OSError: a path doesn't exist, or a folder can't be read.
    """
    found = list(dict.fromkeys(path for pattern in patterns for path in _images_of(os.fspath(pattern))))
    if not found:
        raise ValueError("expected at least one image. Received: none")
    return found


def _images_of(pattern: str) -> list[str]:
    if os.path.isdir(pattern):  # noqa: PTH112  # strings, not Paths: there may be hundreds of thousands
        if found := sorted(_images_below(pattern)):
            return found
        raise ValueError(f"{pattern}: no images in it; expected files that end in {', '.join(SUFFIXES)}")
    if glob.has_magic(pattern) and not os.path.lexists(pattern):
        if found := sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path)):  # noqa: PTH207, PTH113
            return found
        raise ValueError(f"{pattern}: no file matches")
    if not os.path.exists(pattern):  # noqa: PTH110
        raise FileNotFoundError(f"{pattern}: no such file or folder")
    return [pattern]


def _images_below(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118
            if name.lower().endswith(SUFFIXES) and os.path.isfile(path):  # noqa: PTH113  # a pipe isn't a file
                yield path


def image_size(model: Model) -> tuple[int, int]:
    """Returns the `(height, width)` of a model's images, 224 for an open size."""
    _, _, height, width = image_shape(model)
    return height or 224, width or 224


def image_shape(model: Model) -> tuple[int | None, ...]:
    """Returns the `(None, C, H, W)` of a model's images. Raises a ValueError if it has another input, or several."""
    shapes = list(model.input_shapes.values())
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(f"expected a model of images alone. Received: one with inputs of {model.input_shape}")
    return shapes[0]


def preprocessing_of(model: Model) -> str:
    """Returns how to preprocess a model's images: "none" if its first layer does it or they aren't RGB, else "vgg"."""
    first = model.get_submodule(model.nodes[0].layer) if model.nodes else None
    is_built_in = isinstance(first, Normalization | PreprocessInput | Rescaling)
    return "none" if is_built_in or image_shape(model)[1] != 3 else "vgg"


def preprocess(x: Tensor, how: str) -> Tensor:
    """Preprocesses images in [0, 255]: "vgg" calls `preprocess_input`, "unit" scales to [0, 1], "none" does nothing."""
    check_preprocessing(how)
    return preprocess_input(x) if how == "vgg" else x / 255 if how == "unit" else x


def check_preprocessing(how: str) -> str:
    """Returns `how` if `preprocess` knows it, else raises a ValueError."""
    if how not in ("vgg", "unit", "none"):
        raise ValueError(f"preprocessing: expected one of vgg, unit, none. Received: {how!r}")
    return how
