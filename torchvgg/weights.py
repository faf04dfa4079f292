"""Finds and reads a model's weights, mapped from the file where that is possible, and assigns them."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .model import Model

if TYPE_CHECKING:
    from .convert.network.from_file import Source
    from .convert.read.architecture_file import Architecture

TOP = ("fc1", "fc2", "predictions")  # the layers with weights that a model without the top lacks


def find_weights(weights: str | os.PathLike[str], network: str, include_top: bool) -> Path:
    """Returns the file that a model's `weights` argument names; the published one is fetched and converted if need be."""
    if weights != "imagenet":
        return Path(weights)
    from .convert import convert, published

    name = network if include_top else f"{network}-notop"
    target = published.converted_path(name)
    for converted in (target, published.converted_path(network)):
        if converted.is_file():
            return converted
    try:
        convert(name, force=True)
    except OSError:
        if not target.is_file():  # else another process was faster, and on Windows a file in use isn't replaced
            raise
    return target


def read_model(
    path: Path, architecture: Architecture | None = None, custom_objects: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors, in the file's own type, and the architecture of a file of `convert` or Keras, or a VGG's `state_dict`.

    `architecture` and `custom_objects` are as for `load_model`.

    Raises:
        ValueError: the file is of another kind, or is damaged, or its model can't be converted.
        OSError: it can't be read.
    """
    from .convert.errors import naming_file
    from .convert.network.from_file import open_source
    from .convert.network.from_tensors import network_of_torch_file, preprocessing_of
    from .convert.read.file_kind import file_kind
    from .convert.read.torch_file import read_torch_file

    file = None if file_kind(path).is_keras or architecture is not None else read_torch_file(path)
    if file is None or file.architecture is None:
        opening = open_source(path, None, False, custom_objects=custom_objects, architecture=architecture)
        with opening as source:
            tensors, found = _tensors(source), source.network.architecture()
            assumed, preprocessing = source.assumed, source.warning
    else:  # the tensors as they are, without a copy
        with naming_file(path):
            found = network_of_torch_file(file, None, base_only=False).architecture()
        tensors, assumed, preprocessing = file.tensors, "", preprocessing_of(file)
    for caution in filter(None, (assumed, preprocessing)):
        warnings.warn(f"{path}: {caution}", stacklevel=3)
    return tensors, found | {"preprocessing_is_unknown": bool(preprocessing)}


def _tensors(source: Source) -> dict[str, Tensor]:
    return {key: weight.tensor() for key, weight in source.network.weights()}


def assign(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Makes the tensors the model's own, in PyTorch's default type: a file in half precision only saves space.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape.
    """
    expected = model.state_dict()
    unknown = tensors.keys() - expected.keys()
    if missing := expected.keys() - tensors.keys():
        advice = ""
        if any(key.startswith("predictions.") for key in missing):
            advice = "; the file has no top: use include_top=False, or a file with one"
            if unknown:
                advice = f"; the file has other layers, {_grouped(unknown)}: load_model takes a whole model"
        raise ValueError(f"missing for {model.name}: {_grouped(missing)}{advice}")
    if unknown:
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
    """Groups keys by layer: `fc1.weight`, `fc1.bias` → `fc1.{bias, weight}`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        layer, _, parameter = key.rpartition(".")
        groups[layer].append(parameter)
    return ", ".join(f"{layer}.{{{', '.join(names)}}}" for layer, names in groups.items())


def load_weights(model: Model, network: str, weights: str | os.PathLike[str], adapt_input: bool) -> None:
    """Loads what the `weights` argument names. The tensors become the model's parameters, without a copy.

    Of a Keras file only the order and shapes of its arrays count. Warns of a file with torchvision's or timm's names, since their
    weights want another preprocessing.

    Args:
        model: a VGG.
        network: "vgg16" or "vgg19".
        weights: "imagenet", or the path of a file.
        adapt_input: adapt the first kernel to the model's channels.

    Raises:
        ValueError: the file is damaged or of another kind, or a tensor is missing, left over, or of another shape. A top
            that the model lacks is no error.
        OSError: the weights can't be read or fetched.
    """
    from .convert.errors import naming_file
    from .convert.network.from_file import open_source
    from .convert.network.from_tensors import not_a_vgg, preprocessing_of, vgg_tensors
    from .convert.network.vgg_architecture import CONVOLUTION_NAME
    from .convert.read.file_kind import file_kind
    from .convert.read.torch_file import read_torch_file

    include_top = "predictions" in dict(model.named_children())
    path = find_weights(weights, network, include_top)
    if file_kind(path).is_keras:
        _, _, height, width = model.input_shape
        image_size = (height, width) if height and width else None
        with open_source(path, image_size, base_only=not include_top, weights_only=True) as source:
            tensors = _tensors(source)
    else:
        file = read_torch_file(path)
        with naming_file(path):
            tensors = vgg_tensors(file.tensors, base_only=not include_top)
            if file.architecture is None and not any(map(CONVOLUTION_NAME.match, tensors)):
                raise not_a_vgg(tensors)
            if preprocessing := preprocessing_of(file):
                warnings.warn(f"{path}: {preprocessing}", stacklevel=4)  # of the line that calls VGG16
                model.preprocessing_is_unknown = True
    if not include_top:
        tensors = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] not in TOP}
    with naming_file(path):
        _fit_input(model, tensors, adapt_input)
        assign(model, tensors)


def _fit_input(model: Model, tensors: dict[str, Tensor], adapt_input: bool) -> None:
    """Adapts the first kernel among the tensors to the model's channels, if it may. Raises a ValueError for another input."""
    from .convert.network.vgg_architecture import CONVOLUTION_NAME, size_for

    _, channels, height, width = model.input_shape
    first = next(filter(CONVOLUTION_NAME.match, model.state_dict()))
    kernel, dense = tensors.get(first), tensors.get("fc1.weight")
    if kernel is not None and kernel.dim() == 4 and kernel.shape[1] != channels:
        if not adapt_input:
            raise ValueError(
                f"input_shape: expected {kernel.shape[1]} channels, as these weights take, or adapt_input=True. Received: {channels}"
            )
        tensors[first] = adapt_kernel(kernel, channels)
    features = model.get_submodule("fc1").in_features if "fc1" in dict(model.named_children()) else None
    if features and dense is not None and dense.dim() == 2 and dense.shape[1] != features:
        raise ValueError(
            f"input_shape: the top of these weights takes images of {size_for(dense.shape[1])}: give that "
            f"input_shape, or leave the top out, include_top=False. Received: {height}×{width}"
        )


def adapt_kernel(kernel: Tensor, channels: int) -> Tensor:
    """Adapts the kernel of a first convolution, `(filters, 3, height, width)`, to another number of channels.

    It is what timm does for its `in_chans`: for one channel it is summed, which gives what the channels give if they are all
    alike; for others it is repeated in order, and scaled so that the sum over the channels stays about the same.
    """
    own = kernel.shape[1]
    if not kernel.is_floating_point() or not own:
        return kernel
    kernel = kernel.to(torch.get_default_dtype())
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel.repeat(1, -(-channels // own), 1, 1)[:, :channels] * (own / channels)
