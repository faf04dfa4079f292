"""Operations in a model's graph → the layers that they are equivalent to.

What isn't a layer in Keras is left in the graph as an operation, in Keras 2 as an `…OpLambda` with the name of a function,
in Keras 3 as a class of its own. Here `x / 255.0` becomes a Rescaling, `relu(x)` an Activation, and the five operations of
`preprocess_input(x)` a layer of that name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .architecture_json import Entry, Operand
from .kinds.preprocessing import MEAN_BGR
from .settings import plain_value

# Keras 2's functions and Keras 3's classes.
ADDITION = ("math.add", "__operators__.add", "nn.bias_add", "Add")
MULTIPLICATION = ("math.multiply", "__operators__.mul", "Multiply")
DIVISION = ("math.truediv", "math.divide", "TrueDivide", "Divide")
ARITHMETIC: dict[str, Callable[[float], tuple[float, float]]] = {  # to (scale, offset), for a constant c
    **dict.fromkeys(ADDITION, lambda c: (1.0, c)),
    **dict.fromkeys(MULTIPLICATION, lambda c: (c, 0.0)),
    **dict.fromkeys(DIVISION, lambda c: (1 / c, 0.0)),
    **dict.fromkeys(("math.subtract", "__operators__.sub", "Subtract"), lambda c: (1.0, -c)),
}

FUNCTIONS = {
    **dict.fromkeys(("nn.relu", "Relu"), "relu"),
    **dict.fromkeys(("nn.relu6", "Relu6"), "relu6"),
    **dict.fromkeys(("math.sigmoid", "nn.sigmoid", "Sigmoid"), "sigmoid"),
    **dict.fromkeys(("math.tanh", "nn.tanh", "Tanh"), "tanh"),
    **dict.fromkeys(("nn.softmax", "Softmax"), "softmax"),
}


def as_layer(entry: Entry, by_name: Mapping[str, Entry]) -> tuple[Entry, list[str]] | None:
    """Returns the layer that `entry`, and the operations before it, are equivalent to, and what feeds it; None if none is known."""
    operands = entry.calls[0] if entry.calls else []
    inputs = [operand.layer for operand in operands if operand.layer is not None]
    constants = [operand.constant for operand in operands if operand.layer is None]
    # One of Keras 3's operations says nothing of being trainable; a layer of the same name, Softmax say, does.
    is_operation = "function" in entry.config or "trainable" not in entry.config
    function = entry.config.get("function", entry.class_name)
    if not is_operation or not isinstance(function, str) or len(inputs) != 1:
        return None
    if function in ("cast", "Cast"):  # all that is computed here is floating-point
        return Entry("Activation", entry.name, {"activation": "linear"}), inputs
    if function in FUNCTIONS and entry.config.get("axis", -1) == -1 and set(map(str, constants)) <= {"-1"}:
        return Entry("Activation", entry.name, {"activation": FUNCTIONS[function]}), inputs
    comes_second = operands[0].layer is not None or function in ADDITION + MULTIPLICATION
    if function not in ARITHMETIC or len(constants) != 1 or not comes_second:
        return None
    numbers = _per_channel(constants[0])
    if not numbers or (0 in numbers and function in DIVISION):
        return None
    scale, offset = zip(*map(ARITHMETIC[function], numbers), strict=True)
    if origin := _swapped(by_name[inputs[0]], by_name):
        is_mean = len(offset) == 3 and all(abs(b + m) < 1e-3 for b, m in zip(offset, MEAN_BGR, strict=True))
        is_preprocessing = is_mean and set(scale) == {1.0}
        return (Entry("PreprocessInput", "preprocess_input"), [origin]) if is_preprocessing else None
    config = {"scale": _one_or_all(scale), "offset": _one_or_all(offset)}
    return Entry("Rescaling", entry.name, config), inputs


def _one_or_all(numbers: tuple[float, ...]) -> float | list[float]:
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def _per_channel(constant: Any) -> tuple[float, ...]:
    """Returns a constant's numbers, one or one for each channel; none if it has another shape, `(H, W, C)` say."""
    constant = plain_value(constant)
    while isinstance(constant, tuple) and len(constant) == 1:
        (constant,) = constant
    numbers = constant if isinstance(constant, tuple) else (constant,)
    return numbers if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) else ()


def _swapped(entry: Entry, by_name: Mapping[str, Entry]) -> str | None:
    """Returns the layer whose RGB `entry` turns into BGR, by `[..., ::-1]` or by stacking channels 2, 1 and 0; else None."""
    if entry.class_name == "Stack" and entry.config.get("axis") == -1:
        channels = [by_name[str(operand.layer)] for operand in entry.inputs]
        origins = {operand.layer for channel in channels for operand in channel.inputs}
        if [_last_index(channel) for channel in channels] == [2, 1, 0] and len(origins) == 1:
            return origins.pop()
    match _last_index(entry):
        # a slice, in Keras 3 and in Keras 2
        case {"config": {"start": None, "stop": None, "step": -1}} | {"start": None, "stop": None, "step": -1}:
            return entry.inputs[0].layer
    return None


def _last_index(entry: Entry) -> Any:
    """Returns `i` if the entry is an operation `x[..., i]`, a number, or a slice as a mapping; else None."""
    match entry.calls:
        case [[Operand(layer=str()), Operand(constant=[{"class_name": "__ellipsis__"}, index])]]:
            return index if entry.class_name in ("GetItem", "SlicingOpLambda") else None
    return None
