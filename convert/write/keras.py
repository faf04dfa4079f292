"""Writes a network's weights as the files that Keras loads into its own model: VGG16, VGG19, or the model that the network came from."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

from ..errors import LayerError
from ..layout import CONV2D_KERNEL
from ..network.kinds import KINDS
from ..network.network import Layer, Network, Weight
from ..network.vgg_base import as_plain_vgg
from ..network.weights_groups import places
from ..read.keras_file import KerasFile

LONGEST_ATTRIBUTE = 64512  # bytes, as Keras has it
OLDER_KERAS = ("CuDNNLSTM", "CuDNNGRU", "Deconvolution2D")  # classes that Keras 3 doesn't have
STATISTICS = ("running_mean", "running_var", "mean", "variance", "count")  # aren't trained
ARRAYS = {  # Keras's names of arrays, where they aren't PyTorch's
    **{"weight": "kernel", "weight_ih": "kernel", "weight_hh": "recurrent_kernel"},
    **{"depthwise_weight": "depthwise_kernel", "pointwise_weight": "pointwise_kernel"},
    **{"running_mean": "moving_mean", "running_var": "moving_variance"},
}


def for_keras(network: Network, suffix: str) -> Network:
    """Returns a network as it can be written in the form of `suffix`: as Keras's own VGG, or as the model that it came from.

    Raises a ValueError if it isn't certain which group of the file is which layer's; the message names the first such layer.
    """
    purpose = f"{suffix}, the way back,"
    if not network.class_name or not any(layer.is_nested for layer in network.layers):
        try:
            return as_plain_vgg(network, purpose)
        except ValueError as error:
            if not network.class_name:
                advice = (
                    "another model goes back from a file that says where its layers lie in Keras: convert its own again"
                )
                raise ValueError(f"{error}; {advice}") from None
    if not any(layer.weights for layer in network.layers):
        raise ValueError(f"{purpose} is for weights, and {network.name} has none")
    if network.kernels is not CONV2D_KERNEL:
        raise ValueError(f"{purpose} takes no kernels of Theano's; convert the file into a .safetensors first")
    for layer in network.layers:
        if layer.weights and layer.class_name in OLDER_KERAS:
            raise LayerError(layer.name, layer.class_name, "Keras 3 has no such layer", "it can't go back")
        if layer.weights and layer.is_nested and not layer.place:
            reason = "its place in the Keras model isn't known, since a layer of another kind has taken it"
            raise LayerError(layer.name, layer.class_name, reason, "it can't go back")
    for name, layers in groups(network, suffix).items():
        own = [layer for layer in layers if layer.weights]
        if suffix != ".h5" and len(own) > 1:
            raise ValueError(f"{own[0].name} and {own[1].name} are both said to be {name} in Keras")
        has_statistics = any(weight.name in STATISTICS for layer in own for weight in layer.weights)
        if len(own) > 1 and (has_statistics or len({layer.trainable for layer in own}) > 1):
            raise ValueError(
                f"{name}: in an .h5 the order of a nested model's arrays depends on what is frozen when Keras loads it; "
                "name a .weights.h5"
            )
    return network


def groups(network: Network, suffix: str) -> dict[str, list[Layer]]:
    """Returns the layers of each group of a file of that form; `.h5` has one for each layer, or nested model, of the model's own."""
    flat = [layer for layer in network.layers if not layer.is_nested]
    numbered = zip((layer.name for layer in flat), places(layer.class_name for layer in flat), strict=True)
    place_of = {layer.name: layer.place for layer in network.layers} | dict(numbered)
    found: dict[str, list[Layer]] = {}
    for layer in network.layers:
        if layer.weights or not layer.is_nested:
            place = place_of[layer.name] + KINDS[layer.class_name].groups[0]
            found.setdefault((*layer.path, layer.name)[0] if suffix == ".h5" else place, []).append(layer)
    return found


def write_keras(network: Network, path: Path, suffix: str, dtype: str) -> None:
    """Writes the arrays of a network that `for_keras` returned.

    The suffix ".h5" stands for Keras 2's format, which Keras 3 reads too, ".weights.h5" for Keras 3's, which 2 reads too.
    """
    with h5py.File(path, "w", locking=False) as file:  # nobody else knows its name: `atomic_files.writing`
        own = groups(network, suffix)
        (_write_numbered if suffix == ".weights.h5" else _write_named)(own, file, dtype)


def _write_named(own: dict[str, list[Layer]], file: h5py.File, dtype: str) -> None:
    """Writes a group for each layer, whose attribute names its arrays."""
    _write_names(file, "layer_names", list(own))
    file.attrs["backend"] = np.bytes_("tensorflow")
    file.attrs["keras_version"] = np.bytes_("2.15.0")  # that of the format; without it Keras assumes version 1
    for name, layers in own.items():
        group = file.create_group(name)
        names = []
        for layer in layers:
            for weight in layer.weights:  # none in a pooling layer
                names.append(f"{'/'.join(layer.path[1:]) or name}/{keras_name(layer, weight)}:0")
                group[names[-1]] = _numbers(weight, dtype)
        _write_names(group, "weight_names", names)


def _write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    """Writes an attribute of names; in numbered parts, as Keras does, where it is too long for HDF5."""
    encoded = np.array([name.encode() for name in names], "S")
    if encoded.nbytes <= LONGEST_ATTRIBUTE:
        group.attrs[attribute] = encoded
        return
    step = max(1, LONGEST_ATTRIBUTE // encoded.itemsize)
    for number, first in enumerate(range(0, len(names), step)):
        group.attrs[f"{attribute}{number}"] = encoded[first : first + step]


def keras_name(layer: Layer, weight: Weight) -> str:
    """Returns the name that Keras gives to an array of a layer."""
    own = {"PReLU": {"weight": "alpha"}, "Embedding": {"weight": "embeddings"}}.get(layer.class_name, ARRAYS)
    if "Normalization" in layer.class_name:
        own = ARRAYS | {"weight": "gamma", "bias": "beta"}
    return own.get(weight.name, weight.name)


def _write_numbered(own: dict[str, list[Layer]], file: h5py.File, dtype: str) -> None:
    """Writes a group for each layer, named by its class and number, with numbered arrays."""
    for place in ("", "layers/input_layer/"):
        file.create_group(f"{place}vars")  # Keras 2 looks for them
    for name, (layer, *_) in own.items():
        group = file.create_group(f"{name}/vars")
        group.attrs["name"] = (layer.name, *layer.path)[-1]
        for number, weight in enumerate(layer.weights):
            group[str(number)] = _numbers(weight, dtype)
            if dtype == "bfloat16":
                group[str(number)].attrs["dtype"] = dtype


def _numbers(weight: Weight, dtype: str) -> np.ndarray:
    own = weight.array.dtype
    array = weight.keras_array(getattr(torch, dtype) if own.is_floating_point else own)
    return array.view(torch.int16).numpy().view("V2") if array.dtype is torch.bfloat16 else array.numpy()


def arrays_of_file(network: Network, keras_file: KerasFile, suffix: str) -> Network:
    """Returns a network with the arrays of the file that `write_keras` wrote of it, as a reader finds them."""
    found = {group.name: group.arrays for group in keras_file.layers}
    read = {}
    for name, layers in groups(network, suffix).items():
        arrays = iter(found.get(name, []))
        for layer in layers:
            weights = [replace(weight, array=array) for weight, array in zip(layer.weights, arrays, strict=False)]
            read[layer.name] = replace(layer, weights=weights)
    return replace(network, layers=[read.get(layer.name, layer) for layer in network.layers])
