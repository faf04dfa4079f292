"""Operations in a model's graph, told as the layers that they amount to.

What isn't a layer in Keras is left in the graph as an operation, in Keras 2 as an `…OpLambda` with the name of a function,
in Keras 3 as a class of its own. Here `x / 255.0` becomes a Rescaling, `relu(x)` an Activation, and the five operations of
`preprocess_input(x)` a layer of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Entry = Mapping[str, Any]


MEAN_BGR = (103.939, 116.779, 123.68)  # what `keras.applications.vgg16.preprocess_input` takes off


Affine = Callable[[float], tuple[float, float]]


# From Keras 2's functions and Keras 3's classes to (scale, offset), for a constant c.
ADDITION: dict[str, Affine] = dict.fromkeys(("math.add", "__operators__.add", "nn.bias_add", "Add"), lambda c: (1.0, c))


MULTIPLICATION: dict[str, Affine] = dict.fromkeys(
    ("math.multiply", "__operators__.mul", "Multiply"), lambda c: (c, 0.0)
)


ARITHMETIC: dict[str, Affine] = {
    **ADDITION,
    **MULTIPLICATION,
    **dict.fromkeys(("math.truediv", "math.divide", "TrueDivide", "Divide"), lambda c: (1 / c, 0.0)),
    **dict.fromkeys(("math.subtract", "__operators__.sub", "Subtract"), lambda c: (1.0, -c)),
}


COMMUTATIVE = ADDITION.keys() | MULTIPLICATION.keys()


FUNCTIONS = {
    **dict.fromkeys(("nn.relu", "Relu"), "relu"),
    **dict.fromkeys(("nn.relu6", "Relu6"), "relu6"),
    **dict.fromkeys(("math.sigmoid", "nn.sigmoid", "Sigmoid"), "sigmoid"),
    **dict.fromkeys(("math.tanh", "nn.tanh", "Tanh"), "tanh"),
    **dict.fromkeys(("nn.softmax", "Softmax"), "softmax"),
}


CASTS = ("cast", "Cast")  # what is computed here is floating-point anyway


class Operation(NamedTuple):
    """The layer that one or more operations amount to, and the names of the layers that feed them."""

    entry: Entry
    inputs: list[str]


class Operand(NamedTuple):
    """What an operation is called with: a layer's output, by that layer's name, or a constant.

    `node` and `tensor` say which call of the layer it is, and which of that call's outputs.
    """

    layer: str | None
    constant: Any = None
    node: int = 0
    tensor: int = 0


def name_of(entry: Entry) -> str:
    """A layer's or a model's name. Keras 3.3 to 3.10 leave it out of the configuration of an operation."""
    config = entry["config"]
    own = config.get("name", "sequential") if isinstance(config, Mapping) else "sequential"
    return str(entry.get("name") or own)


def as_layer(entry: Entry, by_name: Mapping[str, Entry]) -> Operation | None:
    """The layer that `entry`, and the operations before it, amount to; None where it is none that is known."""
    config = entry["config"]
    if not isinstance(config, Mapping) or not entry.get("inbound_nodes"):
        return None
    kind = config.get("function", entry["class_name"])
    called_with = list(operands(entry["inbound_nodes"][0]))
    inputs = [operand.layer for operand in called_with if operand.layer is not None]
    if not isinstance(kind, str) or len(inputs) != 1 or ("function" not in config and not _is_operation(entry)):
        return None
    constants = [operand.constant for operand in called_with if operand.layer is None]
    if kind in CASTS:
        return Operation(_layer(entry, "Activation", activation="linear"), inputs)
    if kind in FUNCTIONS and config.get("axis", -1) == -1 and set(map(str, constants)) <= {"-1"}:
        return Operation(_layer(entry, "Activation", activation=FUNCTIONS[kind]), inputs)
    if kind not in ARITHMETIC or len(constants) != 1 or (called_with[0].layer is None and kind not in COMMUTATIVE):
        return None
    numbers = _per_channel(constants[0])
    if not numbers or (0 in numbers and ARITHMETIC[kind] is ARITHMETIC["Divide"]):
        return None
    scale, offset = zip(*map(ARITHMETIC[kind], numbers), strict=True)
    if origin := _swapped(by_name[inputs[0]], by_name):
        is_mean = len(offset) == 3 and all(abs(b + m) < 1e-3 for b, m in zip(offset, MEAN_BGR, strict=True))
        return Operation(_PREPROCESS_INPUT, [origin]) if is_mean and set(scale) == {1.0} else None
    return Operation(_layer(entry, "Rescaling", scale=_one_or_all(scale), offset=_one_or_all(offset)), inputs)


_PREPROCESS_INPUT = {"class_name": "PreprocessInput", "config": {"name": "preprocess_input"}}


def _layer(entry: Entry, class_name: str, **settings: Any) -> Entry:
    return {"class_name": class_name, "config": {"name": name_of(entry), **settings}}


def _is_operation(entry: Entry) -> bool:
    """Whether it is one of Keras 3's operations, and not a layer of the same name: Softmax is both."""
    return "trainable" not in entry["config"]


