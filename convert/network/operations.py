"""Operations in a model's graph → the layers that they are equivalent to.

What isn't a layer in Keras is left in the graph as an operation, in Keras 2 as an `…OpLambda` with the name of a function,
in Keras 3 as a class of its own. Here `x / 255.0` becomes a Rescaling, `relu(x)` an Activation, `x + y` an Add, and the five
operations of `preprocess_input(x)` a layer of that name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .architecture_json import Entry, Operand
from .calls import Call, Value
from .graph import Described
from .kinds.preprocessing import MEAN_BGR
from .kinds.validators import integer
from .settings import plain_value

TYPED = ("Cast", "OnesLike", "ZerosLike")
CHANNELS_LAST = ("channels_last", "NHWC", "N...C")
Layer = tuple[str, dict[str, Any]]  # a class and its configuration


class Arguments:
    """The arguments of an operation: so many tensors, the positional constants, and those with a keyword.

    `begins` tells whether a tensor is the first argument. What nobody has asked for is `left`: an operation with such an argument
    isn't understood.
    """

    def __init__(self, tensors: int, constants: list[Any], keywords: Mapping[str, Any], begins: bool) -> None:
        self.tensors, self.constants, self.keywords, self.begins = tensors, constants, keywords, begins
        said = (
            key for key, value in keywords.items() if not (value is None or value is False or value in CHANNELS_LAST)
        )
        self.left: set[str | int] = {*said, *range(len(constants))}
        self.depth = 0  # of axes in front of the constant operand, each 1 long

    def get(self, name: str, place: int, default: Any = None) -> Any:
        """Returns a constant by its keyword, or by its place among the positional ones."""
        self.left -= {name} if name in self.keywords else {name, place}
        value = self.constants[place] if place < len(self.constants) else default
        return plain_value(self.keywords.get(name, value))

    def operand(self) -> tuple[float, ...]:
        """Returns the numbers of the constant operand of `x + c`, one or one for each channel; () if there is none."""
        names = ("y", "x", "x1", "x2", "value", "bias")
        self.left -= {*names, *range(len(self.constants))}
        second = [value for key, value in self.keywords.items() if key in names]
        found = [plain_value(value) for value in (*self.constants, *second)]
        if len(found) != 1 or self.tensors != 1:
            return ()
        (constant,) = found
        while isinstance(constant, tuple) and len(constant) == 1:
            (constant,) = constant
            self.depth += 1
        numbers = constant if isinstance(constant, tuple) else (constant,)
        return numbers if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) else ()


def is_operation(entry: Entry) -> bool:
    """Tells whether an entry is an operation out of `OPERATIONS`, in a graph.

    One of Keras 3's says nothing of being trainable; a layer of the same name, Softmax or Average say, does.
    """
    is_known = _function_of(entry) in OPERATIONS
    return bool(entry.calls) and is_known and ("function" in entry.config or "trainable" not in entry.config)


def _function_of(entry: Entry) -> str:
    return str(entry.config.get("function", entry.class_name))


def as_layer(
    entry: Entry, operands: Sequence[Operand], inputs: Sequence[Value], producer: Callable[[Value], Call | None]
) -> tuple[str, dict[str, Any], Sequence[Value]] | None:
    """Returns the class and the configuration of the layer that an operation is equivalent to, and what feeds it.

    `operands` are the call's, `inputs` its tensors, `producer` finds the call that made one. Returns None if its arguments can't
    be converted.
    """
    if not inputs:
        return None
    constants = [operand for operand in operands if operand.layer is None]
    # In Keras 3 a cast's type is in its configuration; what else has one is computed in that of its input.
    of_any_layer = {"name", "trainable", "function", *(() if entry.class_name in TYPED else ("dtype",))}
    arguments = Arguments(
        len(inputs),
        [operand.constant for operand in constants if operand.keyword is None],
        {
            **{key: value for key, value in entry.config.items() if key not in of_any_layer},
            **{o.keyword: o.constant for o in constants if o.keyword is not None},
        },
        operands[0].layer is not None,
    )
    found = OPERATIONS[_function_of(entry)](arguments)
    if found is None or arguments.left:
        return None
    class_name, config = found
    if _function_of(entry) == "image.grayscale_to_rgb":
        inputs = [*inputs] * 3
    if class_name == "Rescaling" and (origin := _swapped(inputs[0], producer)) is not None:
        shift = flat(config["offset"])
        is_mean = len(shift) == 3 and all(abs(b + m) < 1e-3 for b, m in zip(shift, MEAN_BGR, strict=True))
        if is_mean and config["scale"] == 1.0:
            return "PreprocessInput", {}, [origin]
    return class_name, config, inputs


def _swapped(value: Value, producer: Callable[[Value], Call | None]) -> Value | None:
    """Returns the images whose RGB was turned into BGR, by `[..., ::-1]` or by stacking channels 2, 1 and 0; else None."""
    call = producer(value)
    if call is None:
        return None
    if call.layer.class_name == "Stack" and call.layer.config == {"new_axis": -1}:
        channels = [producer(each) for each in call.inputs]
        origins = {each.inputs for each in channels if each}
        if [each and _last_index(each) for each in channels] == [2, 1, 0] and len(origins) == 1:
            return origins.pop()[0]
    return call.inputs[0] if _last_index(call) == ("slice", None, None, -1) else None


def _last_index(call: Call) -> Any:
    """Returns `i` if the call is `x[..., i]`, a number or a slice, else None."""
    match call.layer:
        case Described("GetItem", config={"index": ("...", last)}):
            return last
    return None


def merge_of_keras_1(config: Mapping[str, Any]) -> Layer:
    """Returns the layer that Keras 1's Merge is equivalent to; a Merge, which can't be converted, if its mode is a function."""
    modes = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum"}
    mode = config.get("mode", "sum")
    if mode == "concat":
        return "Concatenate", {"axis": config.get("concat_axis", -1)}
    if mode in ("dot", "cos"):
        return "Dot", {"axes": config.get("dot_axes", -1), "normalize": mode == "cos"}
    if not isinstance(mode, str) or mode not in modes:
        return "Merge", {}
    return modes[mode], {}


NAMED = ("preprocess_input", "l2_normalize", "resize:H,W", "identity")  # what a user may say that a Lambda does


def named_function(what: str) -> Layer:
    """Returns the layer that does what a user says of a Lambda. Raises a ValueError if that is none of `NAMED`."""
    if match := re.fullmatch(r"resize:([1-9]\d{0,4}),([1-9]\d{0,4})", what):
        return "Resizing", {"height": int(match[1]), "width": int(match[2])}
    layers: dict[str, Layer] = {
        "preprocess_input": ("PreprocessInput", {}),
        "l2_normalize": ("UnitNormalization", {"axis": -1}),
        "identity": ("Activation", {"activation": "linear"}),
    }
    if what not in layers:
        raise ValueError(f"lambda: expected one of {', '.join(NAMED)}. Received: {what!r}")
    return layers[what]


def flat(numbers: Any) -> tuple[Any, ...]:
    """Returns the numbers of nested lists, of which only the innermost has more than one entry."""
    while isinstance(numbers, list) and len(numbers) == 1:
        (numbers,) = numbers
    return tuple(numbers) if isinstance(numbers, list) else (numbers,)


Reader = Callable[[Arguments], Layer | None]


def _always(class_name: str, **config: Any) -> Reader:
    return lambda arguments: (class_name, config) if arguments.tensors == 1 else None


def _function(name: str) -> Reader:
    """Reads an activation; one along another axis than the channels, or a steeper one, isn't one."""
    return lambda arguments: (
        ("Activation", {"activation": name})
        if (arguments.get("axis", 0, -1), arguments.get("beta", 0, 1), arguments.tensors) == (-1, 1, 1)
        else None
    )


