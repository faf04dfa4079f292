"""The options of a conversion, their values, and which go together."""

from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError

KERAS_SUFFIXES = (".weights.h5", ".h5")
SUFFIXES = (".safetensors", ".pt", ".pth", *KERAS_SUFFIXES)
NAMING_SCHEMES = ("torchvgg", "torchvision", "timm")  # whose model loads the file: the option --layout
DTYPES = ("float32", "float16", "bfloat16")
ACTIVATIONS = {"softmax": "softmax", "none": "linear"}  # of a VGG's top, and Keras's names of them


def check_options(dtype: str, input_shape: tuple[int, int] | None, activation: str | None) -> None:
    """Raises a ValueError unless each option has a value that it may have."""
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("activation", activation, (None, *ACTIVATIONS))
    if input_shape is not None and [isinstance(size, int) and size >= 32 for size in input_shape] != [True, True]:
        raise UsageError(f"input_shape: expected (height, width), 32 or more each. Received: {input_shape!r}")


def check_form(naming_scheme: str, dtype: str, output: Path) -> None:
    """Raises a ValueError unless a file like `output` can have that naming scheme and that type of numbers."""
    _check_choice("layout", naming_scheme, NAMING_SCHEMES)
    suffix = suffix_of(output)
    if naming_scheme != "torchvgg" and suffix in KERAS_SUFFIXES:
        raise UsageError(f"layout: a Keras file has Keras's own. Received: {naming_scheme!r} for {output}")
    if dtype == "bfloat16" and suffix == ".h5":
        raise UsageError(f"dtype: Keras 3 reads bfloat16 from a .weights.h5 only. Received: {output}")


def _check_choice(name: str, value: str | None, choices: Iterable[str | None]) -> None:
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(filter(None, choices))}. Received: {value!r}")


def suffix_of(path: Path) -> str:
    """Returns the suffix of a file's name, of which `.weights.h5` is one."""
    return next((suffix for suffix in SUFFIXES if path.name[1:].endswith(suffix)), path.suffix)
