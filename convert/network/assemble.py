"""A graph of layers, and the arrays that they ask for → a `Network`."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..array import Array
from ..errors import LayerError
from ..layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .architecture_json import flattened
from .graph import Described, Graph, Node
from .kinds import KINDS, Features, Settings, Shape, Spec
from .kinds.validators import whole
from .network import Layer, Network, Weight
from .settings import read_settings

LARGEST = 2**40  # numbers of one map, more than any memory holds


class Planned(NamedTuple):
    """A layer, its settings, and the arrays that it needs, in Keras's order."""

    described: Described
    settings: Settings
    specs: list[Spec]


def plan(graph: Graph, keras_version: str = "3", kernels: Layout = CONV2D_KERNEL) -> list[Planned]:
    """Finds the settings and the arrays of a graph's layers, from its inputs on.

    The configurations follow the defaults and names of `keras_version`; `kernels` is the layout of the convolutions'.
    Raises a LayerError for a layer that can't be converted.
    """
    by_name = {layer.name: layer for layer in graph.layers}
    ways = _Ways(graph)
    found = {name: Features(shape) for name, shape in input_shapes(graph).items()}
    planned: dict[str, Planned] = {}
    for node in graph.nodes:
        described = by_name[node.layer]
        inputs = [found[name] for name in node.inputs]
        try:
            _check_kind(described, inputs)
            x, shapes = inputs[0], [each.shape for each in inputs]
            settings = read_settings(described.class_name, described.config, x.shape, keras_version)
            if described.class_name == "Flatten":
                is_moved = len(x.shape) > 3 or not ways.meet_dense(node)  # no kernel is reordered for images in time
                settings["order"] = "channels_last" if is_moved else "channels_first"
            specs = [_with_layout(spec, kernels) for spec in KINDS[described.class_name].arrays(settings, x)]
            found[node.name] = _output(described.class_name, settings, shapes, x.flattened, kernels)
        except ValueError as error:
            own = described.own_name
            advice = f"bring a module for it, load_model(…, custom_objects={{{own!r}: module}}), or save the model without it"
            raise LayerError(own, described.class_name, str(error), advice) from None
        first = planned.setdefault(node.layer, Planned(described, settings, specs))
        if first.settings != settings or [spec[:2] for spec in first.specs] != [spec[:2] for spec in specs]:
            reason = f"called on inputs of different shapes, {(None, *x.shape)} the last time, which need other arrays"
            raise LayerError(described.own_name, described.class_name, reason)
    return list(planned.values())


def input_shapes(graph: Graph) -> dict[str, Shape]:
    """Returns the shapes of a graph's inputs, without the batch. Raises a ValueError if one isn't known, or none of a tensor's."""
    shapes: dict[str, Shape] = {}
    for name, shape in graph.inputs.items():
        if shape is None:
            advice = "in Keras, give its first layer an input_shape, or call the model once, and save it again"
            raise LayerError(graph.name, "model", "the shape of its input isn't in the file", advice)
        if not isinstance(shape, list | tuple) or not all(size is None or whole(size) for size in shape[1:]):
            raise ValueError(
                f"{name}: expected the shape of an input, (None, height, width, channels) of images. Received: {shape!r:.100}"
            )
        if not 2 <= len(shape) <= 5 or (len(shape) > 3 and shape[-1] is None):
            raise ValueError(f"{name}: an input of shape {tuple(shape)} can't be converted")
        shapes[name] = tuple(shape[1:])
    return shapes


def assemble(
    graph: Graph,
    hand_out: Callable[[list[Planned]], Iterable[Sequence[Array]]],
    keras_version: str = "3",
    kernels: Layout = CONV2D_KERNEL,
) -> Network:
    """Makes the network of a graph, with the arrays that `hand_out` returns for each of the planned layers.

    Raises a ValueError if a layer can't be converted, or an array isn't its own; the message names it.
    """
    planned = plan(graph, keras_version, kernels)
    layers = []
    for (described, settings, specs), arrays in zip(planned, hand_out(planned), strict=True):
        for spec, array in zip(specs, arrays, strict=True):
            if array.shape != spec.shape:
                raise ValueError(f"{array.name[:100]}: expected shape {spec.shape}. Received: {array.shape}")
            if not array.dtype.is_floating_point and spec.name != "count":
                raise ValueError(f"{array.name[:100]}: expected floating-point numbers. Received: whole ones")
        weights = [Weight(spec.name, array, spec.layout) for spec, array in zip(specs, arrays, strict=True)]
        own = (described.class_name, described.name, settings, weights, described.trainable)
        layers.append(Layer(*own, described.path, described.place))
    return Network(graph.name, input_shapes(graph), layers, graph.nodes, graph.outputs, kernels, graph.class_name)


