"""From a file to a model: `load_model` builds what the file describes, `load_weights` fills a VGG that is there."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import layers
from .model import Model
from .vgg import VGG
from .vgg16 import VGG16
from .vgg19 import VGG19
from .weights import find_weights, read_weights

TOP = ("fc1", "fc2", "predictions")  # the layers with weights that a model without the top does without


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
    tensors, architecture = read_weights(Path(path))
    if architecture is None:
        raise ValueError(
            f"{path}: tensors without an architecture; expected a Keras file or a .safetensors that `convert` wrote. "
            "Weights alone go into a model: VGG16(weights=path)"
        )
    try:
        return build(architecture, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an architecture that `convert` didn't write ({error!r})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def build(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    """The model of an architecture as `convert` writes it, with the given tensors as its parameters, in `eval()`.

    Raises:
        ValueError: the architecture has a layer that isn't known here, or the tensors aren't its own.
    """
    name, input_shape = architecture["name"], tuple(architecture["input_shape"])
    chain: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for description in architecture["layers"]:
            layer_name = description["name"]
            weight = tensors.get(f"{layer_name}.weight")
            in_features = weight.shape[1] if weight is not None else 0
            chain[layer_name] = layers.from_config(description["class_name"], description["config"], in_features)
    model = _as_vgg(chain, input_shape, name) or Model(chain, input_shape, name)
    _assign(model, tensors)
    return model.eval()


def _as_vgg(chain: dict[str, nn.Module], input_shape: Any, name: str) -> VGG | None:
    """The VGG that consists of just these layers, if one does."""
    head = chain.get("predictions")
    arguments: dict[str, Any] = {"include_top": head is not None, "input_shape": input_shape, "weights": None}
    if isinstance(head, layers.Dense):
        arguments |= {"classes": head.out_features, "classifier_activation": head.activation}
    for pooling, layer_name in (("avg", "global_average_pooling2d"), ("max", "global_max_pooling2d")):
        if layer_name in chain:
            arguments["pooling"] = pooling
    for network in (VGG16, VGG19):
        with torch.device("meta"):
            model = network(**arguments, name=name)
        if [*map(repr, model.named_children())] == [*map(repr, chain.items())]:
            return model
    return None


def load_weights(model: VGG, weights: str | os.PathLike[str]) -> None:
    """Fills `model` with what its `weights` argument names. The tensors become its parameters, without a copy.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape. A top that the model hasn't is no error.
        OSError: the weights can't be read or fetched.
    """
    include_top = "predictions" in dict(model.named_children())
    path = find_weights(weights, model.network, include_top)
    _, _, height, width = model.input_shape
    image_size = (height, width) if height and width else None
    tensors, _ = read_weights(path, image_size, base_only=not include_top)
    if not include_top:
        tensors = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] not in TOP}
    try:
        _assign(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _assign(model: Model, tensors: dict[str, Tensor]) -> None:
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
    model.load_state_dict({key: x.to(torch.get_default_dtype()) for key, x in tensors.items()}, assign=True)


def _grouped(keys: Iterable[str]) -> str:
    """`fc1.weight`, `fc1.bias` → `fc1.{bias, weight}`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        layer, _, parameter = key.rpartition(".")
        groups[layer].append(parameter)
    return ", ".join(f"{layer}.{{{', '.join(names)}}}" for layer, names in groups.items())
