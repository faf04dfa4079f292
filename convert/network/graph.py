"""The entries of a model's configuration in the order in which they are called.

Keras writes a Sequential as a list, a Functional as a graph: each layer with the ones that feed it (`inbound_nodes`, in a
form of their own in Keras 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from .operations import Entry, Operand, Operation, as_layer, name_of, operands

T = TypeVar("T")


MODELS = ("Sequential", "Functional", "Model")


MOST_LAYERS = 1000


class LayerError(ValueError):
    """A layer that can't be converted; the message names it."""

    def __init__(self, name: str, class_name: str, reason: str) -> None:
        super().__init__(f"layer {name!r} ({class_name}): {reason}; save the model without it")


def entries(model: Entry) -> list[Entry]:
    """A model's layers, in the file's order."""
    config = model["config"]
    return counted(config if isinstance(config, list) else config["layers"])  # a list: a Sequential, before Keras 2.2.3


def counted(layers: list[T]) -> list[T]:
    """The layers, if they are as many as a network has. Some of what is done with them takes the square of their number."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers):,} layers; a chain of up to {MOST_LAYERS:,} can be converted")
    return layers


def in_order(model: Entry) -> list[Entry]:
    """A model's layers from its input to its output.

    Raises:
        LayerError: they aren't one chain.
    """
    layers = entries(model)
    if model["class_name"] == "Sequential" or isinstance(model["config"], list):
        return layers
    by_name = {name_of(entry): entry for entry in layers}
    if len(by_name) < len(layers):
        raise ValueError(f"{name_of(model)}: two layers of one name")
    ends = {direction: _ends(model["config"][f"{direction}_layers"]) for direction in ("input", "output")}
    for direction, found in ends.items():
        if len(found) != 1:
            second = by_name[str(found[1].layer)] if len(found) > 1 else model
            reason = f"the model has {len(found)} {direction}s, not one"
            raise LayerError(name_of(second), second["class_name"], reason)
    (first,), (last,) = ends.values()
    path = list(path_to(str(last.layer), by_name))[::-1]
    if name_of(path[0]) != first.layer:
        raise LayerError(str(first.layer), "input", f"the model's layers begin with another, {name_of(path[0])!r}")
    _check_calls([first, last], by_name)
    return path


def path_to(name: str, by_name: Mapping[str, Entry]) -> Iterator[Entry]:
    """The layers that lead to one, backwards from it, operations as the layers that they amount to.

    Raises:
        LayerError: one of them has several inputs, or is called more than once, or in a way of its own.
    """
    for _ in by_name:
        entry = by_name[name]
        if len(entry["inbound_nodes"]) > 1:
            raise LayerError(name, entry["class_name"], "called more than once, which makes no chain")
        if any(_in_training(node) for node in entry["inbound_nodes"]):
            raise LayerError(name, entry["class_name"], "called with training=True, which makes it work as in training")
        inputs = [str(found.layer) for found in _inputs(entry)]
        operation = as_layer(entry, by_name) or Operation(entry, inputs)
        yield operation.entry
        if not operation.inputs:
            return
        if len(operation.inputs) > 1:
            reason = f"it joins {len(operation.inputs)} branches, and only a chain can be converted"
            raise LayerError(name, entry["class_name"], reason)
        (name,) = operation.inputs
    raise LayerError(name, by_name[name]["class_name"], "called more than once, which makes no chain")


def _check_calls(ends: list[Operand], by_name: Mapping[str, Entry]) -> None:
    """Raises a LayerError for a layer that is called as it can't be, or that doesn't lead from input to output."""
    found, left = set(), list(ends)
    while left:
        call = left.pop()
        name = str(call.layer)
        entry = by_name[name]
        calls = max(1, len(entry["inbound_nodes"]))
        # A nested Functional has a call more, its own: from its input to its output.
        if not 0 <= call.node < calls + (entry["class_name"] in MODELS) or call.tensor != 0:
            raise LayerError(
                name, entry["class_name"], f"its call {call.node}, output {call.tensor}, isn't in the file"
            )
        if name not in found:
            found.add(name)
            left += _inputs(entry)
    for name, entry in by_name.items():
        if name not in found:
            raise LayerError(name, entry["class_name"], "it isn't on the way from the model's input to its output")


def _inputs(entry: Entry) -> list[Operand]:
    """The calls of other layers that feed this one."""
    return [found for node in entry["inbound_nodes"] for found in operands(node) if found.layer is not None]


def _in_training(node: Any) -> bool:
    """Whether a Keras 2's call, `[["layer", 0, 0, {"training": true}]]`, fixes that. (Keras 3 doesn't heed it on loading.)"""
    return isinstance(node, list) and any(
        isinstance(part, list) and len(part) > 3 and isinstance(part[3], Mapping) and part[3].get("training") is True
        for part in (node, *node)
    )


def _ends(ends: Any) -> list[Operand]:
    """`["dense", 0, 0]` (Keras 3, one of them), `[["dense", 0, 0], …]`, or a mapping to such."""
    ends = list(ends.values()) if isinstance(ends, Mapping) else ends
    return list(operands(ends)) if ends else []
