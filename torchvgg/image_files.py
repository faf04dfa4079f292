"""Reading and preprocessing image files, pixel for pixel as Keras's `load_img` and `img_to_array` do."""

import glob
import os
from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .image_limits import open_image
from .imagenet import MEAN_BGR, preprocess_input, warn
from .layers.preprocessing import Normalization, PreprocessInput, Rescaling
from .model import Model, check_is_model
from .optional_imports import require

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of images in folders
PREPROCESSINGS = ("vgg", "unit", "signed", "torchvision", "none")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

# Of RGB in [0, 1], from torchvision's `ImageClassification` preset.
TORCHVISION_MEAN, TORCHVISION_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Pillow's modes that are kept; others are converted to the first.
_PILLOW_MODES = {"grayscale": ("L", "I;16", "I"), "rgb": ("RGB",), "rgba": ("RGBA",)}


class Pipeline(NamedTuple):
    """How an image file becomes a model's input: read, turned, resized, cropped, preprocessed. `pipeline_for` makes one."""

    resize: int | tuple[int, int] | None = None  # the shorter side, or (height, width); None keeps the size
    crop: tuple[int, int] | None = None  # (height, width)
    interpolation: str = "nearest"
    keep_aspect_ratio: bool = False
    exif: bool = False
    preprocessing: str = "vgg"
    color_mode: str = "rgb"

    @property
    def size(self) -> tuple[int, int]:
        """The `(height, width)` of all images that `pipeline_for`'s pipeline gives."""
        size: tuple[int, int] = self.crop or _pair(self.resize)
        return size

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Returns an image before preprocessing, `(H, W, C)`, mostly uint8. Raises as `load_image` does."""
        return read_pixels(path, *self[:5], self.color_mode)

    def load(self, path: str | os.PathLike[str]) -> Tensor:
        """Returns an image as the model takes it, `(1, C, H, W)`, float32. Raises as `load_image` does."""
        return preprocess(_batch_of(self.read(path)), self.preprocessing)

    def options(self) -> str:
        """Returns the options of the command line that make this pipeline."""
        parts = [f"--preprocess {self.preprocessing}"]
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size:
                parts.append(f"--{name} {','.join(map(str, size)) if isinstance(size, tuple | list) else size}")
        parts.append(f"--interpolation {self.interpolation}")
        parts += [f"--{name.replace('_', '-')}" for name in ("keep_aspect_ratio", "exif") if getattr(self, name)]
        return " ".join(parts)


def load_image(
    path: str | os.PathLike[str],
    size: int | tuple[int, int] | None = (224, 224),
    *,
    color_mode: str = "rgb",
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    crop: int | tuple[int, int] | None = None,
    exif: bool = False,
) -> Tensor:
    """Loads an image as a batch of one, the same pixels as `keras.utils.img_to_array(keras.utils.load_img(path, …))`.

    Args:
        path: a BMP, GIF (first frame), JPEG, PNG, PPM, TIFF or WebP file, no pipe or device. Up to 200 million pixels, in a WebP 100
            million, or as many as Pillow accepts if you set `PIL.Image.MAX_IMAGE_PIXELS`.
        size: `(height, width)` to resize to, ignoring proportions; or a number for the shorter side, with the proportions kept, as
            in torchvision's `Resize`; None keeps the size.
        color_mode: "rgb", "grayscale" or "rgba". Grey, palette, alpha and 16-bit images are converted as in Keras.
        interpolation: "nearest", Keras's default, or "bilinear", "bicubic", "lanczos", "box", "hamming".
        keep_aspect_ratio: cut the image to the proportions of `size` first, around its centre, as in Keras.
        crop: `(height, width)`, or a number for both, to cut out of the centre afterwards, as torchvision's `CenterCrop`.
        exif: rotate the image by its EXIF orientation, which Keras ignores.

    Returns:
        `(1, C, H, W)`, float32, 0 to 255 (16-bit greyscale images keep their range), ready for `preprocess_input`.

    Raises:
        ValueError: the file is no such image, damaged, too large, or smaller than `crop`; or an argument is invalid.
        OSError: it can't be read.
        ImportError: Pillow isn't installed.

    Warns:
        UserWarning: the pixels are floats in [0, 1], or of 16 bits, and Pillow cuts them off where 8 bits are wanted.
    """
    return _batch_of(read_pixels(path, size, _pair(crop), interpolation, keep_aspect_ratio, exif, color_mode))


def _batch_of(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).unsqueeze(0).contiguous()


def read_pixels(
    path: str | os.PathLike[str],
    size: int | tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    exif: bool = False,
    color_mode: str = "rgb",
) -> np.ndarray:
    """Reads an image like `load_image`, but as `(H, W, C)` in the file's own type, mostly uint8."""
    require("PIL")
    from PIL import Image, ImageOps

    from .convert.errors import check_no_device

    if not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"path: expected that of an image file. Received: {type(path).__name__}; an image in memory becomes an array, "
            'preprocess_input(np.array(image), data_format="channels_last")'
        )
    if color_mode not in _PILLOW_MODES:
        raise ValueError(f"color_mode: expected one of {', '.join(_PILLOW_MODES)}. Received: {color_mode!r}")
    _check_reading(size, crop, interpolation)
    modes = _PILLOW_MODES[color_mode]
    check_no_device(path)
    with open(path, "rb") as stream:
        try:
            image = open_image(stream)
            if exif:
                image = ImageOps.exif_transpose(image)
            loss = None
            if image.mode not in modes:
                loss = _loss_in_8_bits(image)
                image = image.convert(modes[0])
            if size is not None:
                image = _resized(image, size, Image.Resampling[interpolation.upper()], keep_aspect_ratio)
            pixels = np.array(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise any kind of exception for a damaged file
            raise ValueError(f"{os.fspath(path)}: can't be read as an image ({error})") from None
    if loss:
        warn(loss)
    if crop is not None:
        height, width = pixels.shape[:2]
        if height < crop[0] or width < crop[1]:
            raise ValueError(
                f"{os.fspath(path)}: the crop of {crop[0]}×{crop[1]} is larger than the image, {height}×{width}"
            )
        top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)  # as torchvision rounds
        pixels = pixels[top : top + crop[0], left : left + crop[1]]
    return pixels.reshape(*pixels.shape[:2], -1)


