"""The entries of a model's configuration in the order in which they are called.

Keras writes a Sequential as a list, a Functional as a graph: each layer with the ones that feed it (`inbound_nodes`, in a
form of their own in Keras 2 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from .operations import Entry, Operation, as_layer, operands

T = TypeVar("T")
MOST_LAYERS = 1000
WAY_OUT = "save the model without it, or, where there is a whole VGG in it, convert that alone with --base-only"


class LayerError(ValueError):
    """A layer that can't be converted; the message names it."""

    def __init__(self, name: str, class_name: str, reason: str) -> None:
        super().__init__(f"layer {name!r} ({class_name}): {reason}; {WAY_OUT}")


def entries(model: Entry) -> list[Entry]:
    """A model's layers, in the file's order."""
    config = model["config"]
    return counted(config if isinstance(config, list) else config["layers"])  # a list: a Sequential, before Keras 2.2.3


def counted(layers: list[T]) -> list[T]:
    """The layers, if they are as many as a network has. Some of what is done with them takes the square of their number."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers):,} layers; a chain of up to {MOST_LAYERS:,} can be converted")
    return layers


def name_of(entry: Entry) -> str:
    """A layer's or a model's name."""
    config = entry["config"]
    return str(config["name"]) if isinstance(config, Mapping) and "name" in config else "sequential"


def in_order(model: Entry) -> list[Entry]:
    """A model's layers from its input to its output.

    Raises:
        LayerError: they aren't one chain.
    """
    layers = entries(model)
    if model["class_name"] == "Sequential" or isinstance(model["config"], list):
        return layers
    by_name = {name_of(entry): entry for entry in layers}
    for direction in ("input", "output"):
        ends = _layer_names(model["config"][f"{direction}_layers"])
        if len(ends) != 1:
            second = by_name[ends[1]] if len(ends) > 1 else model
            raise LayerError(name_of(second), second["class_name"], f"the model has {len(ends)} {direction}s, not one")
    backwards: list[Entry] = []
    name = ends[0]
    while True:
        entry = by_name[name]
        if len(entry["inbound_nodes"]) > 1 or len(backwards) > len(layers):
            raise LayerError(name, entry["class_name"], "called more than once, which makes no chain")
        if any(_in_training(node) for node in entry["inbound_nodes"]):
            raise LayerError(name, entry["class_name"], "called with training=True, which makes it work as in training")
        operation = as_layer(entry, by_name) or Operation(entry, _inputs(entry))
        backwards.append(operation.entry)
        if not operation.inputs:
            return backwards[::-1]
        if len(operation.inputs) > 1:
            reason = f"it joins {len(operation.inputs)} branches, and only a chain can be converted"
            raise LayerError(name, entry["class_name"], reason)
        (name,) = operation.inputs


def _inputs(entry: Entry) -> list[str]:
    """The layers that feed this one, each as often as it does."""
    return [found.layer for node in entry["inbound_nodes"] for found in operands(node) if found.layer is not None]


def _in_training(node: Any) -> bool:
    """Whether a Keras 2's call, `[["layer", 0, 0, {"training": true}]]`, fixes that. (Keras 3 doesn't heed it on loading.)"""
    return isinstance(node, list) and any(
        isinstance(part, list) and len(part) > 3 and isinstance(part[3], Mapping) and part[3].get("training") is True
        for part in (node, *node)
    )


def _layer_names(ends: Any) -> list[str]:
    """`["dense", 0, 0]` (Keras 3, one of them), `[["dense", 0, 0], …]` or a mapping to such → their layers' names."""
    if isinstance(ends, Mapping):
        ends = list(ends.values())
    return [ends[0]] if ends and isinstance(ends[0], str) else [end[0] for end in ends]
