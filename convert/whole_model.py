"""A Keras file with an architecture → its network: each array to the layer of the chain that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .chain import Chain, Described, read_chain
from .graph import LayerError
from .keras_file import KerasArray, KerasFile
from .kinds import WITH_ARRAYS, Spec
from .network import Array, Network, assemble


def network_of_whole_model(keras_file: KerasFile, config: Mapping[str, Any]) -> Network:
    """The network of a Keras file with an architecture.

    A `.weights.h5` has a place for each layer. The older format has one group for each of the model's own layers; where
    that is a nested model, the arrays of all its layers lie in it, and are told apart by their names.

    Raises:
        ValueError: the architecture can't be converted, or an array is missing, left over, or not the layer's own.
    """
    try:
        chain = read_chain(config)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"a configuration that Keras doesn't write ({error!r})") from None
    left = {layer.name: list(layer.arrays) for layer in keras_file.layers}
    owners = {group: _owners(chain, group, arrays) for group, arrays in left.items()} if keras_file.is_named else {}

    def take(described: Described, specs: list[Spec]) -> Iterable[Array]:
        group = described.path[0] if keras_file.is_named else described.place
        own = there = left.get(group, [])
        if keras_file.is_named and len(described.path) > 1:
            own = _owned(there, described.path, owners.get(group, {}))
        if len(own) != len(specs):
            expected = ", ".join(f"{spec.name} {spec.shape}" for spec in specs) or "none"
            received = ", ".join(f"{array.name} {array.shape}" for array in own) or "none"
            reason = f"expected the arrays {expected}. Received: {received}"
            raise LayerError(described.path[-1], described.class_name, reason)
        left[group] = [array for array in there if array not in own]
        return own

    network = assemble(chain, take, keras_file.keras_version)
    if surplus := [array.name for arrays in left.values() for array in arrays if array.is_floating]:
        raise ValueError(f"arrays that belong to no layer: {', '.join(surplus[:3])}")
    return network


def _owners(chain: Chain, group: str, arrays: list[KerasArray]) -> dict[str, str]:
    """From the name of each layer in a nested model to the name that its arrays bear, where the two differ.

    They do when a layer was renamed after it was made. Then order tells: Keras puts the arrays of frozen layers last.
    """
    layers = [layer for layer in chain.layers if layer.path[0] == group and layer.class_name in WITH_ARRAYS]
    found = list(dict.fromkeys(array.owner for array in arrays))
    if set(found) <= {layer.path[-1] for layer in layers} or len(found) != len(layers):
        return {}
    in_order = sorted(layers, key=lambda layer: not layer.trainable)
    return {layer.path[-1]: owner for layer, owner in zip(in_order, found, strict=True)}


def _owned(arrays: list[KerasArray], path: tuple[str, ...], owners: Mapping[str, str]) -> list[KerasArray]:
    """The arrays of a nested model's layer. Two of one name are told apart by the model's, where the file has it."""
    *_, model, layer = path
    owner = owners.get(layer, layer)
    own = [array for array in arrays if array.owner == owner]
    return [array for array in own if f"/{model}/{owner}/" in f"/{array.name}"] or own