def _resized(image: Any, size: int | tuple[int, int], way: Any, keep_aspect_ratio: bool) -> Any:
    """Resizes an image of Pillow's: to a shorter side, as torchvision's `Resize`, or to `(height, width)`, as Keras's `load_img`."""
    width, height = image.size
    if isinstance(size, tuple | list):
        new_height, new_width = size
    else:
        short, keep_aspect_ratio = min(width, height), False
        new_width, new_height = size * width // short, size * height // short
    if (width, height) == (new_width, new_height):
        return image
    if not keep_aspect_ratio:
        return image.resize((new_width, new_height), way)
    cut_height, cut_width = min(height, width * new_height // new_width), min(width, height * new_width // new_height)
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    return image.resize((new_width, new_height), way, box=(left, top, left + cut_width, top + cut_height))


def _loss_in_8_bits(image: Any) -> str | None:
    """Says what is lost where Pillow converts floats or more than 8 bits to 8, and Keras with it."""
    if not image.mode.startswith(("F", "I")):
        return None
    low, high = image.getextrema()
    if image.mode == "F" and low >= 0 and 0 < high <= 1:
        return "an image has floats in [0, 1], which become black in 8 bits, as in Keras; save 255 times the values"
    if high > 255:
        return "an image has pixels above 255, which become 255 in 8 bits, as in Keras; scale them to [0, 255] and save them again"
    return None


def _check_reading(size: Any, crop: Any, interpolation: str, size_name: str = "size") -> None:
    """Raises a ValueError unless these are valid, alone and together."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected one of {', '.join(INTERPOLATIONS)}. Received: {interpolation!r}")
    for name, value in ((size_name, size), ("crop", crop)):
        numbers = value if isinstance(value, tuple | list) else (value, value)
        if value is not None and (
            len(numbers) != 2 or not all(isinstance(n, Integral) and int(n) >= 1 for n in numbers)
        ):
            raise ValueError(f"{name}: expected a number or (height, width), 1 or more each. Received: {value!r}")
    if crop is not None and size is not None and not _leaves(size, crop):
        raise ValueError(f"crop: expected no more than {size_name}={size} leaves. Received: {crop}")


def _leaves(size: int | tuple[int, int], crop: tuple[int, int]) -> bool:
    """Tells whether an image resized to `size` may have room for the crop."""
    height, width = _pair(size)
    is_shorter = not isinstance(size, tuple | list)
    return min(crop) <= height if is_shorter else crop[0] <= height and crop[1] <= width


def _plain(size: Any) -> Any:
    """Returns a size in Python's own numbers, whatever they were."""
    return tuple(map(int, size)) if isinstance(size, tuple | list) else size and int(size)


def _pair(size: Any) -> Any:
    return size if size is None or isinstance(size, tuple | list) else (size, size)


def pipeline_for(
    model: Model,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    exif: bool = False,
    preprocessing: str | None = None,
) -> Pipeline:
    """Makes the pipeline of a model's images, which then all have one size.

    Args:
        model: a model of images alone.
        resize: as `load_image`'s `size`; by default the model's size, or 224×224 if that is open, unless only `crop` is given.
        crop: as `load_image`'s; by default the model's size, if resizing leaves another.
        interpolation: as `load_image`'s.
        keep_aspect_ratio: as `load_image`'s.
        exif: as `load_image`'s.
        preprocessing: as for `preprocess`; by default `preprocessing_of(model)`.

    Raises:
        ValueError: an argument is invalid, or the images wouldn't fit the model.

    Warns:
        UserWarning: the model preprocesses, and `preprocessing` isn't "none".
    """
    _, channels, *sides = image_shape(model)
    cut = _pair(crop)
    _check_reading(resize, cut, interpolation, "resize")
    resize, cut = _plain(resize), _plain(cut)
    if resize is None and cut is None:
        resize = image_size(model)
    if resize is not None and cut is None:
        height, width = (own or side for own, side in zip(sides, _pair(resize), strict=True))
        if (height, width) != resize and _leaves(resize, (height, width)):
            cut = height, width
    size = cut or _pair(resize)
    if any(own not in (None, side) for own, side in zip(sides, size, strict=True)):
        wanted = "×".join(str(own or "any") for own in sides)
        raise ValueError(f"resize and crop: expected to give the model's size, {wanted}. Received: {size[0]}×{size[1]}")
    how = check_preprocessing(preprocessing or preprocessing_of(model))
    if (how == "vgg" and channels not in (1, 3)) or (how == "torchvision" and channels != 3):
        raise ValueError(f"preprocessing: {how!r} is for RGB. Received: a model of images with {channels} channels")
    if how != "none" and (layer := _double_preprocessing(model)):
        warn(
            f"preprocessing {how!r}, but the model's layer {layer} preprocesses already, so it would be done twice; leave it out, or "
            "choose 'none'"
        )
    return Pipeline(resize, cut, interpolation, keep_aspect_ratio, exif, how, color_mode(model))


def load_for(model: Model, path: str | os.PathLike[str], **choices: Any) -> Tensor:
    """Loads an image for a model, `(1, C, H, W)`; `choices` are `pipeline_for`'s arguments, errors also `load_image`'s."""
    return pipeline_for(model, **choices).load(path)


def color_mode(model: Model) -> str:
    """Returns Keras's color mode for a model's number of input channels. Raises a ValueError if there is none."""
    channels = image_shape(model)[1]
    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    if channels not in modes:
        raise ValueError(f"expected a model of images with 1, 3 or 4 channels. Received: one with {channels}")
    return modes[channels]


def find_images(patterns: Iterable[str | os.PathLike[str]]) -> list[str]:
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
        if found := sorted(images_below(pattern)):
            return found
        raise ValueError(f"{pattern}: no images in it; expected files that end in {', '.join(SUFFIXES)}")
    if glob.has_magic(pattern) and not os.path.lexists(pattern):
        if found := sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path)):  # noqa: PTH207, PTH113
            return found
        raise ValueError(f"{pattern}: no file matches")
    if not os.path.exists(pattern):  # noqa: PTH110
        raise FileNotFoundError(f"{pattern}: no such file or folder")
    return [pattern]


