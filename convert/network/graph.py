"""`Graph`: a network as an architecture describes it, every call of a layer in order. A chain is a graph whose nodes have one input."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import LayerError, printable
from .architecture_json import LONGEST_NAME, counted
from .kinds import Shape

INPUT = "input_layer"  # the input's name where the file has none


@dataclass(frozen=True)
class Described:
    """One layer of a graph, as an architecture describes it.

    Attributes:
        class_name: Keras's class.
        name: unique in the graph, printable, and without a dot, which separates a PyTorch module's name from a parameter's.
        config: the configuration, as the file has it.
        trainable: False where the layer is frozen; in Keras 2 also where a model that it lies in is, whatever it says.
        comes_first: whether its trained arrays come before the rest in the group of a nested model.
        path: its name within each model that it lies in, the outermost first: `("vgg16", "block1_conv1")`.
        place: its group in a file that names it by class, `layers/functional/layers/conv2d`, or by place, `layer-1/layer-1`.
        problem: why it can't be converted, as far as that is seen before its settings are read.
    """

    class_name: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    trainable: bool = True
    comes_first: bool = True
    path: tuple[str, ...] = ()
    place: str = ""
    problem: str = ""

    @property
    def own_name(self) -> str:
        """Keras's name."""
        return self.path[-1] if self.path else self.name

    def with_problem(self, problem: str) -> "Described":
        """Copies the layer with a problem, unless it has one already."""
        return self if self.problem else replace(self, problem=problem)


class Node(NamedTuple):
    """One call of a layer: the name of its output, the layer's name, and the outputs, or inputs of the model, that feed it.

    The name is the layer's; from a second call on it has a number, `dense:1`.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]


class Graph(NamedTuple):
    """A model as a graph.

    Attributes:
        name: the model's.
        inputs: the shape of each input by its name, as the file has it: batch first, channels last, None for an open size.
        layers: in the order of their first calls.
        nodes: the calls in order: each is fed by those before it.
        outputs: the name of the output, or lists or mappings of such, in Keras's structure.
        class_name: Keras's, "Sequential" or "Functional", if it's known where the layers' groups lie in a `.weights.h5`; else "".
    """

    name: str
    inputs: dict[str, Any]
    layers: list[Described]
    nodes: list[Node]
    outputs: Any
    class_name: str = ""


def chain(name: str, input_shape: Shape, layers: Sequence[Described]) -> Graph:
    """Makes the graph of layers, uniquely named, that are each fed by the one before."""
    own = counted(list(layers))
    nodes = chained(layer.name for layer in own)
    return Graph(name, {INPUT: (None, *input_shape)}, own, nodes, nodes[-1].name if nodes else INPUT)


def chained(names: Iterable[str]) -> list[Node]:
    """Returns the calls of layers that are each fed by the one before."""
    return [Node(name, name, (before,)) for before, name in pairwise((INPUT, *names))]


def unused_after(nodes: Sequence[Node], outputs: Iterable[str]) -> list[list[str]]:
    """Lists for each node the outputs, and inputs of the model, that no later one needs, nor the model's own `outputs`."""
    kept, unused = set(outputs), []
    for node in reversed(nodes):
        unused.append([name for name in dict.fromkeys((*node.inputs, node.name)) if name not in kept])
        kept |= {*node.inputs}
    return unused[::-1]


def uniquely_named(layers: list[Described]) -> list[Described]:
    """Renames layers of nested models whose names come twice, and those with a character that they can't have in PyTorch, or in a file.

    Raises a LayerError for a name that is too long with those of the models that the layer lies in.
    """
    named: dict[str, Described] = {}
    for layer in sorted(layers, key=lambda layer: len(layer.path)):  # the model's own keep theirs
        full = "_".join(layer.path) or layer.name
        if len(full) > LONGEST_NAME:
            reason = f"its name, with those of the models that it lies in, has {len(full):,} characters, more than {LONGEST_NAME:,}"
            raise LayerError(layer.own_name[:50], layer.class_name, reason, "give them shorter ones")
        short, full = (printable(name, "_").replace(".", "_") or "_" for name in (layer.name, full))
        name = full if short in named else short
        while name in named:
            name += "_"
        named[name] = layer
    renamed = {id(layer): replace(layer, name=name) for name, layer in named.items()}
    return [renamed[id(layer)] for layer in layers]
