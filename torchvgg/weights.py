"""A name or a path → tensors, mapped from the file where that is possible, with what the file says of the model."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from .convert.source import Source


class Weights(NamedTuple):
    """Tensors by name, of the file's own type, and the architecture they belong to, where the file has one."""

    tensors: dict[str, Tensor]
    architecture: dict[str, Any] | None


def find_weights(weights: str | os.PathLike[str], network: str, include_top: bool) -> Path:
    """The file that a model's `weights` argument means; the published one is fetched and converted where it must be."""
    if weights != "imagenet":
        return Path(weights)
    from .convert import convert, published

    name = network if include_top else f"{network}-notop"
    for converted in (published.converted_path(name), published.converted_path(network)):
        if converted.is_file():
            return converted
    convert(name, force=True)  # another process may have been faster: the file is whole either way
    return published.converted_path(name)


def read_model(path: Path) -> Weights:
    """The tensors and the architecture of a file that `convert` wrote, or of a Keras file, told by its content.

    Raises:
        ValueError: the file is neither, or is damaged, or its model can't be converted.
        OSError: it can't be read.
    """
    from .convert.errors import told_of
    from .convert.tensors import network_of_torch_file
    from .convert.torch_file import is_torch_file, read_torch_file

    if is_torch_file(path):
        file = read_torch_file(path)
        if file.architecture is None:
            return Weights(file.tensors, None)
        with told_of(path):
            return Weights(file.tensors, network_of_torch_file(file, None, base_only=False).architecture())
    from .convert.source import open_source

    with open_source(path, None, base_only=False) as source:
        if source.assumed:
            warnings.warn(f"{path}: {source.assumed}", stacklevel=3)
        return Weights(_tensors(source), source.network.architecture())


def read_weights(path: Path, image_size: tuple[int, int] | None, base_only: bool) -> dict[str, Tensor]:
    """The tensors of a VGG in such a file. Of a Keras file no more counts than the order and shapes of its arrays.

    Args:
        path: the file.
        image_size: `(height, width)` of the images, where a Keras file has a top.
        base_only: leave the top of a Keras file aside.

    Raises:
        ValueError: the file is neither, or is damaged, or has other arrays.
        OSError: it can't be read.
    """
    from .convert.torch_file import is_torch_file, read_torch_file

    if is_torch_file(path):
        return read_torch_file(path).tensors
    from .convert.source import open_source

    with open_source(path, image_size, base_only, weights_only=True) as source:
        return _tensors(source)


def _tensors(source: Source) -> dict[str, Tensor]:
    return {key: weight.tensor() for key, weight in source.network.weights()}
