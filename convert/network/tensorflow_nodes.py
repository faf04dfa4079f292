"""Operations as TensorFlow 1.15 to 2.3 leaves them in a Keras graph, nodes of TensorFlow's own → functions, as later versions write them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .architecture_json import Entry, Operand

FUNCTIONS = {
    **{"BiasAdd": "nn.bias_add", "Sub": "math.subtract", "Mul": "math.multiply"},
    **dict.fromkeys(("Div", "RealDiv"), "math.truediv"),
    **dict.fromkeys(("Add", "AddV2"), "math.add"),
    **{"AddN": "math.add_n", "Neg": "math.negative", "Abs": "math.abs", "Square": "math.square", "Sqrt": "math.sqrt"},
    **{"Rsqrt": "math.rsqrt", "Reciprocal": "math.reciprocal", "Pow": "math.pow", "Exp": "math.exp"},
    **{"Maximum": "math.maximum", "Minimum": "math.minimum", "Mean": "math.reduce_mean", "Sum": "math.reduce_sum"},
    **{"Max": "math.reduce_max", "Min": "math.reduce_min", "Relu": "nn.relu", "Relu6": "nn.relu6", "Elu": "nn.elu"},
    **{"Sigmoid": "math.sigmoid", "Tanh": "math.tanh", "Softplus": "math.softplus", "Softmax": "nn.softmax"},
    **{"ConcatV2": "concat", "Pack": "stack", "ExpandDims": "expand_dims", "Squeeze": "squeeze", "Reshape": "reshape"},
    **{"Transpose": "transpose", "ReverseV2": "reverse", "Cast": "cast", "Identity": "identity"},
    "StridedSlice": "__operators__.getitem",
}
# And the arguments that they are.
ATTRIBUTES = {"keep_dims": "keepdims", "axis": "axis", "squeeze_dims": "axis", "DstT": "dtype"}
TYPES = {"DT_FLOAT": "float32", "DT_HALF": "float16", "DT_INT32": "int32", "DT_INT64": "int64"}


def as_function(entry: Entry, operands: Sequence[Operand]) -> tuple[Entry, list[Operand]]:
    """Returns the call of a function that a node of TensorFlow's stands for; one that isn't known is left as it is."""
    node, constants = entry.config.get("node_def"), entry.config.get("constants") or {}
    attributes = node.get("attr") if isinstance(node, Mapping) else None
    function = FUNCTIONS.get(str(node.get("op"))) if isinstance(node, Mapping) else None
    if not function or not isinstance(attributes, Mapping) or not isinstance(constants, Mapping):
        return entry, list(operands)
    found = replace(entry, class_name="TFOpLambda", config={"function": function})
    if function == "__operators__.getitem":
        index = Operand(None, _index(constants, attributes), keyword="slice_spec")
        return found, [*operands, index]
    given = list(operands)
    for place, constant in sorted(constants.items()):
        given.insert(int(place) if place.isdecimal() else len(given), Operand(None, constant))
    for name, value in attributes.items():
        if name in ATTRIBUTES:
            given.append(Operand(None, _value(value), keyword=ATTRIBUTES[name]))
    return found, given


def _value(attribute: Any) -> Any:
    """Reads an attribute: `{"b": true}`, `{"i": "1"}`, `{"type": "DT_FLOAT"}`, `{"list": {"i": ["1"]}}`."""
    match attribute:
        case {"b": bool(flag)}:
            return flag
        case {"i": str(number)} if number.removeprefix("-").isdecimal():
            return int(number)
        case {"type": str(name)}:
            return TYPES.get(name, name)
        case {"list": {"i": list(numbers)}}:
            return [_value({"i": number}) for number in numbers]
    return None


def _index(constants: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[Any]:
    """Returns the index of `x[…]`, as later versions write it: of the beginnings, ends and steps, and a bit for each in the masks."""
    begins, ends, steps = (constants.get(place) for place in "123")
    if not (isinstance(begins, list) and isinstance(ends, list) and isinstance(steps, list)):
        return ["unknown"]

    def is_set(mask: str, place: int) -> bool:
        bits = _value(attributes.get(f"{mask}_mask"))
        return isinstance(bits, int) and bool(bits >> place & 1)

    index: list[Any] = []
    for place, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=False)):
        if is_set("ellipsis", place):
            index.append({"class_name": "__ellipsis__"})
        elif is_set("new_axis", place):
            index.append(None)
        elif is_set("shrink_axis", place):
            index.append(begin)
        else:
            start, stop = (None if is_set(mask, place) else value for mask, value in (("begin", begin), ("end", end)))
            index.append({"start": start, "stop": stop, "step": None if step == 1 else step})
    return index
