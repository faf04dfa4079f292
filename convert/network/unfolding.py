"""A model's architecture → its `Graph`: nested models, wrappers and operations become calls of layers."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import LayerError
from ..read.keras_file import GroupNames
from .architecture_json import MODELS, Entry, Operand, flattened, mapped
from .call_order import calls_in_order, no_such_call
from .calls import Call, Value
from .graph import INPUT, Described, Graph
from .keras_hub import HUB_MODELS
from .kernel_parts import quantization
from .kinds import KINDS
from .kinds.kind import is_before_3
from .kinds.regularization import Regularization
from .masks import MaskedCalls, without_masks
from .operations import as_layer, is_operation, merge_of_keras_1, named_function
from .tensorflow_nodes import as_function
from .weights_groups import ALIASES, places_of

# Identities at inference: in training they vary the images, or add to the loss.
AUGMENTATION = {
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
    *("RandomHeight", "RandomWidth", "RandomShear", "RandomHue", "RandomSaturation", "RandomSharpness"),
    *("RandomColorJitter", "RandomErasing", "RandomPerspective", "RandomGaussianBlur", "RandomColorDegeneration"),
    *("RandomGrayscale", "RandomPosterization", "RandomElasticTransform", "RandomInvert", "RandAugment", "AugMix"),
    *("MixUp", "CutMix", "Identity", "ActivityRegularization"),
}

CHANGED_BY_MASKS = ("Multiply", "Maximum", "Minimum")  # in Keras 3
# Of whole numbers.
ROUNDING = ("Resizing", "UpSampling2D", "Add", "Subtract", "Multiply", "Average", "AveragePooling2D")
MOVING = (  # whole numbers stay whole, and masks masks
    *("GetItem", "Reshape", "Permute", "Concatenate", "Stack", "Flatten", "RepeatVector", "Cropping1D", "Cropping2D"),
    *("ZeroPadding1D", "ZeroPadding2D", "CenterCrop", "MergeTime", "MaxPooling2D", "Maximum", "Minimum"),
)

MOST_OUTPUTS = 100  # of a layer that is refused: one that returns its states too, an operation that splits
MOST_CALLS = 5000  # of layers and models, nested ones included

# By the name of a layer or a class: what it does, as `named_function` takes it; a PyTorch module; or what makes one.
CustomObjects = Mapping[str, str | nn.Module | Callable[..., nn.Module]]


def read_graph(
    model: Entry,
    keras_version: str = "3",
    custom_objects: CustomObjects | None = None,
    group_names: GroupNames = GroupNames.CLASS,
) -> Graph:
    """Reads a model, as written by that version of Keras. Raises a ValueError unless it is a graph that Keras can build."""
    if model.class_name not in MODELS or _problem(model):
        raise LayerError(model.name, model.class_name, "a model of a class whose code isn't in the file")
    inputs = _inputs(model)
    unfolding = _Unfolding(keras_version, custom_objects or {}, group_names)
    for entry in model.layers:
        if entry.class_name == "InputLayer" and (dtype := re.search("int|bool", str(entry.config.get("dtype")))):
            unfolding.types[entry.name] = dtype[0]
    outputs = unfolding.outputs_of(model, [*inputs], None)
    named = {name for name, what in (custom_objects or {}).items() if isinstance(what, str)}
    if unused := named - unfolding.used:
        raise ValueError(f"lambda: no layer is called {', '.join(map(repr, sorted(unused)))}")
    leaves = iter(outputs)
    structure: Any = outputs[0] if len(outputs) == 1 else outputs
    if _is_functional(model):
        structure = mapped(lambda _: next(leaves), _sorted(model.ends["output"]))
    is_placed = model.class_name not in HUB_MODELS and group_names is not GroupNames.PLACE
    class_name = ALIASES.get(model.class_name, model.class_name) if is_placed else ""
    return unfolding.graph(model.name, inputs, structure)._replace(class_name=class_name)


def _sorted(structure: Any) -> Any:
    """Sorts the keys of mappings, as Keras does where it lists what a structure holds."""
    if isinstance(structure, dict):
        return {key: _sorted(structure[key]) for key in sorted(structure)}
    return [_sorted(part) for part in structure] if isinstance(structure, list) else structure


def _inputs(model: Entry) -> dict[str, Any]:
    """Finds the shape of each input, batch first, wherever this version of Keras has written it; None if it hasn't."""
    by_name = {entry.name: entry for entry in model.layers}
    if _is_functional(model):
        ends = flattened(model.ends.get("input", []))
        return {str(end.layer): _input_shape(by_name[str(end.layer)]) for end in ends}
    first = model.layers[0] if model.layers else model
    return {first.name if first.class_name == "InputLayer" else INPUT: _input_shape(model)}


