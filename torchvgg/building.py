"""From an architecture, as a file of ours has it, to a model: `build`."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import activation_layers, dropout, layers, normalization
from .model import Model
from .vgg import VGG
from .vgg16 import VGG16
from .vgg19 import VGG19

Shapes = Mapping[str, torch.Size]  # of a layer's tensors, by their names


# What a layer with weights needs to know beyond Keras's configuration: its sizes, read off its tensors.
_SIZES: dict[str, Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]] = {
    "Conv2D": lambda shapes, config: {"in_channels": shapes["weight"][1] * config.get("groups", 1)},
    "Dense": lambda shapes, config: {"in_features": shapes["weight"][1]},
    "BatchNormalization": lambda shapes, config: {"num_features": shapes["running_mean"][0]},
    "LayerNormalization": lambda shapes, config: {"shape": next(iter(shapes.values()), ())},
    "Normalization": lambda shapes, config: {"shape": shapes.get("mean", ())},
    "PReLU": lambda shapes, config: {"shape": shapes["weight"]},
}

_CLASSES = {
    name: value
    for module in (layers, normalization, dropout, activation_layers)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    if not name.startswith("_")
}


def from_config(class_name: str, config: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """The layer that a Keras class name and configuration describe, made for tensors of these shapes.

    Raises:
        ValueError: there is no such layer here.
    """
    if class_name not in _CLASSES:
        raise ValueError(f"expected a layer out of {', '.join(_CLASSES)}. Received: {class_name!r}")
    settings = dict(config)
    if isinstance(activation := settings.get("activation"), Mapping):  # a layer that stands as one
        settings["activation"] = from_config(activation["class_name"], activation["config"], {})
    sizes = _SIZES[class_name](shapes, config) if class_name in _SIZES else {}
    return _CLASSES[class_name](**sizes, **settings)


def build(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """The model of an architecture as `convert` writes it, with the given tensors as its own, in `eval()`.

    Raises:
        ValueError: the architecture has a layer that isn't known here, or the tensors aren't its own.
    """
    name, input_shape = architecture["name"], tuple(architecture["input_shape"])
    shapes: dict[str, dict[str, torch.Size]] = defaultdict(dict)
    for key, tensor in tensors.items():
        layer_name, _, parameter = key.rpartition(".")
        shapes[layer_name][parameter] = tensor.shape
    chain: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for layer in architecture["layers"]:
            chain[layer["name"]] = from_config(layer["class_name"], layer["config"], shapes[layer["name"]])
    model = _as_vgg(chain, input_shape, name) or Model(chain, input_shape, name)
    assign(model, tensors)
    for layer in architecture["layers"]:
        if not layer.get("trainable", True):
            model.get_submodule(layer["name"]).requires_grad_(False)
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


def assign(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Makes the tensors the model's own, in PyTorch's default type: that a file has half the digits only saves room.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape.
    """
    expected = model.state_dict()
    if missing := expected.keys() - tensors.keys():
        top = any(key.startswith("predictions.") for key in missing)
        advice = "; the file has no top: use include_top=False, or a file with one" if top else ""
        raise ValueError(f"missing for {model.name}: {_grouped(missing)}{advice}")
    if unknown := tensors.keys() - expected.keys():
        raise ValueError(f"{model.name} has no place for {_grouped(unknown)}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{key}: expected shape {tuple(expected[key].shape)}. Received: {tuple(tensor.shape)}; "
                "see `classes` and `input_shape`"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise ValueError(f"{key}: expected numbers like {expected[key].dtype}. Received: {tensor.dtype}")
    dtype = torch.get_default_dtype()
    own = {key: x.to(dtype) if x.is_floating_point() else x for key, x in tensors.items()}
    model.load_state_dict(own, assign=True)


def _grouped(keys: Iterable[str]) -> str:
    """`fc1.weight`, `fc1.bias` → `fc1.{bias, weight}`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        layer, _, parameter = key.rpartition(".")
        groups[layer].append(parameter)
    return ", ".join(f"{layer}.{{{', '.join(names)}}}" for layer, names in groups.items())
