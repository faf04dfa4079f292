"""The order of a model's layers, from its input to its output: only a chain can be converted."""

from collections.abc import Iterator, Mapping

from ..errors import LayerError
from .architecture_json import MODELS, Entry, Operand
from .operations import as_layer


def in_order(model: Entry) -> list[Entry]:
    """Sorts a model's layers from its input to its output. Raises a LayerError if they aren't one chain."""
    if model.class_name == "Sequential" or not model.config:
        return model.layers
    by_name = {entry.name: entry for entry in model.layers}
    for direction in ("input", "output"):
        found = model.ends.get(direction, [])
        if len(found) != 1:
            second = by_name[str(found[1].layer)] if len(found) > 1 else model
            raise LayerError(second.name, second.class_name, f"the model has {len(found)} {direction}s, not one")
    (first,), (last,) = model.ends["input"], model.ends["output"]
    path = list(path_to(str(last.layer), by_name))[::-1]
    if path[0].name != first.layer:
        raise LayerError(str(first.layer), "input", f"the model's layers begin with another, {path[0].name!r}")
    _check_calls([first, last], by_name)
    return path


def path_to(name: str, by_name: Mapping[str, Entry]) -> Iterator[Entry]:
    """Yields the layers that lead to one, backwards from it, operations as the layers that they are equivalent to.

    Raises a LayerError if one of them has several inputs, or is called more than once, or in a way of its own.
    """
    for _ in by_name:
        entry = by_name[name]
        if len(entry.calls) > 1:
            raise LayerError(name, entry.class_name, "called more than once, which makes no chain")
        if entry.in_training:
            raise LayerError(name, entry.class_name, "called with training=True, which makes it work as in training")
        layer, inputs = as_layer(entry, by_name) or (entry, [str(operand.layer) for operand in entry.inputs])
        yield layer
        if not inputs:
            return
        if len(inputs) > 1:
            reason = f"it joins {len(inputs)} branches, and only a chain can be converted"
            raise LayerError(name, entry.class_name, reason)
        (name,) = inputs
    raise LayerError(name, by_name[name].class_name, "called more than once, which makes no chain")


def _check_calls(ends: list[Operand], by_name: Mapping[str, Entry]) -> None:
    """Raises a LayerError for a layer that is called as it can't be, or that doesn't lead from input to output."""
    found, left = set(), list(ends)
    while left:
        call = left.pop()
        entry = by_name[str(call.layer)]
        # A nested Functional has a call more, its own: from its input to its output.
        if not 0 <= call.node < max(1, len(entry.calls)) + (entry.class_name in MODELS) or call.tensor != 0:
            reason = f"its call {call.node}, output {call.tensor}, isn't in the file"
            raise LayerError(entry.name, entry.class_name, reason)
        if entry.name not in found:
            found.add(entry.name)
            left += entry.inputs
    for name, entry in by_name.items():
        if name not in found:
            raise LayerError(name, entry.class_name, "it isn't on the way from the model's input to its output")
