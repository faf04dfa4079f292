"""PyTorch tensors → the network that they are the weights of: of a file of ours, or of any VGG's `state_dict`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..array import Units
from ..layout import Layout
from ..read.torch_file import TorchFile
from .architecture import Chain, Described, named_for_modules
from .arrays import Spec
from .assemble import assemble
from .from_keras_weights import square_input
from .graph import counted
from .kinds import KINDS
from .network import Layer, Network
from .validators import whole
from .vgg import NETWORKS, vgg_chain

_OF_BASE = re.compile(r"block\d_conv\d\.(weight|bias)$")  # the names of a VGG's own tensors


@dataclass(frozen=True)
class TorchArray:
    """A tensor as the Keras array that it would be."""

    name: str
    tensor: Tensor
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.to_keras(torch.empty(self.tensor.shape, device="meta")).shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read(self, units: Units = ...) -> Tensor:
        return self.layout.to_keras(self.tensor[units])


def network_of_torch_file(file: TorchFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The network of tensors that PyTorch wrote: of a file of ours, or of any VGG's `state_dict`.

    Args:
        file: the tensors.
        input_shape: `(height, width)` of the images, for a `state_dict` with a top whose flatten isn't square.
        base_only: of a `state_dict`, take no more than the convolutions.

    Raises:
        ValueError: a tensor is missing or left over, or they are no VGG's.
    """
    if file.architecture is not None:
        return network_of_tensors(chain_of_architecture(file.architecture), file.tensors)
    own = {key: tensor for key, tensor in file.tensors.items() if not base_only or _OF_BASE.match(key)}
    return network_of_tensors(_chain_of_tensors(own, input_shape), own)


def network_of_tensors(chain: Chain, tensors: Mapping[str, Tensor]) -> Network:
    """The network of a chain whose arrays are PyTorch tensors, under the names that our files have.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape.
    """
    left = dict(tensors)

    def pick(name: str, spec: Spec) -> TorchArray:
        key = f"{name}.{spec.name}"
        if key not in left:
            raise ValueError(f"missing: {key}")
        expected = tuple(spec.layout.to_torch(torch.empty(spec.shape, device="meta")).shape)  # type: ignore[arg-type]
        if left[key].shape != expected:
            raise ValueError(f"{key}: expected shape {expected}. Received: {tuple(left[key].shape)}")
        return TorchArray(key, left.pop(key), spec.layout)

    network = assemble(chain, lambda wanted: ([pick(layer.name, spec) for spec in specs] for layer, specs in wanted))
    if left:
        names = ", ".join(list(left)[:3])
        raise ValueError(f"tensors that belong to no layer: {names}")
    return network


def chain_of_architecture(architecture: Mapping[str, Any]) -> Chain:
    """The chain of an architecture as `Network.architecture` has it."""
    try:
        channels, height, width = architecture["input_shape"]
        layers = [
            Described(entry["class_name"], entry["name"], entry["config"], entry.get("trainable", True))
            for entry in counted(architecture["layers"])
        ]
        chain = Chain(architecture["name"], (height, width, channels), layers)
        sizes_are_whole = whole(channels) and all(size is None or whole(size) for size in (height, width))
        if not sizes_are_whole or not isinstance(chain.name, str):
            raise ValueError(f"a model {chain.name!r} for images of {architecture['input_shape']}")
        for layer in layers:
            unknown = layer.config.keys() - KINDS[layer.class_name].settings.keys()
            if unknown or not isinstance(layer.trainable, bool):
                raise ValueError(
                    f"{layer.name}: settings of no {layer.class_name}, {sorted(unknown) or layer.trainable}"
                )
        possible = named_for_modules(layers)
        if wrong := [layer.name for layer, other in zip(layers, possible, strict=True) if layer != other]:
            raise ValueError(f"names that no layers can have: {', '.join(wrong)}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"an architecture that `convert` didn't write ({type(error).__name__}: {error})") from None
    return chain


def _chain_of_tensors(tensors: Mapping[str, Tensor], input_shape: tuple[int, int] | None) -> Chain:
    """The VGG that a bare `state_dict` belongs to."""
    kernels = [tensor for key, tensor in tensors.items() if _OF_BASE.match(key) and key.endswith(".weight")]
    if len(kernels) not in NETWORKS or kernels[0].dim() != 4:
        shown = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(f"expected the tensors of a VGG16 or VGG19, block1_conv1.weight and so on. Received: {shown}")
    height, width = input_shape or (None, None)
    classes = None
    if "predictions.weight" in tensors:
        classes = tensors["predictions.weight"].shape[0]
        if input_shape is None:
            height, width = square_input("fc1.weight", tensors["fc1.weight"].shape[-1])
    return vgg_chain(len(kernels), (height, width, kernels[0].shape[1]), classes)


def renamed(layers: Iterable[Layer], chain: Chain) -> dict[str, Tensor]:
    """The tensors of some layers, each under the name of the chain's layer in its place, among those with weights."""
    own = [layer for layer in layers if layer.weights]
    places = [plain for plain in chain.layers if plain.class_name in ("Conv2D", "Dense")]
    return {
        f"{plain.name}.{weight.name}": weight.tensor()
        for layer, plain in zip(own, places, strict=True)
        for weight in layer.weights
    }
