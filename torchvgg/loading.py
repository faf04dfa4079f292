"""From an architecture, as a file of ours has it, to a model: `build`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import layers
from .model import Model
from .vgg16 import VGG16
from .vgg19 import VGG19
from .weights import assign, read_model

PUBLISHED: dict[str, type[VGG16 | VGG19]] = {"vgg16": VGG16, "vgg19": VGG19}
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


def from_config(class_name: str, config: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """The layer that a Keras class name and configuration describe, made for tensors of these shapes.

    Raises:
        ValueError: there is no such layer here.
    """
    if class_name not in layers.__all__:
        raise ValueError(f"expected a layer out of {', '.join(layers.__all__)}. Received: {class_name!r}")
    sizes = _SIZES[class_name](shapes, config) if class_name in _SIZES else {}
    return getattr(layers, class_name)(**sizes, **_with_activation(config))


def _with_activation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the layers that stand as activations."""
    return {
        key: from_config(value["class_name"], value["config"], {}) if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }


def build(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """The model of an architecture as `convert` writes it, with the given tensors as its own, in `eval()`.

    Raises:
        ValueError: the architecture has a layer that isn't known here, or the tensors aren't its own.
    """
    from .convert.network.vgg import vgg_arguments

    name, input_shape = architecture["name"], tuple(architecture["input_shape"])
    shapes: dict[str, dict[str, torch.Size]] = defaultdict(dict)
    for key, tensor in tensors.items():
        layer_name, _, parameter = key.rpartition(".")
        shapes[layer_name][parameter] = tensor.shape
    with torch.device("meta"):
        if found := vgg_arguments(architecture):
            network, arguments = found
            model: Model = PUBLISHED[network](weights=None, name=name, **_with_activation(arguments))
        else:
            children = {
                layer["name"]: from_config(layer["class_name"], layer["config"], shapes[layer["name"]])
                for layer in architecture["layers"]
            }
            model = Model(children, input_shape, name)
    assign(model, tensors)
    for layer in architecture["layers"]:
        if not layer.get("trainable", True):
            model.get_submodule(layer["name"]).requires_grad_(False)
    return model.eval()


def load_model(path: str | os.PathLike[str]) -> Model:
    """The model of a Keras file with an architecture, or of a `.safetensors` that `convert` wrote, ready to use.

    Args:
        path: the file.

    Returns:
        A VGG16 or VGG19 where the file holds one, else a `Model` with the file's layers, in `eval()`.

    Raises:
        ValueError: the file is damaged, or says nothing of the model's architecture.
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
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, RuntimeError) as error:
        raise ValueError(f"{path}: an architecture that `convert` didn't write ({error!r})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_model(weights: str | os.PathLike[str] = "vgg16", include_top: bool = True) -> Model:
    """The model of a file, as by `load_model`; or one with the published weights, by its name, "vgg16" or "vgg19".

    Args:
        weights: the file or the name.
        include_top: of the published one: with its classifier, or for images of any size.

    Returns:
        The model, in `eval()`.

    Raises:
        ValueError: as `load_model`.
        OSError: the file isn't there or can't be read, or the weights can't be fetched.
    """
    if weights in PUBLISHED:
        return PUBLISHED[str(weights)](include_top=include_top).eval()
    if not os.path.exists(weights):  # noqa: PTH110  # a name that is too long is none, to Path an error
        raise FileNotFoundError(f"{weights}: no such file; expected one, or {' or '.join(PUBLISHED)}")
    return load_model(weights)