def _input_shape(model: Entry) -> Any:
    if _is_functional(model) and len(_inputs(model)) == 1:
        (shape,) = _inputs(model).values()
        return shape
    first = model.layers[0] if model.layers else model
    if first.layers:
        return _input_shape(first)
    keras_3, keras_2 = first.config.get("batch_shape"), first.config.get("batch_input_shape")
    return keras_3 or keras_2 or model.config.get("build_input_shape")  # the last: a Sequential without an input


def _is_functional(model: Entry) -> bool:
    return model.class_name != "Sequential" and bool(model.config) and bool(model.layers)


class _Unfolding(MaskedCalls):
    """Collects the calls of a model's layers, and of those of the models in it, in order."""

    def __init__(self, keras_version: str, custom_objects: CustomObjects, group_names: GroupNames) -> None:
        super().__init__(is_before_3(keras_version))
        self.keras_version, self.custom_objects, self.group_names = keras_version, custom_objects, group_names
        self.custom: dict[tuple[str, ...], Described] = {}  # by path: a layer called twice is one
        self.used: set[str] = set()
        self.types: dict[Value, str] = {}  # "int" or "bool", of what isn't floating-point
        self.count = 0

    def outputs_of(self, model: Entry, inputs: Sequence[Value], outer: Described | None) -> list[Value]:
        """Calls a model; `outer` is that model as a layer, if it lies in another. Returns its outputs."""
        place_of = places_of(model, self.group_names)

        def layer_of(entry: Entry) -> Described:
            return described(entry, place_of.get(entry.name, ""), self.keras_version, outer)

        values = list(inputs)
        if not _is_functional(model):
            for entry in model.layers:
                if entry.class_name != "InputLayer":
                    values = self.call(entry, [Operand(entry.name) for _ in values], values, layer_of(entry))
                    values = values[:1] if len(values) == MOST_OUTPUTS else values
            return values
        ends = flattened(model.ends.get("input", []))
        if len(ends) != len(inputs):
            raise LayerError(model.name, model.class_name, f"called with {len(inputs)} inputs, it has {len(ends)}")
        found: dict[tuple[str, int, int], Value] = {
            (str(end.layer), 0, 0): value for end, value in zip(ends, inputs, strict=True)
        }
        calls, outputs = calls_in_order(model)
        for entry, number in calls:
            operands = entry.calls[number]
            values = [_value(found, operand, model) for operand in operands if operand.layer is not None]
            for tensor, value in enumerate(self.call(entry, operands, values, layer_of(entry))):
                found[entry.name, number, tensor] = value
        return [_value(found, operand, model) for operand in outputs]

    def call(self, entry: Entry, operands: Sequence[Operand], inputs: Sequence[Value], layer: Described) -> list[Value]:
        """Calls a layer or a model. Returns its outputs."""
        self.count += 1
        if self.count > MOST_CALLS:
            raise ValueError(f"more than {MOST_CALLS:,} calls of layers")
        tensors = [operand for operand in operands if operand.layer is not None]
        if entry.class_name == "TensorFlowOpLayer":
            entry, operands = as_function(entry, operands)
        for name in (entry.name, entry.class_name):
            if name in self.custom_objects:
                self.used.add(name)
                if layer.path not in self.custom:
                    self.custom[layer.path] = _custom(layer, self.custom_objects[name])
                custom = self.custom[layer.path]
                return [self.add(custom, self.inputs_of_module(custom, tensors, inputs))]
        if entry.class_name in MODELS:
            values, masks = without_masks(operands, inputs)
            if masks and len(masks) != len(values):
                layer = layer.with_problem(f"called with {len(masks)} masks for {len(values)} inputs")
            self.masks |= {value: mask for value, mask in zip(values, masks, strict=False) if mask is not None}
            return self.outputs_of(entry, _by_name(entry, tensors, inputs) or values, layer)
        if entry.class_name in AUGMENTATION and not layer.problem:
            if self.is_old and entry.class_name == "Identity" and inputs[0] in self.masks:  # which isn't handed on
                return [self.add(replace(layer, class_name="Activation", config={"activation": "linear"}), inputs[:1])]
            return list(inputs[:1])
        if is_operation(entry):
            return [self._operation(entry, operands, inputs, layer)]
        constants = [o for o in operands if o.layer is None and o.keyword != "training"]
        given = [o for o in constants if o.constant is not None and o.constant is not False]  # 0 is another number
        kind = KINDS.get(layer.class_name)
        is_recurrent = entry.class_name == "Bidirectional" or (kind and kind.heeds_mask)
        if is_recurrent and sum(operand.keyword != "mask" for operand in tensors) > 1:
            layer = layer.with_problem("called with an initial state, which can't be converted")
        elif given:
            what = given[0].keyword or "an input"
            layer = layer.with_problem(f"called with a constant ({what}), which can't be converted")
        if entry.class_name == "TimeDistributed" and entry.wrapped:
            return self._in_time(entry.wrapped, inputs, layer)
        if entry.class_name == "Bidirectional" and entry.wrapped:
            return self._in_both_directions(entry, tensors, inputs, layer)
        if entry.class_name == "Merge":
            class_name, config = merge_of_keras_1(entry.config)
            layer = replace(layer, class_name=class_name, config=config)
        others = {operand.keyword for operand in tensors} - {None, "mask", "inputs", "x", "sequences"}
        if others and layer.class_name in KINDS:
            layer = layer.with_problem(f"called with the argument {', '.join(map(str, others))}")
        changed = {"Softmax"} if self.is_old else {"Softmax", *CHANGED_BY_MASKS}
        if layer.class_name in changed and self.is_masked(tensors, inputs):
            layer = layer.with_problem("masked steps change what it computes, which can't be converted")
        values, _ = without_masks(tensors, inputs)
        types = {self.types[value] for value in values if value in self.types}
        moves = layer.class_name in MOVING or isinstance(kind, Regularization)
        if not moves and ((kind and "bool" in types) or ("int" in types and layer.class_name in ROUNDING)):
            layer = layer.with_problem("whole numbers, which Keras computes with in another way, can't be converted")
        value = self.add(layer, self.inputs_of_layer(layer, tensors, inputs))
        if types and moves:
            self.types[value] = types.pop()
        return [value] * (MOST_OUTPUTS if layer.config.get("return_state") or layer.class_name not in KINDS else 1)

    def _operation(self, entry: Entry, operands: Sequence[Operand], inputs: Sequence[Value], layer: Described) -> Value:
        """Calls an operation as the layer that it is equivalent to."""
        found = as_layer(entry, operands, inputs, self._producer)
        class_name, config, inputs = found or (layer.class_name, layer.config, inputs)
        types = {self.types.get(value) for value in inputs} - {None}
        problem = ""
        if not found:
            problem = "an operation that can't be converted with such arguments"
        elif "Logical" in entry.class_name or "logical" in str(entry.config.get("function")):
            problem = "" if types == {"bool"} else "of numbers that are no masks"
        elif (
            types
            and class_name not in (*MOVING, "Cast", "NotEqual", "FullLike")
            and not (config.get("function") == "any" or "ivide" in entry.class_name)
        ):
            problem = "whole numbers, which Keras computes with in another way; cast them to float32 first"
        name = "preprocess_input" if class_name == "PreprocessInput" else layer.name
        layer = replace(layer.with_problem(problem), class_name=class_name, name=name, config=config)
        value = self.add(layer, inputs, True)
        if class_name in ("NotEqual", "FullLike") or config.get("function") == "any":
            self.types[value] = "bool"
        elif class_name == "Cast":
            if self.is_old and config["dtype"] == "float" and not types:
                self.hand_mask_on(inputs[0], value)
            self.types |= {value: "int"} if config["dtype"] == "int" else {}
        elif types and "ivide" not in entry.class_name:
            self.types[value] = types.pop() or ""
        return value

    def _in_time(self, wrapped: Entry, inputs: Sequence[Value], layer: Described) -> list[Value]:
        """Calls what a TimeDistributed wraps: the steps become samples, and steps again."""
        name = f"{layer.name}_steps"
        steps = self.add(Described("MergeTime", name, path=(*layer.path, name)), inputs[:1])
        inner = described(wrapped, "layer", self.keras_version, layer)
        own = None
        if inputs[0] in self.masks:
            own = self.masks[steps] = self.make_mask(layer, "MergeTime", {}, [self.masks[inputs[0]]])
        outputs = self.call(wrapped, [Operand(wrapped.name)], [steps], inner)
        problem = layer.problem
        if any(self.masks.get(output, own) != own for output in outputs):
            problem = "a mask of sequences of sequences can't be converted"
        values = []
        for output in outputs:
            split = Described("SplitTime", layer.name, path=layer.path, problem=problem)
            values.append(self.add(split, [output, inputs[0]]))
            self.hand_mask_on(inputs[0], values[-1])
        return values

    def _in_both_directions(
        self, entry: Entry, operands: Sequence[Operand], inputs: Sequence[Value], layer: Described
    ) -> list[Value]:
        """Calls the layer that a Bidirectional wraps forwards and backwards, and merges what they return."""
        assert entry.wrapped
        wrapped = described(entry.wrapped, "", self.keras_version, layer)
        other = described(entry.backward, "", self.keras_version, layer) if entry.backward else wrapped
        is_backwards = wrapped.config.get("go_backwards") is True
        is_sequence = wrapped.config.get("return_sequences") is True
        is_zeroed: dict[str, Any] = {}
        if not re.match(r"(1|2\.[0-3])\.(?!.*-tf)", self.keras_version):  # TensorFlow's Keras doesn't write it down
            is_zeroed = {"zero_output_for_mask": is_sequence}
        outputs: list[Value] = []
        for direction, one in (("forward", wrapped), ("backward", other)):
            name = f"{direction}_{wrapped.own_name.removeprefix('forward_')}"
            if is_zeroed.get("zero_output_for_mask") and one.config.get("unroll") and self.is_masked(operands, inputs):
                one = replace(one, problem="unrolled, masked and read in both directions, it can't be converted")
            is_second = direction == "backward"
            goes_back = is_backwards != is_second
            own = replace(
                one,
                name=name,
                config={**one.config, **is_zeroed, "go_backwards": goes_back},
                path=(*layer.path, name),
                place=f"{layer.place}/{direction}_layer",
            )
            value = self.add(own, self.inputs_of_layer(own, operands, inputs))
            if is_second and is_sequence:
                name = f"{name}_in_order"
                index = ["...", ["slice", None, None, -1], ["slice", None, None, None]]
                turned = Described("GetItem", name, {"index": index}, path=(*layer.path, name))
                value = self.add(turned, [value])
                self.hand_mask_on(inputs[0], value)
            outputs.append(value)
        modes = {"concat": "Concatenate", "sum": "Add", "ave": "Average", "mul": "Multiply"}
        mode = entry.config.get("merge_mode", "concat")
        if mode is None:
            return outputs
        problem = "" if isinstance(mode, str) and mode in modes else f"merge_mode={mode!r} is no such setting"
        merge = Described(modes.get(str(mode), "Add"), layer.name, path=layer.path, problem=layer.problem or problem)
        value = self.add(merge, outputs)
        if is_sequence:
            self.hand_mask_on(inputs[0], value)
        return [value]

    def _producer(self, value: Value) -> Call | None:
        return self.calls[value] if isinstance(value, int) else None