def _check_kind(described: Described, inputs: Sequence[Features]) -> None:
    class_name = described.class_name
    if described.problem:
        raise ValueError(described.problem)
    if class_name == "Lambda":
        raise ValueError(f"code in the file, which is never run; say what it does, --lambda {described.own_name}=WHAT")
    if class_name not in KINDS:
        raise ValueError("a kind of layer that can't be converted")
    kind = KINDS[class_name]
    least, most = kind.inputs
    if not least <= len(inputs) <= most + kind.heeds_mask:
        expected = f"{least}" if least == most else f"{least} or more"
        raise ValueError(f"called with {len(inputs)} inputs, it takes {expected}")
    if len(inputs[0].shape) not in kind.ranks:
        raise ValueError(f"it can't be converted on an input of shape {(None, *inputs[0].shape)}")
    if kind.heeds_mask and len(inputs) > most and len(inputs[-1].shape) != 1:
        raise ValueError("a mask of sequences of sequences can't be converted")


class _Ways:
    """Follows the ways that an output takes through a graph."""

    def __init__(self, graph: Graph) -> None:
        self._class_names = {layer.name: layer.class_name for layer in graph.layers}
        self._calls = Counter(node.layer for node in graph.nodes)
        self._outputs = set(flattened(graph.outputs))
        self._following: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self._following[name].append(node)

    def meet_dense(self, flatten: Node) -> bool:
        """Tells whether a Dense comes next to meet a Flatten's output on all ways, so that PyTorch's order costs nothing.

        It is Keras's order where the output is seen, and where a layer on the way is called on other features too.
        """
        left, seen = [flatten], set()
        while left:
            node = left.pop()
            if node.name in self._outputs or not self._following[node.name] or self._calls[node.layer] > 1:
                return False
            for following in self._following[node.name]:
                kind = KINDS.get(self._class_names[following.layer])
                if kind and kind.any_order and following.name not in seen:
                    seen.add(following.name)
                    left.append(following)
                elif self._class_names[following.layer] != "Dense" or self._calls[following.layer] > 1:
                    return False
        return True


def _output(class_name: str, settings: Settings, shapes: Sequence[Shape], flattened: Any, kernels: Layout) -> Features:
    """Returns the features that a layer makes of some of these shapes; `flattened` is as in `Features`."""
    x = shapes[0]
    arguments: Any = shapes
    shape = KINDS[class_name].output(settings, *arguments[: KINDS[class_name].inputs[1]])
    if len(shape) > 4:
        raise ValueError(f"an output of shape {(None, *shape)} can't be converted")
    if any(size is not None and size < 1 for size in shape):
        raise ValueError(f"nothing is left of an input of shape {(None, *x)}")
    _check_shape(tuple(size or 1 for size in shape))
    if class_name == "Flatten" and len(x) == 3:
        height, width, _ = x
        moves = settings["order"] == "channels_first" and kernels is not THEANO_KERNEL
        return Features(shape, (height, width) if moves and height and width else None)
    return Features(shape, flattened if KINDS[class_name].any_order else None)


def _check_shape(shape: Shape) -> None:
    """Raises a ValueError for an array whose size is open, or beyond any memory."""
    if None in shape:
        raise ValueError(f"an array of shape {shape}: it needs images of a fixed size")
    if math.prod(size or 0 for size in shape) > LARGEST:
        raise ValueError(f"an array of shape {shape} is larger than any memory")


def _with_layout(spec: Spec, kernels: Layout) -> Spec:
    """Gives a convolution's kernel the layout of the file's kernels; leaves other arrays as they are."""
    if spec.layout is CONV2D_KERNEL:
        height, width, channels, filters = spec.shape
        shape = (filters, channels, height, width) if kernels is THEANO_KERNEL else spec.shape
        spec = spec._replace(shape=shape, layout=kernels)
    _check_shape(spec.shape)
    return spec
