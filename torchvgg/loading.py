"""Building models from files: `load_model` from any, `build` from what a file holds."""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import layers
from .activations import Activation, get_activation
from .layers.shared import Shapes
from .model import InKeras, Model
from .vgg16 import VGG16
from .vgg19 import VGG19
from .weights import assign, find_weights, read_model

PUBLISHED: dict[str, type[VGG16 | VGG19]] = {"vgg16": VGG16, "vgg19": VGG19}
AS_SAVED = "as saved"


def from_config(class_name: str, config: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """Makes the layer of a Keras class name and configuration, for tensors of these shapes.

    Raises:
        ValueError: torchvgg has no such layer.
    """
    if class_name == "Custom":  # the user's own
        module: nn.Module = config["module"]
        return module
    layer_class = vars(layers).get(class_name)
    if not isinstance(layer_class, type):
        known = ", ".join(name for name, value in vars(layers).items() if isinstance(value, type))
        raise ValueError(f"expected a layer out of {known}. Received: {class_name!r}")
    sizes = layer_class.sizes(shapes, config) if hasattr(layer_class, "sizes") else {}
    return layer_class(**sizes, **_with_activation(config))


def _with_activation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Builds the layer that stands as an activation, if one does."""
    return {
        key: from_config(value["class_name"], value["config"], {}) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }


def build(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """Makes the model of an architecture that `convert` wrote, with the given tensors as its own, in `eval()`.

    Raises:
        ValueError: torchvgg has no such layer, or the tensors don't fit the layers.
    """
    from .convert.network.vgg_architecture import vgg_arguments

    name = architecture["name"]
    by_layer: dict[str, dict[str, Tensor]] = {layer["name"]: {} for layer in architecture["layers"]}
    for key, tensor in tensors.items():
        layer_name, _, parameter = key.partition(".")
        if layer_name not in by_layer:
            raise ValueError(f"{name} has no place for {key}")
        by_layer[layer_name][parameter] = tensor
    with torch.device("meta"):
        if found := vgg_arguments(architecture):
            network, arguments = found
            model: Model = PUBLISHED[network](weights=None, name=name, **_with_activation(arguments))
        else:
            children = {}
            for layer in architecture["layers"]:
                shapes = {parameter: tensor.shape for parameter, tensor in by_layer[layer["name"]].items()}
                children[layer["name"]] = from_config(layer["class_name"], layer["config"], shapes)
            shapes_of_inputs = architecture.get("input_shape", architecture.get("inputs"))
            model = Model(children, shapes_of_inputs, name, architecture.get("nodes"), architecture.get("outputs"))
    own = {  # by the model's names: it may have added underscores to the file's, and VGG's pooling has no number
        f"{child}.{parameter}": tensor
        for (child, _), group in zip(model.named_children(), by_layer.values(), strict=True)
        for parameter, tensor in group.items()
    }
    assign(model, own)
    model.keras_class = architecture.get("class_name", "Functional" if found else "")
    model.preprocessing_is_unknown = architecture.get("preprocessing_is_unknown", False)
    for layer, (child, module) in zip(architecture["layers"], model.named_children(), strict=True):
        path = tuple(layer.get("path", [layer["name"]]))
        model.in_keras[child] = InKeras(layer["class_name"], layer["name"], path, layer.get("place", ""))
        if not layer.get("trainable", True):
            module.requires_grad_(False)
    return model.eval()


def with_activation(architecture: Mapping[str, Any], activation: Activation) -> dict[str, Any]:
    """Returns an architecture that ends in another activation than its softmax or sigmoid. Raises a ValueError if it has none."""
    from .convert.network.kinds import KINDS

    get_activation(activation)
    own = "linear" if activation is None else activation
    entries = list(architecture["layers"])
    numbers = {entry["name"]: number for number, entry in enumerate(entries)}
    nodes = architecture.get("nodes") or [(name, name, (before,)) for before, name in pairwise(("", *numbers))]
    calls = {name: (layer, inputs) for name, layer, inputs in nodes}
    name = architecture.get("outputs", next(reversed(numbers), ""))
    while isinstance(name, str) and name in calls:
        layer, (name, *_) = calls[name]
        entry = entries[numbers[layer]]
        config, class_name = entry["config"], entry["class_name"]
        end = config.get("activation")
        is_end = "Softmax" in (class_name, end["class_name"] if isinstance(end, Mapping) else end)
        is_end |= end in ("softmax", "sigmoid") and not KINDS[class_name].activates_within  # as an LSTM's, in each step
        if is_end and [each for each, _ in calls.values()].count(layer) == 1:
            entry = {**entry, "config": {**config, "activation": own}}
            if class_name == "Softmax":
                entry |= {"class_name": "Activation", "config": {"activation": own}}
            entries[numbers[layer]] = entry
            return {**architecture, "layers": entries}
        if class_name not in ("Dropout", "Flatten", "Reshape") and (class_name, end) != ("Activation", "linear"):
            break
    last = entries[-1] if entries else {"name": architecture["name"], "class_name": "Model"}
    raise ValueError(
        "classifier_activation: expected a model with one output, that of a softmax or sigmoid. Received: one that ends in "
        f"{last['name']!r} ({last['class_name']}); leave the argument out"
    )


def load_model(
    path: str | os.PathLike[str],
    *,
    architecture: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    classifier_activation: Activation = AS_SAVED,
) -> Model:
    """Loads the model of a Keras file or folder, an ONNX file of a chain, or a `.safetensors` of torchvgg's, ready to use.

    Weights alone, of Keras's or a `state_dict` of torchvgg's, torchvision's or timm's, are taken for those of a plain VGG, with a warning.

    Args:
        path: the file or folder; or "vgg16" or "vgg19" for the published model.
        architecture: the model that weights saved alone are for: a file of `model.to_json()` or `to_yaml()`, another Keras file of
            the model, or the dict of `to_json` or `get_config`. Layers whose names differ are matched by their order, as in Keras.
        custom_objects: for Lambdas and custom layers of a Keras file, whose code is never run, by the name of the layer or of
            its class: a module, or a function or class that makes one of the layer's configuration, as keyword arguments; or
            what a Lambda does, "preprocess_input", "l2_normalize", "resize:H,W" or "identity". A module takes and returns
            channels-first tensors; the layer's arrays, if it has any, become its `state_dict`, in this order and as they are.
        classifier_activation: what takes the place of the softmax or sigmoid at the model's end: None for logits, or another
            of Keras's. By default the model is as it was saved.

    Returns:
        A VGG16 or VGG19 if that is what the file holds, else a `Model` with the file's layers, in `eval()`.

    Raises:
        ValueError: the file is damaged; or has no architecture, none is given, and it isn't a VGG's; or the model doesn't end in the softmax or
            sigmoid that `classifier_activation` is to replace.
        OSError: it can't be read, or the published weights can't be downloaded.
        ImportError: the architecture is YAML, and PyYAML isn't installed.
    """
    from .convert.errors import naming_file
    from .convert.read.file_kind import exists

    if not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"path: expected that of a file. Received: {type(path).__name__}; a state_dict goes into a model by load_state_dict"
        )
    if path in PUBLISHED:
        path = find_weights("imagenet", str(path), include_top=True)
    elif not exists(path):
        raise FileNotFoundError(f"{path}: no such file; expected one, or {' or '.join(PUBLISHED)}")
    tensors, described = read_model(Path(path), architecture, custom_objects)
    with naming_file(Path(path)):
        if classifier_activation != AS_SAVED:
            described = with_activation(described, classifier_activation)
        return build(described, tensors)


def open_model(weights: str | os.PathLike[str] = "vgg16", include_top: bool = True) -> Model:
    """Loads a model as `load_model` does; a published one without its top, if that isn't wanted, for images of any size."""
    if weights in PUBLISHED and not include_top:
        return PUBLISHED[str(weights)](include_top=False).eval()
    return load_model(weights)