def _quotient(arguments: Arguments) -> Layer | None:
    """Reads `x / y`, `x / c`, and `1 / x`."""
    if not arguments.begins and arguments.operand() == (1,):
        return "Power", {"exponent": -1}
    return _DIVIDE(arguments)


def _arithmetic(class_name: str, scaled: Callable[[float, bool], tuple[float, float] | None]) -> Reader:
    """Reads `x + y`, or `x + c` as a Rescaling: `scaled` gives the scale and the offset for `c`, and whether `x` comes first."""

    def read(arguments: Arguments) -> Layer | None:
        if arguments.tensors == 2 and not arguments.constants:
            return class_name, {"is_operation": True}
        pairs = [scaled(number, arguments.begins) for number in arguments.operand()]
        if not pairs or None in pairs:
            return None
        scale, offset = zip(*filter(None, pairs), strict=True)
        if len({*scale}) == 1:  # the other has as many numbers as there are channels
            return "Rescaling", {"scale": scale[0], "offset": _as_written(offset, arguments.depth)}
        return "Rescaling", {"scale": _as_written(scale, arguments.depth), "offset": offset[0]}

    return read


def _as_written(numbers: tuple[float, ...], depth: int) -> Any:
    """Returns one number, or a list of several, within lists of one entry."""
    found: Any = list(numbers) if len(numbers) > 1 else numbers[0]
    for _ in range(depth):
        found = [found]
    return found


