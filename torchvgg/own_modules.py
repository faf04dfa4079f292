"""Loading a Keras file's weights into a module of the user's own, which says itself how its layers are connected."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .pytorch_layers import tensors_of

if TYPE_CHECKING:
    from .convert.network.network import Layer, Weight

# By Keras's class, PyTorch's modules of such layers.
MODULES: dict[str, type[nn.Module]] = {
    **{"Conv1D": nn.Conv1d, "Conv2D": nn.Conv2d, "DepthwiseConv2D": nn.Conv2d, "Conv2DTranspose": nn.ConvTranspose2d},
    **{"Dense": nn.Linear, "BatchNormalization": _BatchNorm, "LayerNormalization": nn.LayerNorm},
    "Embedding": nn.Embedding,
}
NEUTRAL = {"weight": 1.0, "bias": 0.0}  # what a layer without such an array computes with
KERAS_EPSILON = 1e-3  # of normalizations, unless the model's author has set another


class LoadedArray(NamedTuple):
    """Where an array went: its name and shape in Keras, and the tensor's in the module."""

    keras_name: str
    keras_shape: tuple[int, ...]
    name: str
    shape: tuple[int, ...]


def load_keras_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    architecture: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    flattened: tuple[int, int] | None = None,
) -> list[LoadedArray]:
    """Loads a Keras file's weights into any module whose layers come in the file's order.

    The first convolution of the file goes into the first of the module, in the order of `module.modules()`, and so on; in the same
    way dense layers (`nn.Linear`), normalizations and embeddings, each kind by itself. Every array is laid out as PyTorch has it;
    the dense layer after a flatten is permuted, as PyTorch flattens `(C, H, W)`, Keras `(H, W, C)`.

    Layers without arrays are the module's own business: preprocessing, paddings, activations. Weights alone have to be those of a
    chain, each layer as wide as the next one takes it.

    Args:
        module: takes the weights, in its own types and on its own devices; nothing is changed unless all of them fit.
        path: a Keras file or folder, of weights alone or a whole model.
        architecture: as for `load_model`, of weights that stand alone.
        flattened: the `(height, width)` of the maps that are flattened for a dense layer, if there is no architecture; (1, 1) says
            that nothing is. By default it is found by the number of features, with a warning.

    Returns:
        Where each array went.

    Raises:
        ValueError: a layer is left over in the file or the module, or a shape or a normalization's epsilon differs.
        OSError: the file can't be read.
    """
    from .convert.errors import naming_file
    from .convert.network.plain_layers import plain_layers
    from .convert.read.architecture_file import read_architecture
    from .convert.read.keras_file import open_keras_file

    described = None if architecture is None else read_architecture(architecture)
    with open_keras_file(Path(path)) as file, naming_file(Path(path)):
        pairs = _pairs(module, plain_layers(file.with_architecture(*described) if described else file, flattened))
        targets = [target for name, own, layer in pairs for target in _targets(name, own, layer)]
        with torch.no_grad():
            for _, tensor, weight, neutral in targets:
                tensor.copy_(weight.tensor() if weight else torch.full_like(tensor, neutral))
        return [
            LoadedArray(weight.array.name, tuple(weight.array.shape), name, tuple(tensor.shape))
            for name, tensor, weight, _ in targets
            if weight
        ]


def _pairs(module: nn.Module, layers: list[Layer]) -> list[tuple[str, nn.Module, Layer]]:
    """Pairs the module's layers with the file's. Raises a ValueError if one is left over."""
    from .convert.errors import listed

    kinds = tuple(set(MODULES.values()))
    own = [(name, each) for name, each in module.named_modules() if isinstance(each, kinds)]
    tensors = [id(tensor) for _, each in own for tensor in each.parameters(recurse=False)]
    if len({*tensors}) < len(tensors):
        raise ValueError("two layers of the module share a tensor, and have arrays of their own in Keras")
    taken = {id(tensor) for _, each in own for tensor in each.state_dict(keep_vars=True).values()}
    if others := [name for name, tensor in module.state_dict(keep_vars=True).items() if id(tensor) not in taken]:
        raise ValueError(f"{others[0]}: of no convolution, dense layer, normalization or embedding of PyTorch's")
    pairs = []
    for kind in kinds:
        ours = [(name, each) for name, each in own if isinstance(each, kind)]
        theirs = [layer for layer in layers if MODULES.get(layer.class_name) is kind]
        if len(ours) != len(theirs):
            what = kind.__name__.strip("_")
            in_file = listed(layer.name for layer in theirs) or "none"
            in_module = listed(name for name, _ in ours) or "none"
            raise ValueError(
                f"{len(theirs)} layers for {what} in the file ({in_file}), and {len(ours)} in the module ({in_module})"
            )
        pairs += [(name, each, layer) for (name, each), layer in zip(ours, theirs, strict=True)]
    if unknown := [layer for layer in layers if layer.class_name not in MODULES]:
        raise ValueError(
            f"layer {unknown[0].name!r} ({unknown[0].class_name}): no layer that can be loaded into a module"
        )
    order = {name: number for number, (name, _) in enumerate(own)}
    return sorted(pairs, key=lambda pair: order[pair[0]])


def _targets(name: str, own: nn.Module, layer: Layer) -> list[tuple[str, Tensor, Weight | None, float]]:
    """Lists a layer's tensors, each with the array that goes into it, or with the number of one that Keras has none for."""
    weights = {weight.name: weight for weight in layer.weights}
    tensors = tensors_of(own)
    if unknown := weights.keys() - tensors.keys():
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}, and {layer.name} in the file has")
    eps = getattr(own, "eps", None)
    if "Normalization" in layer.class_name and eps != layer.settings.get("epsilon", KERAS_EPSILON):
        if "epsilon" in layer.settings:
            raise ValueError(
                f"{name}: eps={eps}, and {layer.name} in the file has {layer.settings['epsilon']}; make it with that"
            )
        warnings.warn(
            f"{name}: eps={eps}; Keras's is {KERAS_EPSILON}, unless the model's author has set another", stacklevel=4
        )
    targets = []
    for key, tensor in tensors.items():
        weight = weights.get(key)
        if weight is None and key not in NEUTRAL:
            raise ValueError(f"{name}.{key}: {layer.name} in the file has no such array")
        if weight and weight.shape != tensor.shape:
            raise ValueError(
                f"{name}.{key}: expected shape {tuple(tensor.shape)}. Received: {weight.shape}, of {weight.array.name}"
            )
        targets.append((f"{name}.{key}".lstrip("."), tensor, weight, NEUTRAL.get(key, 0.0)))
    return targets
