"""KerasHub's VGGs, which are written as the settings that build them → configurations with layers, as Keras writes other models.

KerasHub's preprocessors stay out: a converted model takes the images that its preprocessor returns.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .kinds.validators import whole

BACKBONE, CLASSIFIER = HUB_MODELS = ("VGGBackbone", "VGGImageClassifier")
MOST_CONVOLUTIONS = 100
MOST_BACKBONES = 20  # in one file: a few bytes stand for many layers
POOLERS = {
    "avg": ("GlobalAveragePooling2D", "pooler"),
    "max": ("GlobalMaxPooling2D", "pooler"),
    "flatten": ("Flatten", "flatten"),
}

Json = dict[str, Any]


def hub_config(class_name: str, config: Mapping[str, Any]) -> Json:
    """Returns the configuration of one of `HUB_MODELS`, with its layers. A ValueError tells of settings that build none."""
    layers = _backbone(config) if class_name == BACKBONE else _classifier(config)
    for before, layer in pairwise(layers):
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [before["name"], 0, 0]}}
        layer["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}]
    first, last = layers[0]["name"], layers[-1]["name"]
    name = "vgg_backbone" if class_name == BACKBONE else "vgg_image_classifier"
    return {"name": name, **config, "layers": layers, "input_layers": [first, 0, 0], "output_layers": [last, 0, 0]}


def check_backbones(found: Any) -> None:
    """Raises a ValueError if an architecture has more backbones than a network has."""
    left, count = [found], 0
    while left:
        part = left.pop()
        if isinstance(part, dict):
            count += isinstance(name := part.get("class_name"), str) and name.endswith(BACKBONE)
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    if count > MOST_BACKBONES:
        raise ValueError(f"{count:,} {BACKBONE}s; a network of up to {MOST_BACKBONES} can be converted")


def _layer(class_name: str, name: str, **config: Any) -> Json:
    return {"class_name": class_name, "name": name, "config": {"name": name, **config}}


def _convolution(name: str, filters: Any, size: int, padding: str = "same") -> Json:
    return _layer("Conv2D", name, filters=filters, kernel_size=[size, size], padding=padding, activation="relu")


def _input(config: Mapping[str, Any]) -> Json:
    shape = config.get("image_shape", [None, None, 3])
    if not isinstance(shape, list):
        raise ValueError(f"image_shape: expected height, width and channels. Received: {shape!r:.100}")
    return _layer("InputLayer", "input_layer", batch_shape=[None, *shape])


def _backbone(config: Mapping[str, Any]) -> list[Json]:
    repeats, filters = (config.get(f"stackwise_num_{what}") for what in ("repeats", "filters"))
    if not (isinstance(repeats, list) and isinstance(filters, list) and len(repeats) == len(filters) > 0):
        raise ValueError(
            f"{BACKBONE}: expected a number of convolutions and of filters for each block. Received: {repeats!r:.50}"
        )
    if not all(map(whole, repeats)) or sum(repeats) > MOST_CONVOLUTIONS:
        raise ValueError(f"{BACKBONE}: {repeats!r:.50} are no numbers of convolutions")
    layers = [_input(config)]
    for block, (count, width) in enumerate(zip(repeats, filters, strict=True), start=1):
        layers += [_convolution(f"block{block}_conv{number}", width, 3) for number in range(1, count + 1)]
        layers.append(_layer("MaxPooling2D", f"block{block}_pool"))
    return layers


def _classifier(config: Mapping[str, Any]) -> list[Json]:
    """Lists input, backbone and head; flattened maps go through Dense layers, others through convolutions, then the pooling."""
    backbone, pooling = config.get("backbone"), config.get("pooling", "avg")
    if not isinstance(backbone, dict) or not isinstance(backbone.get("config"), dict) or pooling not in tuple(POOLERS):
        raise ValueError(
            f"{CLASSIFIER}: expected a backbone and a pooling out of {', '.join(POOLERS)}. Received: {pooling!r:.50}"
        )
    width, pooler = config.get("pooling_hidden_dim", 4096), _layer(*POOLERS[pooling])
    dropout = _layer("Dropout", "output_dropout", rate=config.get("dropout", 0.0))
    if pooling == "flatten":
        hidden = [_layer("Dense", name, units=width, activation="relu") for name in ("fc1", "fc2")]
        head = [pooler, hidden[0], dropout, hidden[1]]
    else:
        head = [_convolution("fc1", width, 7, "valid"), dropout, _convolution("fc2", width, 1), pooler]
    head.append(_layer("Dense", "predictions", units=config.get("num_classes"), activation=config.get("activation")))
    name = str(backbone["config"].get("name", "vgg_backbone"))
    inner = {"class_name": "Sequential", "name": "head", "config": {"name": "head", "layers": head}}
    return [_input(backbone["config"]), {**backbone, "name": name}, inner]