def images_below(folder: str) -> Iterator[str]:
    """Yields the image files of a folder and its subfolders, by their suffixes, in no order."""

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
    """Returns the `(None, C, H, W)` of a model's images. Raises a ValueError if it has another input, or several, or is none of torchvgg's."""
    check_is_model(model)
    shapes = list(model.input_shapes.values())
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(f"expected a model of images alone. Received: one with inputs of {model.input_shape}")
    return shapes[0]


def preprocessing_of(model: Model) -> str:
    """Returns how to preprocess a model's images: "none" if a layer of it does it or they aren't RGB, else "vgg"."""
    return "none" if _preprocessing_layer(model)[1] or image_shape(model)[1] != 3 else "vgg"


def _preprocessing_layer(model: Model) -> tuple[str, Normalization | PreprocessInput | Rescaling | None]:
    """Returns the first layer that preprocesses, and its name, or None if a layer with weights comes before it."""
    for node in model.nodes:
        layer = model.get_submodule(node.layer)
        if isinstance(layer, Normalization | PreprocessInput | Rescaling):
            return node.name, layer
        if any(True for _ in layer.parameters()):
            break
    return "", None


def _double_preprocessing(model: Model) -> str | None:
    """Returns the name of a preprocessing layer that certainly takes pixels in [0, 255], as its mean or scale says, or None."""
    name, layer = _preprocessing_layer(model)
    if isinstance(layer, Normalization | Rescaling):
        return name if (layer.mean.min() > 2 if isinstance(layer, Normalization) else layer.scale.max() < 1) else None
    return name if layer else None


