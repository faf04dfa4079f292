"""."""

from __future__ import annotations

import os
from pathlib import Path

KERAS_SUFFIXES = (".weights.h5", ".h5")


SUFFIXES = (".safetensors", ".pt", ".pth", *KERAS_SUFFIXES)


LAYOUTS = ("torchvgg", "torchvision", "timm")


ACTIVATIONS = {"softmax": "softmax", "none": "linear"}  # of a VGG's top, and Keras's names of them


DTYPES = ("float32", "float16", "bfloat16")


def check_dtype(dtype: str) -> None:
    """Raises a ValueError unless `dtype` is one that can be written."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}. Received: {dtype!r}")


def check_form(layout: str, dtype: str, target: Path) -> None:
    """Raises a ValueError unless `layout` and `dtype` are ones that a file like `target` can have."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}. Received: {layout!r}")
    suffix = suffix_of(target)
    if layout != LAYOUTS[0] and suffix in KERAS_SUFFIXES:
        raise ValueError(f"layout: a Keras file has Keras's own. Received: {layout!r} for {target}")
    if dtype == "bfloat16" and suffix == ".h5":
        raise ValueError(f"dtype: Keras 3 reads bfloat16 from a .weights.h5, and none from a .h5. Received: {target}")


def check_size(size: tuple[int, int] | None) -> None:
    """Raises a ValueError unless `size` is None or the `(height, width)` of an image, 32 or more each."""
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n >= 32 for n in size)):
        raise ValueError(f"input_shape: expected (height, width), 32 or more each. Received: {size!r}")


def check_target(target: Path, force: bool, source: Path | None = None) -> None:
    """Raises unless `target` is a file that may be written: a ValueError or an OSError that says why not."""
    if source and target.exists() and target.samefile(source):
        raise ValueError(f"output: {target} is the input itself; name another file")
    if suffix_of(target) not in SUFFIXES:
        raise ValueError(f"output: expected a name that ends in {', '.join(SUFFIXES)}. Received: {target}")
    if Path(os.path.realpath(target)).is_symlink():
        raise OSError(f"{target} is a link that leads to itself; name another file")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file in it")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists and is kept; --force overwrites it")


def suffix_of(path: Path) -> str:
    """What a file's name says it is: `.weights.h5` is one suffix."""
    return next((suffix for suffix in SUFFIXES if path.stem and path.name[1:].endswith(suffix)), path.suffix)
