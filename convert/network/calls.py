"""`Calls`: the calls of layers, in order, of which a `Graph` is made."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from .architecture_json import counted, flattened, mapped
from .graph import Described, Graph, Node, uniquely_named

Value = int | str  # the output of a call, by its number, or an input of the model, by its name


class Call(NamedTuple):
    """A call of a layer, before the layers have their final names."""

    layer: Described
    inputs: tuple[Value, ...]
    is_operation: bool = False


class Calls:
    """Collects calls of layers, which are told apart by their paths."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def add(self, layer: Described, inputs: Iterable[Value], is_operation: bool = False) -> Value:
        self.calls.append(Call(layer, tuple(inputs), is_operation))
        return len(self.calls) - 1

    def graph(self, name: str, inputs: dict[str, Any], outputs: Any) -> Graph:
        """Makes the graph. Operations that were joined into others, and so feed nothing, are left out."""
        used = {*flattened(outputs)}
        for number, call in list(enumerate(self.calls))[::-1]:
            if number in used or not call.is_operation:
                used |= {*call.inputs, number}
        kept = [number for number in range(len(self.calls)) if number in used]
        by_path: dict[tuple[str, ...], Described] = {}
        for number in kept:
            layer = self.calls[number].layer
            if layer.path not in by_path or layer.problem:  # one call that can't be converted is enough
                by_path[layer.path] = layer
        layers = uniquely_named(counted(list(by_path.values())))
        names = dict(zip(by_path, (layer.name for layer in layers), strict=True))
        taken = set(names.values())
        of_value: dict[Value, str] = {own: own + "_" * (own in taken) for own in inputs}
        counts: Counter[str] = Counter()
        nodes = []
        for number in kept:
            layer, fed_by, _ = self.calls[number]
            own = names[layer.path]
            while counts[own] and f"{own}:{counts[own]}" in taken:  # a layer's own name
                counts[own] += 1
            of_value[number] = f"{own}:{counts[own]}" if counts[own] else own
            counts[own] += 1
            nodes.append(Node(of_value[number], own, tuple(of_value[value] for value in fed_by)))
        shapes = {of_value[own]: shape for own, shape in inputs.items()}
        return Graph(name, shapes, layers, nodes, mapped(of_value.__getitem__, outputs))
