"""The order of the calls in a Functional model: each after those that feed it."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from ..errors import LayerError
from .architecture_json import MODELS, Entry, Operand, flattened, mapped


def calls_in_order(model: Entry) -> tuple[list[tuple[Entry, int]], list[Operand]]:
    """Sorts the calls of a Functional model's layers, each after those that feed it, else as in the file.

    Returns the layers, each with the number of the call, and the model's outputs; calls are counted from 0 in their operands.

    Raises a LayerError for a layer that is called as it can't be, or that doesn't lead from an input to an output.
    """
    model = _counting_from_0(model)
    ends = {way: flattened(model.ends.get(way, [])) for way in ("input", "output")}
    for way, found in ends.items():
        if not found:
            raise LayerError(model.name, model.class_name, f"the model has 0 {way}s")
    place = {entry.name: number for number, entry in enumerate(model.layers)}
    inputs = {str(end.layer) for end in ends["input"]}
    fed_by: dict[tuple[int, int], set[tuple[int, int]]] = {}
    left = [*ends["output"], *ends["input"]]
    while left:
        operand = left.pop()
        entry = model.layers[place[str(operand.layer)]]
        if entry.name in inputs:
            if entry.inputs:
                raise LayerError(entry.name, entry.class_name, "an input of the model that other layers feed")
            if entry.class_name != "InputLayer":
                raise LayerError(entry.name, entry.class_name, "an input of the model that is no InputLayer")
            if (operand.node, operand.tensor) != (0, 0):
                raise no_such_call(entry, operand)
        elif not 0 <= operand.node < len(entry.calls):
            raise no_such_call(entry, operand)
        key = place[entry.name], operand.node
        if key in fed_by:
            continue
        operands = [] if entry.name in inputs else [o for o in entry.calls[operand.node] if o.layer is not None]
        if not operands and entry.name not in inputs:
            raise LayerError(entry.name, entry.class_name, "nothing feeds it, and it is no input of the model")
        fed_by[key] = {(place[str(o.layer)], o.node) for o in operands}
        left += operands
    reached = {number for number, _ in fed_by}
    for entry in model.layers:
        if place[entry.name] not in reached:
            raise LayerError(entry.name, entry.class_name, "it isn't on the way from the model's input to its output")
    ordered = [(model.layers[number], call) for number, call in _sorted_calls(model, fed_by)]
    return [(entry, call) for entry, call in ordered if entry.name not in inputs], ends["output"]


def _sorted_calls(model: Entry, fed_by: Mapping[tuple[int, int], set[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    sorter = TopologicalSorter(fed_by)
    try:
        sorter.prepare()
    except CycleError as error:
        name = model.layers[error.args[1][0][0]].name
        raise ValueError(f"{model.name}: the calls of its layers go in a circle, through {name!r}") from None
    ready = list(sorter.get_ready())
    heapq.heapify(ready)
    while ready:
        first = heapq.heappop(ready)
        yield first
        sorter.done(first)
        for following in sorter.get_ready():
            heapq.heappush(ready, following)


def no_such_call(entry: Entry, operand: Operand) -> LayerError:
    reason = f"its call {operand.node}, output {operand.tensor}, isn't in the file"
    return LayerError(entry.name, entry.class_name, reason)


def _counting_from_0(model: Entry) -> Entry:
    """Renumbers the calls of nested models: a Functional has one more, its own, from its input to its output.

    Keras 3 counts that in the outputs of the model alone.
    """
    operands = [o for entry in model.layers for o in entry.inputs] + flattened(model.ends.get("output", []))
    first: dict[str, int] = {}
    for operand in operands:
        first[str(operand.layer)] = min(operand.node, first.get(str(operand.layer), operand.node))
    nested = [entry for entry in model.layers if entry.class_name in MODELS]
    shifted = {entry.name for entry in nested if not entry.is_keras_3 and first.get(entry.name) == 1}
    shifted_ends = shifted | {entry.name for entry in nested if entry.is_keras_3 and entry.class_name != "Sequential"}

    def renumbered(operand: Operand, shifted: set[str] = shifted) -> Operand:
        return replace(operand, node=operand.node - 1) if operand.layer in shifted else operand

    layers = [replace(entry, calls=[[*map(renumbered, call)] for call in entry.calls]) for entry in model.layers]
    ends = {way: mapped(lambda end: renumbered(end, shifted_ends), found) for way, found in model.ends.items()}
    return replace(model, layers=layers, ends=ends)
