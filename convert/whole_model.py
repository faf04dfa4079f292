"""A Keras file with an architecture → its network: each array to the layer of the chain that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .arrays import Spec
from .chain import Described, read_chain
from .graph import LayerError
from .keras_file import KerasArray, KerasFile
from .network import Array, Network, assemble


def network_of_whole_model(keras_file: KerasFile, config: Mapping[str, Any]) -> Network:
    """The network of a Keras file with an architecture.

    A `.weights.h5` has a place for each layer. The older format has one group for each of the model's own layers; where
    that is a nested model, the arrays of all its layers lie in it.

    Raises:
        ValueError: the architecture can't be converted, or an array is missing, left over, or not the layer's own.
    """
    chain = read_chain(config, keras_file.keras_version)
    wanted: dict[str, list[tuple[Described, list[Spec]]]] = {}  # by group: the layers that have arrays

    def want(described: Described, specs: list[Spec]) -> Iterable[Array]:
        if specs:
            wanted.setdefault(_group(keras_file, described), []).append((described, specs))
        return [Placeholder(spec) for spec in specs]

    assemble(chain, want, keras_file.keras_version)
    left = {layer.name: layer.arrays for layer in keras_file.layers}
    found: dict[tuple[str, ...], list[KerasArray]] = {}
    for group, layers in wanted.items():
        found |= _distributed(layers, left.pop(group, []))
    if surplus := [array.name for arrays in left.values() for array in arrays if array.is_floating]:
        raise ValueError(f"arrays that belong to no layer: {', '.join(surplus[:3])}")
    return assemble(chain, lambda described, _: found.get(described.path, []), keras_file.keras_version)


@dataclass(frozen=True)
class Placeholder:
    """Stands for an array until the file is asked for it."""

    spec: Spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def shape(self) -> Any:
        return self.spec.shape

    def read(self) -> Any:
        raise NotImplementedError


def _group(keras_file: KerasFile, described: Described) -> str:
    return described.path[0] if keras_file.is_named else described.place


def _distributed(
    layers: list[tuple[Described, list[Spec]]], arrays: list[KerasArray]
) -> dict[tuple[str, ...], list[KerasArray]]:
    """A group's arrays by layer, in each layer's order.

    Keras itself goes by order: first what is trained, of all layers, then the rest. (What a frozen model holds counts in
    Keras 3 as not trained, if the model is one of the file's own layers; in Keras 2 if it is not.) The names have to
    agree, where they are the layers' own; a layer that was renamed keeps its arrays' old names.
    """
    if len(layers) == 1:
        ((described, specs),) = layers
        if len(arrays) != len(specs):
            raise _other_arrays(described, specs, arrays)
        return {described.path: arrays}
    everything = [(d, spec) for d, specs in layers for spec in specs]
    trained = [(d, spec) for d, spec in everything if d.comes_first and spec.is_trained]
    rest = [pair for pair in everything if pair not in trained]
    by_order: dict[tuple[str, ...], dict[Spec, KerasArray]] = {}
    for (described, spec), array in zip((*trained, *rest), arrays, strict=False):
        by_order.setdefault(described.path, {})[spec] = array
    names = {described.own_name for described, _ in layers}
    are_own = all(array.owner in names for array in arrays)
    distributed = {}
    for described, specs in layers:
        in_order = [by_order.get(described.path, {}).get(spec) for spec in specs]
        own = [array for array in arrays if array.owner == described.own_name]
        if len(arrays) != len(everything) or None in in_order:
            raise _other_arrays(described, specs, own)
        if are_own and not all(array in own for array in in_order):
            raise _other_arrays(described, specs, own)
        distributed[described.path] = [array for array in in_order if array is not None]
    return distributed


def _other_arrays(described: Described, specs: list[Spec], arrays: list[KerasArray]) -> LayerError:
    expected = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
    received = ", ".join(f"{array.name} {array.shape}" for array in arrays) or "none"
    reason = f"expected the arrays {expected}, in Keras's order. Received: {received}"
    return LayerError(described.own_name, described.class_name, reason)
