"""The entries of a model's configuration in the order in which they are called, and the arithmetic between its layers.

Keras writes a Sequential as a list, a Functional as a graph: each layer with the ones that feed it (`inbound_nodes`, in a
form of their own in Keras 2 and 3). Arithmetic is left in the graph as operations, in Keras 2 as an `…OpLambda` with the
name of a function, in Keras 3 as classes of their own; here it is told as layers: `x / 255.0` as a Rescaling, the five
operations of `preprocess_input(x)` as a layer of that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Entry = Mapping[str, Any]

WAY_OUT = "save the model without it, or convert the VGG alone with --base-only"
MEAN_BGR = (103.939, 116.779, 123.68)  # what `keras.applications.vgg16.preprocess_input` takes off

# From Keras 2's functions and Keras 3's classes to (scale, offset), for a constant c.
ARITHMETIC = {
    **dict.fromkeys(("math.multiply", "__operators__.mul", "Multiply"), lambda c: (c, 0.0)),
    **dict.fromkeys(("math.truediv", "math.divide", "TrueDivide", "Divide"), lambda c: (1 / c, 0.0)),
    **dict.fromkeys(("math.add", "__operators__.add", "nn.bias_add", "Add"), lambda c: (1.0, c)),
    **dict.fromkeys(("math.subtract", "__operators__.sub", "Subtract"), lambda c: (1.0, -c)),
}


class LayerError(ValueError):
    """A layer that can't be converted; the message names it."""

    def __init__(self, name: str, class_name: str, reason: str) -> None:
        super().__init__(f"layer {name!r} ({class_name}): {reason}; {WAY_OUT}")


class Operation(NamedTuple):
    """The layer that one or more operations amount to, and the names of the layers that feed them."""

    entry: Entry
    inputs: list[str]


def entries(model: Entry) -> list[Entry]:
    """A model's layers, in the file's order."""
    config = model["config"]
    return config if isinstance(config, list) else config["layers"]  # a list: a Sequential, before Keras 2.2.3


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
        operation = _operation(entry, by_name) or Operation(entry, list(_tensors(entry["inbound_nodes"])))
        backwards.append(operation.entry)
        if not operation.inputs:
            return backwards[::-1]
        if len(operation.inputs) > 1:
            reason = f"it joins {len(operation.inputs)} branches, and only a chain can be converted"
            raise LayerError(name, entry["class_name"], reason)
        (name,) = operation.inputs


def _layer_names(ends: Any) -> list[str]:
    """`["dense", 0, 0]` (Keras 3, one of them), `[["dense", 0, 0], …]` or a mapping to such → their layers' names."""
    if isinstance(ends, Mapping):
        ends = list(ends.values())
    return [ends[0]] if ends and isinstance(ends[0], str) else [end[0] for end in ends]


def _operation(entry: Entry, by_name: Mapping[str, Entry]) -> Operation | None:
    """The layer that `entry` and the operations before it amount to; None where it is no arithmetic that is known."""
    config = entry["config"] if isinstance(entry["config"], Mapping) else {}
    kind = config.get("function", entry["class_name"])
    if not isinstance(kind, str) or kind not in ARITHMETIC or not entry["inbound_nodes"]:
        return None
    (node,) = entry["inbound_nodes"]
    sources, constants = list(_tensors(node)), list(_constants(node))
    tensor_first = not isinstance(node, Mapping) or any(_tensors(node["args"][:1]))
    if len(sources) != 1 or not tensor_first or not constants or (0 in constants and "div" in kind.lower()):
        return None
    terms = [ARITHMETIC[kind](constant) for constant in constants]
    scale, offset = [a for a, _ in terms], [b for _, b in terms]
    if origin := _swapped(by_name[sources[0]], by_name):
        is_mean = len(terms) == 3 and all(abs(b + m) < 1e-3 for b, m in zip(offset, MEAN_BGR, strict=True))
        swap_and_mean = {"class_name": "PreprocessInput", "config": {"name": "preprocess_input"}}
        return Operation(swap_and_mean, [origin]) if is_mean and set(scale) == {1.0} else None
    if len(terms) == 1:
        scale, offset = scale[0], offset[0]
    settings = {"name": name_of(entry), "scale": scale, "offset": offset}
    return Operation({"class_name": "Rescaling", "config": settings}, sources)


def _swapped(entry: Entry, by_name: Mapping[str, Entry]) -> str | None:
    """The layer whose RGB `entry` turns into BGR, by `[..., ::-1]` or by stacking channels 2, 1 and 0; else None."""
    if entry["class_name"] == "Stack":
        picked = [by_name[name] for name in _tensors(entry["inbound_nodes"])]
        origins = {name for channel in picked for name in _tensors(channel["inbound_nodes"])}
        if [_last_index(channel) for channel in picked] == [2, 1, 0] and entry["config"]["axis"] == -1:
            return origins.pop() if len(origins) == 1 else None
    if isinstance(index := _last_index(entry), Mapping) and list(_constants(index)) == [-1]:  # a slice, of step -1
        return next(_tensors(entry["inbound_nodes"]))
    return None


def _last_index(entry: Entry) -> Any:
    """`i` where the entry is an operation `x[..., i]`: a number, or a slice as a mapping; else None."""
    match entry:
        case {"class_name": "GetItem", "inbound_nodes": [{"args": [_, [{"class_name": "__ellipsis__"}, index]]}]}:
            return index
        case {
            "class_name": "SlicingOpLambda",
            "inbound_nodes": [[_, _, _, {"slice_spec": [{"class_name": "__ellipsis__"}, index]}]],
        }:
            return index
    return None


def _tensors(node: Any) -> Iterator[str]:
    """The names of the layers that feed a node: Keras 3's `keras_history`, Keras 2's `["layer", 0, 0, …]`."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            yield from _tensors(list(node.values()))
    elif isinstance(node, list):
        if _is_history(node):
            yield node[0]
        for value in node[3:] if _is_history(node) else node:
            yield from _tensors(value)


def _constants(node: Any) -> Iterator[float]:
    """The numbers in a node, in order, but for those that say which tensor feeds it."""
    if isinstance(node, Mapping):
        if node.get("class_name") != "__keras_tensor__":
            yield from _constants(list(node.values()))
    elif isinstance(node, list):
        for value in node[3:] if _is_history(node) else node:
            yield from _constants(value)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield node


def _is_history(node: list[Any]) -> bool:
    return len(node) in (3, 4) and isinstance(node[0], str) and isinstance(node[1], int)
