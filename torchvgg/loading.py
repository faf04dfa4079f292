"""Building models from files: `load_model` from any, `open_model` also published ones, `build` from what a file holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import layers
from .layers.shared import Shapes
from .model import Model
from .vgg import VGG
from .vgg16 import VGG16
from .vgg19 import VGG19
from .weights import assign, read_model


def from_config(class_name: str, config: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """Makes the layer of a Keras class name and configuration, for tensors of these shapes.

    Raises:
        ValueError: torchvgg has no such layer.
    """
    layer_class = vars(layers).get(class_name)
    if not isinstance(layer_class, type):
        known = ", ".join(name for name, value in vars(layers).items() if isinstance(value, type))
        raise ValueError(f"expected a layer out of {known}. Received: {class_name!r}")
    settings = dict(config)
    if isinstance(activation := settings.get("activation"), Mapping):  # a layer as the activation
        settings["activation"] = from_config(activation["class_name"], activation["config"], {})
    if sizes := getattr(layer_class, "sizes", None):
        settings |= sizes(shapes, config)
    layer: nn.Module = layer_class(**settings)
    return layer


def build(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """Makes the model of an architecture that `convert` wrote, with the given tensors as its own, in `eval()`.

    Raises:
        ValueError: torchvgg has no such layer, or the tensors don't fit the layers.
    """
    name, input_shape = architecture["name"], tuple(architecture["input_shape"])
    by_layer: dict[str, dict[str, Tensor]] = {layer["name"]: {} for layer in architecture["layers"]}
    for key, tensor in tensors.items():
        layer_name, _, parameter = key.rpartition(".")
        if layer_name not in by_layer:
            raise ValueError(f"{name} has no place for {key}")
        by_layer[layer_name][parameter] = tensor
    chain: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for layer in architecture["layers"]:
            shapes = {parameter: tensor.shape for parameter, tensor in by_layer[layer["name"]].items()}
            chain[layer["name"]] = from_config(layer["class_name"], layer["config"], shapes)
    model = _as_vgg(chain, input_shape, name) or Model(chain, input_shape, name)
    own = {  # by the model's names: it may have added underscores to the file's
        f"{child}.{parameter}": tensor
        for (child, _), group in zip(model.named_children(), by_layer.values(), strict=True)
        for parameter, tensor in group.items()
    }
    assign(model, own)
    for layer, module in zip(architecture["layers"], model.children(), strict=True):
        if not layer.get("trainable", True):
            module.requires_grad_(False)
    return model.eval()


# Keras's name of a pooling at the end of a VGG; when it makes another, it adds a number, which says nothing.
_POOLINGS: dict[type[nn.Module], tuple[str, str]] = {
    layers.GlobalAveragePooling2D: ("avg", "global_average_pooling2d"),
    layers.GlobalMaxPooling2D: ("max", "global_max_pooling2d"),
}


def _as_vgg(chain: dict[str, nn.Module], input_shape: Any, name: str) -> VGG | None:
    """The VGG that consists of just these layers, if one does."""
    arguments: dict[str, Any] = {"include_top": "predictions" in chain, "input_shape": input_shape, "weights": None}
    if isinstance(head := chain.get("predictions"), layers.Dense):
        arguments |= {"classes": head.out_features, "classifier_activation": head.activation}
    children = list(chain.items())
    if children and type(children[-1][1]) in _POOLINGS:
        last_name, last = children[-1]
        arguments["pooling"], plain_name = _POOLINGS[type(last)]
        children[-1] = (re.sub(r"_\d+$", "", last_name) if last_name.startswith(plain_name) else last_name, last)
    for network in (VGG16, VGG19):
        try:
            with torch.device("meta"):
                model = network(**arguments, name=name)
        except ValueError:  # sizes or settings that a VGG doesn't take
            return None
        if [*map(repr, model.named_children())] == [*map(repr, children)]:
            return model
    return None


PUBLISHED: dict[str, type[VGG16 | VGG19]] = {"vgg16": VGG16, "vgg19": VGG19}


def load_model(path: str | os.PathLike[str]) -> Model:
    """Loads the model of a Keras file with an architecture, or of a `.safetensors` that `convert` wrote, ready to use.

    Returns:
        A VGG16 or VGG19 if that is what the file holds, else a `Model` with the file's layers, in `eval()`.

    Raises:
        ValueError: the file is damaged, or has no architecture.
        OSError: it can't be read.
    """
    tensors, architecture = read_model(Path(path))
    if architecture is None:
        raise ValueError(
            f"{path}: tensors without an architecture; expected a Keras file or a .safetensors that `convert` wrote. "
            "Weights alone go into a model, VGG16(weights=path), or through `convert` into a .safetensors"
        )
    try:
        return build(architecture, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_model(weights: str | os.PathLike[str] = "vgg16", include_top: bool = True) -> Model:
    """Opens a file, as `load_model` does, or a published model by its name, "vgg16" or "vgg19", in `eval()`.

    Args:
        weights: the file or the name.
        include_top: whether a published model has its classifier; without it, images of any size go in.

    Raises:
        ValueError: as `load_model`.
        OSError: the file is missing or can't be read, or the weights can't be downloaded.
    """
    if weights in PUBLISHED:
        return PUBLISHED[str(weights)](include_top=include_top).eval()
    if not os.path.exists(weights):  # noqa: PTH110  # a name that is too long is none, to Path an error
        raise FileNotFoundError(f"{weights}: no such file; expected one, or {' or '.join(PUBLISHED)}")
    return load_model(weights)