def _one_or_all(numbers: tuple[float, ...]) -> float | list[float]:
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def operands(node: Any) -> Iterator[Operand]:
    """What a node calls its layer with, in order."""
    if isinstance(node, Mapping):  # Keras 3: {"args": [...], "kwargs": {...}}
        for value in (*node["args"], *node["kwargs"].values()):
            yield from _operands(value)
    elif node and isinstance(node[0], list):  # Keras 2: [["layer", 0, 0, {...}], ...], one for each tensor
        for tensor in node:
            yield from operands(tensor)
    else:  # ["layer", 0, 0, {...}], where the rest of a function's arguments are in the braces
        yield Operand(None, node[2]) if node[0] == "_CONSTANT_VALUE" else Operand(node[0], None, *node[1:3])
        for key, value in node[3].items() if len(node) > 3 else ():
            if key not in ("name", "dtype", "data_format", "training", "mask"):
                yield from _operands(value)


def _operands(value: Any) -> Iterator[Operand]:
    match value:
        case {"class_name": "__keras_tensor__", "config": {"keras_history": [str(layer), int(node), int(tensor)]}} | [
            str(layer),
            int(node),
            int(tensor),
            *_,
        ]:
            yield Operand(layer, None, node, tensor)
        case [dict() | [str(), *_], *_] if not _is_index(value):  # a list of tensors
            for item in value:
                yield from _operands(item)
        case None | bool() | str():
            pass
        case _:
            yield Operand(None, value)


def _is_index(value: list[Any]) -> bool:
    """`x[..., i]` and its like, as an argument: constants."""
    return any(isinstance(item, Mapping) and item.get("class_name") in ("__ellipsis__", "__slice__") for item in value)


def _per_channel(constant: Any) -> list[float]:
    """A constant's numbers, one or one for each channel; none where it has another shape, `(H, W, C)` say."""
    if isinstance(constant, Mapping) and constant.get("class_name") in ("__tensor__", "__numpy__"):
        constant = constant["config"]["value"]
    while isinstance(constant, list) and len(constant) == 1:
        (constant,) = constant
    numbers = constant if isinstance(constant, list) else [constant]
    return numbers if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) else []


def _swapped(entry: Entry, by_name: Mapping[str, Entry]) -> str | None:
    """The layer whose RGB `entry` turns into BGR, by `[..., ::-1]` or by stacking channels 2, 1 and 0; else None."""
    nodes = entry.get("inbound_nodes") or [[]]
    if entry["class_name"] == "Stack" and entry["config"].get("axis") == -1:
        picked = [by_name[operand.layer] for operand in operands(nodes[0]) if operand.layer is not None]
        origins = {channel["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] for channel in picked}
        if [_last_index(channel) for channel in picked] == [2, 1, 0] and len(origins) == 1:
            return origins.pop()
    match _last_index(entry):
        # a slice, in Keras 3 and in Keras 2
        case {"config": {"start": None, "stop": None, "step": -1}} | {"start": None, "stop": None, "step": -1}:
            return next(operand.layer for operand in operands(nodes[0]))
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