def _limit(class_name: str, key: str) -> Reader:
    """Reads `maximum(x, y)`, or `maximum(x, c)` as a Clip."""

    def read(arguments: Arguments) -> Layer | None:
        if arguments.tensors == 2 and not arguments.constants:
            return class_name, {"is_operation": True}
        numbers = arguments.operand()
        return ("Clip", {key: numbers[0]}) if len(numbers) == 1 else None

    return read


def _clip(arguments: Arguments) -> Layer:
    bounds = [arguments.get(f"clip_value_{end}", place) for place, end in enumerate(("min", "max"))]
    least, most = (arguments.get(f"x_{end}", 2, bound) for end, bound in zip(("min", "max"), bounds, strict=True))
    return "Clip", {"min_value": least, "max_value": most}


def _power(arguments: Arguments) -> Layer | None:
    numbers = arguments.operand()
    return ("Power", {"exponent": numbers[0]}) if len(numbers) == 1 and arguments.begins else None


def _reduction(function: str) -> Reader:
    def read(arguments: Arguments) -> Layer:
        keepdims = arguments.get("keepdims", 1, False)
        return "Reduce", {"function": function, "axis": arguments.get("axis", 0), "keepdims": keepdims or False}

    return read


def _norm(arguments: Arguments) -> Layer | None:
    order = arguments.get("ord", 0)
    is_euclidean = order in (None, "euclidean") or (order == 2 and isinstance(arguments.get("axis", 1), int))
    return _reduction("norm")(arguments) if is_euclidean else None


def _joined(class_name: str, key: str) -> Reader:
    default = 0 if class_name == "Stack" else -1
    return lambda arguments: (class_name, {key: arguments.get("axis", 0, default)})


def _item(arguments: Arguments) -> Layer:
    index = arguments.get("slice_spec", 0, arguments.get("key", 0, ()))
    return "GetItem", {"index": tuple(map(_index, index if isinstance(index, tuple) else [index]))}


def _index(item: Any) -> Any:
    match item:
        case {"class_name": "__ellipsis__"}:
            return "..."
        case {"class_name": "__slice__", "config": dict(config)}:
            return "slice", config.get("start"), config.get("stop"), config.get("step")
        case {"start": start, "stop": stop, "step": step}:
            return "slice", start, stop, step
    return plain_value(item)


def _index_of_axes(axes: tuple[Any, ...], entry: Any) -> Layer | None:
    """Returns the index that has the entry at these axes, all counted from the first or all from the last."""
    if not axes or not all(integer(axis) and -4 <= axis <= 4 for axis in axes):
        return None
    every = ("slice", None, None, None)
    if min(axes) >= 0:
        return "GetItem", {"index": tuple(entry if axis in axes else every for axis in range(max(axes) + 1))}
    if max(axes) >= 0:
        return None
    return "GetItem", {"index": ("...", *(entry if axis in axes else every for axis in range(min(axes), 0)))}


def _at_axes(entry: Any) -> Reader:
    """Reads an operation on some axes as an index: None makes a new one, 0 leaves out one that is 1 long, a slice reverses one."""

    def read(arguments: Arguments) -> Layer | None:
        axis = arguments.get("axis", 0)
        return _index_of_axes(axis if isinstance(axis, tuple) else (axis,), entry)

    return read


