"""Which arrays a Keras file holds, whatever version wrote it: names, shapes, order. What they mean is for `network` to say.

Three layouts exist (the facts were read off files that Keras wrote, and off its source):

- HDF5 with `layer_names`: weights of Keras 1 and 2, and, under `/model_weights`, whole models of Keras 2 and 3. Each layer
  is a group whose attribute `weight_names` names its arrays, in order; a nested model is one group with all its arrays.
- HDF5 without: `.weights.h5` of Keras 2 and 3. `/layers/<type>[_N]/vars/0, 1, …`, nested models alike.
- `.keras`: a zip of which one member is such a `.weights.h5`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
BFLOAT16 = np.dtype("V2")  # HDF5 knows no bfloat16: Keras stores two opaque bytes a number


@dataclass(frozen=True)
class KerasArray:
    """One array of the file, read when it is asked for."""

    name: str
    dataset: h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    @property
    def owner(self) -> str:
        """The layer that the array's name names: `head/dense/kernel:0` → `dense`."""
        return "".join(self.name.split("/")[-2:-1])

    @property
    def is_floating(self) -> bool:
        return self.dataset.dtype.kind == "f" or self.dataset.dtype == BFLOAT16

    def read(self) -> torch.Tensor:
        """The array as Keras laid it out."""
        array = np.asarray(self.dataset[()])
        if array.dtype == BFLOAT16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


@dataclass(frozen=True)
class KerasLayer:
    """A layer, or a nested model, and its arrays in Keras's order."""

    name: str
    arrays: list[KerasArray]


@dataclass(frozen=True)
class KerasFile:
    """An open file: `layers` in the file's own order, layers without arrays among them.

    `config` is the architecture, as Keras's JSON has it; None in a file of weights alone.
    """

    path: Path
    format: str
    keras_version: str
    layers: list[KerasLayer]
    config: dict[str, Any] | None = None
    is_named: bool = True  # the layers' names are Keras's; in a `.weights.h5` they are places

    @property
    def arrays(self) -> list[KerasArray]:
        return [array for layer in self.layers for array in layer.arrays]


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Opens a Keras file of any kind, told by its content.

    Raises:
        ValueError: it isn't one, or what it says of itself can't be followed.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        magic = stream.read(8)
        stream.seek(0)
        if magic == HDF5_MAGIC:
            with _open_hdf5(path, stream) as root:
                yield _read_hdf5(path, root)
        elif magic[:4] == b"PK\x03\x04" and (archive := _open_keras_zip(path, stream)):
            try:
                weights, config = (archive.read(name) for name in ("model.weights.h5", "config.json"))
                version = str(json.loads(archive.read("metadata.json"))["keras_version"])
            except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path}: a damaged archive ({error})") from None
            with _open_hdf5(path, io.BytesIO(weights)) as root:
                layers = list(_numbered_layers(root["layers"])) if "layers" in root else []
                yield KerasFile(path, ".keras", version, layers, _json(path, config), is_named=False)
        else:
            raise ValueError(f"{path}: neither an HDF5 file nor a .keras archive; expected a file that Keras wrote")


def is_keras_file(path: Path) -> bool:
    """Whether the content is that of a Keras file: HDF5, or a zip that holds a model's configuration."""
    with open(path, "rb") as stream:
        magic = stream.read(8)
        return magic == HDF5_MAGIC or (magic[:4] == b"PK\x03\x04" and _open_keras_zip(path, stream) is not None)


def _open_keras_zip(path: Path, stream: io.BufferedReader) -> zipfile.ZipFile | None:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: a damaged archive ({error})") from None
    return archive if "model.weights.h5" in archive.namelist() else None


@contextmanager
def _open_hdf5(path: Path, stream: io.IOBase) -> Iterator[h5py.File]:
    try:
        root = h5py.File(stream, "r")
    except OSError as error:
        raise ValueError(f"{path}: a damaged or incomplete HDF5 file ({error})") from None
    with root:
        yield root


def _read_hdf5(path: Path, root: h5py.File) -> KerasFile:
    weights = root.get("model_weights", root)
    version = _text(root.attrs.get("keras_version", weights.attrs.get("keras_version", "")))
    if names := _names(weights, "layer_names"):
        layers = [_named_layer(path, weights, name) for name in names]
        kind = "whole model .h5" if weights is not root else "weights .h5"
        config = _json(path, root.attrs["model_config"]) if "model_config" in root.attrs else None
        return KerasFile(path, kind, version or "1", layers, config)
    if "layers" in root:
        layers = list(_numbered_layers(root["layers"]))
        named = any("name" in root[f"{layer.name}/vars"].attrs for layer in layers)
        return KerasFile(path, ".weights.h5", version or ("3" if named else "2"), layers, is_named=False)
    raise ValueError(f"{path}: an HDF5 file without Keras layers; expected `layer_names` or a group `layers`")


def _named_layer(path: Path, weights: h5py.Group, name: str) -> KerasLayer:
    if name not in weights:
        raise ValueError(f"{path}: layer {name!r} is named, but has no group")
    group = weights[name]
    arrays = []
    names = _names(group, "weight_names")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: layer {name!r}: two arrays of one name, of which Keras has kept one")
    for weight_name in names:
        if not isinstance(group.get(weight_name), h5py.Dataset):
            raise ValueError(f"{path}: layer {name!r}: the array {weight_name!r} is named, but isn't there")
        arrays.append(KerasArray(weight_name, group[weight_name]))
    return KerasLayer(name, arrays)


def _numbered_layers(layers: h5py.Group) -> Iterator[KerasLayer]:
    for key in sorted(layers, key=_natural):
        group = layers[key]
        if "layers" in group:
            yield from _numbered_layers(group["layers"])
        elif "vars" in group:
            arrays = [
                KerasArray(f"{group.name[1:]}/vars/{i}", group["vars"][i]) for i in sorted(group["vars"], key=int)
            ]
            yield KerasLayer(group.name[1:], arrays)


def _natural(key: str) -> tuple[str, int]:
    """`conv2d_2` before `conv2d_10`, and `conv2d` before both."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    assert match is not None
    return match[1], int(match[2] or 0)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; one too long for an HDF5 attribute is split into `attribute0`, `attribute1`, …"""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    names: list[str] = []
    part = 0
    while f"{attribute}{part}" in group.attrs:
        names += [_text(name) for name in group.attrs[f"{attribute}{part}"]]
        part += 1
    return names


def _json(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the model's configuration is no JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: the model's configuration is no JSON object")
    return config


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
