"""Writes a VGG's weights as the files that Keras 2 and 3 load into `keras.applications.VGG16(weights=path)`."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from ..network.network import Layer, Network
from ..network.weights_groups import places


def write_keras(network: Network, path: Path, suffix: str, dtype: str) -> None:
    """Writes the arrays of a plain VGG, which have Keras's own layout, not Theano's.

    The suffix ".h5" stands for Keras 2's format, which Keras 3 reads too, ".weights.h5" for Keras 3's, which 2 reads too.
    """
    with h5py.File(path, "w", locking=False) as file:  # nobody else knows its name: `files.writing`
        (_write_numbered if suffix == ".weights.h5" else _write_named)(network, file, dtype)


def _write_named(network: Network, file: h5py.File, dtype: str) -> None:
    """Writes a group for each layer, whose attribute names its arrays."""
    file.attrs["layer_names"] = np.array([layer.name for layer in network.layers], "S")
    file.attrs["backend"] = np.bytes_("tensorflow")
    file.attrs["keras_version"] = np.bytes_("2.15.0")  # that of the format; without it Keras assumes version 1
    for layer in network.layers:
        group = file.create_group(layer.name)
        names = []
        for name, array in zip(("kernel", "bias"), _arrays(layer, dtype), strict=False):  # none in a pooling layer
            names.append(f"{layer.name}/{name}:0")
            group[names[-1]] = array
        group.attrs["weight_names"] = np.array(names, "S")


def _write_numbered(network: Network, file: h5py.File, dtype: str) -> None:
    """Writes a group for each layer, named by its class and number, with numbered arrays."""
    for place in ("", "layers/input_layer/"):
        file.create_group(f"{place}vars")  # Keras 2 looks for them
    for place, layer in zip(places(layer.class_name for layer in network.layers), network.layers, strict=True):
        group = file.create_group(f"{place}/vars")
        group.attrs["name"] = layer.name
        for number, array in enumerate(_arrays(layer, dtype)):
            group[str(number)] = array
            if dtype == "bfloat16":
                group[str(number)].attrs["dtype"] = dtype


def _arrays(layer: Layer, dtype: str) -> Iterator[np.ndarray]:
    for weight in layer.weights:
        array = weight.keras_array(getattr(torch, dtype))
        yield array.view(torch.int16).numpy().view("V2") if dtype == "bfloat16" else array.numpy()