def _by_name(model: Entry, tensors: Sequence[Operand], inputs: Sequence[Value]) -> list[Value]:
    """Returns the inputs of a call by mapping in the model's order; [] for a call with a list."""
    given = {o.keyword: value for o, value in zip(tensors, inputs, strict=True) if o.keyword != "mask"}
    structure = model.ends.get("input")
    names = sorted(structure) if isinstance(structure, dict) else [end.layer for end in flattened(structure or [])]
    return [given[name] for name in names] if names and given.keys() == {*names} else []


def _custom(layer: Described, given: str | nn.Module | Callable[..., nn.Module]) -> Described:
    """Describes a custom layer, or a Lambda, by what the user has given for it."""
    if isinstance(given, str):
        class_name, config = named_function(given)
    elif isinstance(given, nn.Module):
        class_name, config = "Custom", {"module": copy.deepcopy(given)}
    else:
        arguments = {key: value for key, value in layer.config.items() if key not in ("name", "trainable", "dtype")}
        class_name, config = "Custom", {"module": given(**arguments)}
    return replace(layer, class_name=class_name, config=config, problem="")


def _value(found: Mapping[tuple[str, int, int], Value], operand: Operand, model: Entry) -> Value:
    value = found.get((str(operand.layer), operand.node, operand.tensor))
    if value is None:
        raise no_such_call(next(entry for entry in model.layers if entry.name == operand.layer), operand)
    return value


def described(entry: Entry, place: str, keras_version: str, outer: Described | None = None) -> Described:
    """Describes a layer in its place in a model; `outer` is that model as a layer, if it lies in another."""
    outer = outer or Described("", "")
    inherits = is_before_3(keras_version)
    own = entry.config.get("trainable", True) is not False
    return Described(
        ALIASES.get(entry.class_name, entry.class_name),
        entry.name,
        entry.config,
        own and (outer.trainable or not inherits),
        outer.comes_first and (own or (entry.class_name in MODELS and inherits == (not outer.path))),
        (*outer.path, entry.name),
        f"{outer.place}/{place}".lstrip("/"),
        _problem(entry) or outer.problem,
    )


def _problem(entry: Entry) -> str:
    if not entry.has_config:
        return "it has no configuration"
    if entry.is_custom and entry.class_name not in HUB_MODELS:
        return "a custom layer, whose code isn't in the file"
    if entry.in_training:
        return "called with training=True, which makes it work as in training"
    if (way := quantization(entry.config)) not in ("", "int8"):
        return f"quantized as {way}; only int8 can be converted"
    return ""