def _reshape(arguments: Arguments) -> Layer | None:
    target = next((arguments.get(key, 0) for key in ("newshape", "shape") if key in arguments.keywords), None)
    target = target if target is not None else arguments.get("newshape", 0)
    if not isinstance(target, tuple) or len(target) < 2 or target[0] not in (-1, None):
        return None
    return "Reshape", {"target_shape": target[1:]}


def _transpose(arguments: Arguments) -> Layer | None:
    axes = arguments.get("axes", 0, arguments.get("perm", 0))
    return ("Permute", {"dims": axes[1:]}) if isinstance(axes, tuple) and axes[:1] == (0,) else None


def _resize(arguments: Arguments) -> Layer | None:
    size = arguments.get("size", 0)
    method = arguments.get("interpolation", 1, arguments.get("method", 1, "bilinear"))
    # Of a padding, which is refused.
    filling = arguments.get("fill_mode", 9, "constant"), arguments.get("fill_value", 9, 0)
    if not isinstance(size, tuple) or len(size) != 2 or filling != ("constant", 0):
        return None
    return "Resizing", {"height": size[0], "width": size[1], "interpolation": method}


def _unit(default_axis: int | None) -> Reader:
    def read(arguments: Arguments) -> Layer | None:
        if arguments.get("order", 1, 2) != 2 or not 0 <= (arguments.get("epsilon", 2) or 0.0) <= 1e-6:
            return None
        axis = arguments.get("axis", 0, default_axis)
        return None if axis is None else ("UnitNormalization", {"axis": axis})  # None: all axes, the batch too

    return read


def _is_not(arguments: Arguments) -> Layer | None:
    numbers = arguments.operand()
    return ("NotEqual", {"value": numbers[0]}) if len(numbers) == 1 else None


def _cast(arguments: Arguments) -> Layer | None:
    dtype = str(arguments.get("dtype", 0))
    return ("Cast", {"dtype": "float" if "float" in dtype else "int"}) if dtype in CASTS else None


def _filled(value: bool) -> Reader:
    """Reads a mask that is the same everywhere; numbers are none."""
    return lambda arguments: ("FullLike", {"value": value}) if arguments.get("dtype", 0) == "bool" else None


def _slope(arguments: Arguments) -> Layer:
    return "LeakyReLU", {"negative_slope": arguments.get("negative_slope", 0, arguments.get("alpha", 0, 0.2))}


_ADD = _arithmetic("Add", lambda c, begins: (1.0, c))
_SUBTRACT = _arithmetic("Subtract", lambda c, begins: (1.0, -c) if begins else (-1.0, c))
_MULTIPLY = _arithmetic("Multiply", lambda c, begins: (c, 0.0))
_DIVIDE = _arithmetic("Divide", lambda c, begins: (1 / c, 0.0) if begins and c else None)
RELU = ("negative_slope", "max_value", "threshold")  # of keras.activations.relu
CASTS = ("float32", "float64", "int32", "int64")

