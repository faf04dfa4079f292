"""PyTorch tensors → the network that they are the weights of: of a file of ours, or of any VGG's `state_dict`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from .chain import Chain, Described
from .kinds import Spec
from .layout import Layout
from .network import Array, Layer, Network, assemble
from .settings import settings
from .torch_file import TorchFile
from .vgg import NETWORKS, vgg_chain

BASE = "block"  # what the names of the VGG's own layers begin with


@dataclass(frozen=True)
class TorchArray:
    """A tensor as the Keras array that it would be."""

    name: str
    tensor: Tensor
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.read().shape)

    def read(self) -> Tensor:
        return self.layout.to_keras(self.tensor)


def network_of_torch_file(file: TorchFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The network of tensors that PyTorch wrote: of a file of ours, or of any VGG's `state_dict`.

    Raises:
        ValueError: a tensor is missing or left over, or they are no VGG's.
    """
    tensors = dict(file.tensors)
    if base_only:
        tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(BASE)}
    architecture = None if base_only else file.architecture
    chain = chain_of_architecture(architecture) if architecture else _chain_of_tensors(tensors, input_shape)
    return network_of_tensors(chain, tensors)


def network_of_tensors(chain: Chain, tensors: Mapping[str, Tensor]) -> Network:
    """The network of a chain whose arrays are PyTorch tensors, under the names that our files have."""
    left = dict(tensors)

    def take(described: Described, specs: list[Spec]) -> Iterable[Array]:
        keys = [f"{described.name}.{spec.name}" for spec in specs]
        if missing := [key for key in keys if key not in left]:
            raise ValueError(f"missing: {', '.join(missing)}")
        return [TorchArray(key, left.pop(key), spec.layout) for key, spec in zip(keys, specs, strict=True)]

    network = assemble(chain, take)
    if left:
        raise ValueError(f"tensors that belong to no layer: {', '.join(list(left)[:3])}")
    return network


def chain_of_architecture(architecture: Mapping[str, Any]) -> Chain:
    """The chain of an architecture as `Network.architecture` has it."""
    try:
        channels, height, width = architecture["input_shape"]
        layers = [
            Described(entry["class_name"], entry["name"], entry["config"], entry.get("trainable", True))
            for entry in architecture["layers"]
        ]
        return Chain(architecture["name"], (height, width, channels), layers)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"an architecture that `convert` didn't write ({error!r})") from None


def _chain_of_tensors(tensors: Mapping[str, Tensor], input_shape: tuple[int, int] | None) -> Chain:
    """The VGG that a bare `state_dict` belongs to."""
    kernels = [tensor for key, tensor in tensors.items() if key.startswith(BASE) and key.endswith(".weight")]
    if len(kernels) not in NETWORKS or kernels[0].dim() != 4:
        shown = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(f"expected the tensors of a VGG16 or VGG19, block1_conv1.weight and so on. Received: {shown}")
    height, width = input_shape or (None, None)
    classes = None
    if "predictions.weight" in tensors:
        classes = tensors["predictions.weight"].shape[0]
        if input_shape is None:
            height = width = 32 * round((tensors["fc1.weight"].shape[-1] / 512) ** 0.5)
    return vgg_chain(len(kernels), (height, width, kernels[0].shape[1]), classes)


def as_plain_vgg(network: Network, purpose: str) -> Network:
    """A network that is Keras's own VGG, under its names, with its arrays in Keras's layout. Dropout counts for nothing.

    Args:
        network: of any source.
        purpose: what it is wanted for, for the message.

    Raises:
        ValueError: it is another network; the message names the first layer that is different.
    """
    layers = [layer for layer in network.layers if layer.class_name not in ("Dropout", "SpatialDropout2D")]
    convolutions = sum(layer.class_name == "Conv2D" for layer in layers)
    dense = [layer for layer in layers if layer.class_name == "Dense"]
    pooled = layers[-1].class_name.startswith("Global")  # a pooling at the end has no weights: Keras adds it as asked
    layers = layers[:-1] if pooled else layers
    chain = vgg_chain(
        convolutions if convolutions in NETWORKS else min(NETWORKS),
        network.input_shape,
        dense[-1].config["units"] if dense else None,
    )
    for layer, plain in zip_longest(layers, chain.layers):
        if layer is None or plain is None or not _is_like(layer, plain):
            name = layer.name if layer else plain.name
            what = "isn't there" if layer is None else f"({layer.class_name}) isn't part of it"
            raise ValueError(f"{purpose} takes Keras's own VGG16 and VGG19, and layer {name!r} {what}; see --base-only")
    names = {layer.name: plain.name for layer, plain in zip(layers, chain.layers, strict=True)}
    tensors = {}
    for key, weight in network.weights():
        layer_name, _, parameter = key.rpartition(".")
        tensors[f"{names[layer_name]}.{parameter}"] = weight.tensor()
    return network_of_tensors(chain, tensors)


def _is_like(layer: Layer, plain: Described) -> bool:
    """Whether the two are one layer, but for the name, and the activation at the end."""
    if layer.class_name != plain.class_name:
        return False
    wanted = settings(plain.class_name, plain.config, 3, "3")
    ignored = ("activation",) if plain.name == "predictions" else ()
    return all(layer.config[key] == value for key, value in wanted.items() if key not in ignored)