def preprocess(x: Tensor, how: str) -> Tensor:
    """Preprocesses images in [0, 255].

    Args:
        x: `(N, C, H, W)`, float; RGB for "vgg" and "torchvision", for "vgg" also grey.
        how: "vgg" calls `preprocess_input`, or subtracts the mean of its three numbers from grey, "unit" scales to [0, 1], "signed" to [-1, 1], "torchvision" to [0, 1] minus ImageNet's
            mean over its standard deviation; "none" does nothing.
    """
    check_preprocessing(how)
    if how == "torchvision":
        mean, deviation = (x.new_tensor(three).reshape(3, 1, 1) for three in (TORCHVISION_MEAN, TORCHVISION_DEVIATION))
        return (x / 255 - mean) / deviation
    if how == "vgg" and x.shape[1] == 1:
        return x - sum(MEAN_BGR) / len(MEAN_BGR)  # as `VGG16(adapt_input=True)` wants it
    if how == "vgg":
        return preprocess_input(x)
    if how == "unit":
        return x / 255
    return x / 127.5 - 1 if how == "signed" else x


def check_preprocessing(how: str) -> str:
    """Returns `how` if `preprocess` knows it, else raises a ValueError."""
    if how not in PREPROCESSINGS:
        raise ValueError(f"preprocessing: expected one of {', '.join(PREPROCESSINGS)}. Received: {how!r}")
    return how
