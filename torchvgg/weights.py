"""A name or a path → tensors, mapped from the file where that is possible, with what the file says of the model."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


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


def read_weights(path: Path, image_size: tuple[int, int] | None = None, base_only: bool = False) -> Weights:
    """The tensors of a file that `convert` wrote, or of a Keras file, told by its content.

    Args:
        path: the file.
        image_size: `(height, width)` of the images, where a Keras file has a top and doesn't tell.
        base_only: leave the top of a Keras file aside.

    Raises:
        ValueError: the file is neither, or is damaged.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(9)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    from .convert.keras_file import is_keras_file, open_keras_file

    if is_keras_file(path):
        from .convert.config import network_of_file

        with open_keras_file(path) as keras_file:
            found = network_of_file(keras_file, image_size, base_only)
            tensors = {key: weight.tensor().contiguous() for key, weight in found.weights()}
            return Weights(tensors, found.architecture())
    return Weights(_read_pickle(path), None)


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            architecture = (file.metadata() or {}).get("architecture")
        return Weights(tensors, json.loads(architecture) if architecture else None)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: a damaged .safetensors file ({error})") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    expected = f"{path}: expected a Keras file, or one that `convert` wrote (.safetensors, .pt, .pth)"
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{expected}. Received: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise ValueError(f"{expected}. Received: a pickle that isn't a dict of tensors")
    return tensors