OPERATIONS: dict[str, Reader] = {  # Keras 2's functions and Keras 3's classes
    **dict.fromkeys(("math.add", "__operators__.add", "nn.bias_add", "Add"), _ADD),
    "math.add_n": lambda arguments: ("Add", {"is_operation": True}),
    **dict.fromkeys(("math.subtract", "__operators__.sub", "Subtract"), _SUBTRACT),
    **dict.fromkeys(("math.multiply", "__operators__.mul", "Multiply"), _MULTIPLY),
    **dict.fromkeys(("math.truediv", "math.divide", "__operators__.truediv", "TrueDivide", "Divide"), _quotient),
    # Of masks.
    **dict.fromkeys(("math.logical_or", "LogicalOr"), lambda arguments: ("Maximum", {"is_operation": True})),
    **dict.fromkeys(("math.logical_and", "LogicalAnd"), lambda arguments: ("Minimum", {"is_operation": True})),
    "OnesLike": _filled(True),
    "ZerosLike": _filled(False),
    **dict.fromkeys(("math.maximum", "Maximum"), _limit("Maximum", "min_value")),
    **dict.fromkeys(("math.minimum", "Minimum"), _limit("Minimum", "max_value")),
    **dict.fromkeys(("clip_by_value", "Clip"), _clip),
    **dict.fromkeys(("math.abs", "abs", "Abs", "Absolute"), _always("Absolute")),
    **dict.fromkeys(("math.negative", "__operators__.neg", "Negative"), _always("Rescaling", scale=-1.0)),
    **dict.fromkeys(("math.exp", "Exp"), _always("Activation", activation="exponential")),
    **dict.fromkeys(("math.square", "Square"), _always("Power", exponent=2)),
    **dict.fromkeys(("math.sqrt", "Sqrt"), _always("Power", exponent=0.5)),
    **dict.fromkeys(("math.rsqrt", "Rsqrt"), _always("Power", exponent=-0.5)),
    **dict.fromkeys(("math.reciprocal", "Reciprocal"), _always("Power", exponent=-1)),
    **dict.fromkeys(("math.pow", "__operators__.pow", "Power"), _power),
    **dict.fromkeys(("math.reduce_mean", "Mean"), _reduction("mean")),
    **dict.fromkeys(("math.reduce_sum", "Sum"), _reduction("sum")),
    **dict.fromkeys(("math.reduce_max", "Max"), _reduction("max")),
    **dict.fromkeys(("math.reduce_min", "Min"), _reduction("min")),
    **dict.fromkeys(("norm", "compat.v1.norm", "math.reduce_euclidean_norm", "Norm"), _norm),
    **dict.fromkeys(("math.reduce_any", "Any"), _reduction("any")),
    **dict.fromkeys(("concat", "Concatenate"), _joined("Concatenate", "axis")),
    **dict.fromkeys(("stack", "Stack"), _joined("Stack", "new_axis")),
    **dict.fromkeys(("__operators__.getitem", "GetItem"), _item),
    **dict.fromkeys(("expand_dims", "ExpandDims"), _at_axes(None)),
    **dict.fromkeys(("squeeze", "compat.v1.squeeze", "Squeeze"), _at_axes(0)),
    **dict.fromkeys(("reshape", "Reshape"), _reshape),
    **dict.fromkeys(("transpose", "compat.v1.transpose", "Transpose"), _transpose),
    **dict.fromkeys(("reverse", "Flip"), _at_axes(("slice", None, None, -1))),
    **dict.fromkeys(("image.resize", "Resize"), _resize),
    "image.grayscale_to_rgb": _always("Concatenate"),
    "keras.backend.batch_flatten": _always("Flatten"),
    **dict.fromkeys(("math.l2_normalize", "linalg.l2_normalize"), _unit(None)),
    "Normalize": _unit(-1),
    **dict.fromkeys(("math.not_equal", "NotEqual"), _is_not),
    **dict.fromkeys(("cast", "Cast"), _cast),
    **dict.fromkeys(("identity", "stop_gradient", "StopGradient"), _always("Activation", activation="linear")),
    **dict.fromkeys(("Average", "Dot"), lambda arguments: None),  # not the layers of these names
    **dict.fromkeys(("nn.relu", "Relu"), _function("relu")),
    **dict.fromkeys(("nn.relu6", "Relu6"), _function("relu6")),
    "ReLU": lambda arguments: ("ReLU", {key: arguments.get(key, 9) for key in RELU if key in arguments.keywords}),
    **dict.fromkeys(("nn.leaky_relu", "LeakyRelu"), _slope),
    **dict.fromkeys(("nn.elu", "Elu"), lambda arguments: ("ELU", {"alpha": arguments.get("alpha", 0, 1.0)})),
    **dict.fromkeys(("nn.silu", "Silu"), _function("silu")),
    **dict.fromkeys(("math.softplus", "Softplus"), _function("softplus")),
    **dict.fromkeys(("math.sigmoid", "nn.sigmoid", "Sigmoid"), _function("sigmoid")),
    **dict.fromkeys(("math.tanh", "nn.tanh", "Tanh"), _function("tanh")),
    **dict.fromkeys(("nn.softmax", "Softmax"), lambda arguments: ("Softmax", {"axis": arguments.get("axis", 0, -1)})),
}
