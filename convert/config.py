"""What the configuration in a whole-model file says: a VGG as Keras builds it, and nothing else, is understood."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from .keras_file import KerasFile
from .network import Layer, Network, network_of

# A pooling at the end, and the name of the first that Keras makes; a later one's has a number, which says nothing.
POOLINGS = {
    "GlobalAveragePooling2D": "global_average_pooling2d",
    "GlobalMaxPooling2D": "global_max_pooling2d",
}
WAY_OUT = "save its weights with model.save_weights('x.weights.h5') and convert those, with --base-only if the head isn't Keras's"


class Described(NamedTuple):
    """The layers of a configuration, in order: class, name, settings; and the images' `(height, width, channels)`."""

    layers: list[tuple[str, str, dict[str, Any]]]
    input_shape: tuple[int | None, int | None, int]


def network_of_file(keras_file: KerasFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The network of a file of weights, or of a whole model, with what its configuration adds.

    Raises:
        ValueError: the arrays aren't a VGG's, or the configuration isn't that of the same VGG; the layer is named.
    """
    if keras_file.config is None:
        return network_of(keras_file, input_shape, base_only)
    described = _read(keras_file)
    height, width, _ = described.input_shape
    size = (height, width) if height and width else input_shape
    network = network_of(keras_file, size, base_only)
    layers = []
    for layer, (class_name, name, config) in zip(network.layers, described.layers, strict=False):
        if (class_name, name) != (layer.class_name, layer.name):
            raise _not_plain(keras_file, name, class_name)
        activation = config.get("activation")
        if "activation" in layer.config and activation != layer.config["activation"] and name != "predictions":
            raise _not_plain(keras_file, name, f"activation {activation!r}")
        changed = {"activation": activation} if name == "predictions" else {}
        layers.append(dataclasses.replace(layer, config=layer.config | changed))
    for class_name, name, _ in described.layers[len(layers) :]:
        if base_only:
            break
        if class_name not in POOLINGS or len(described.layers) != len(layers) + 1:
            raise _not_plain(keras_file, name, class_name)
        layers.append(Layer(class_name, POOLINGS[class_name]))
    if len(described.layers) < len(network.layers):
        raise ValueError(f"{keras_file.path}: more arrays than the configuration has layers for")
    return dataclasses.replace(network, layers=layers, input_shape=described.input_shape)


def _read(keras_file: KerasFile) -> Described:
    try:
        assert keras_file.config is not None
        entries = keras_file.config["config"]["layers"]
        layers = [(str(entry["class_name"]), str(entry["config"]["name"]), entry["config"]) for entry in entries]
        (shape,) = (
            config.get("batch_shape") or config["batch_input_shape"]
            for kind, _, config in layers
            if kind == "InputLayer"
        )
        _, height, width, channels = shape
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{keras_file.path}: a model that isn't a plain VGG ({error!r}); {WAY_OUT}") from None
    return Described([layer for layer in layers if layer[0] != "InputLayer"], (height, width, channels))


def _not_plain(keras_file: KerasFile, name: str, what: str) -> ValueError:
    return ValueError(f"{keras_file.path}: layer {name!r} ({what}) is no part of Keras's own VGG; {WAY_OUT}")
