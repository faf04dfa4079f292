"""The JSON of a model's architecture → `Entry`: its layers, with what feeds each of them.

Keras writes a Sequential as a list, a Functional as a graph: each layer with its calls (`inbound_nodes`, in a form of their own
in Keras 2 and 3). The JSON is validated here, as data; nothing that it names is imported, and no code in it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from .keras_hub import HUB_MODELS, check_backbones, hub_config

MODELS = ("Sequential", "Functional", "Model", *HUB_MODELS)
MOST_LAYERS = 1000
MOST_NESTED = 40  # models in models, and lists in a call
LONGEST_NAME = 1000


@dataclass(frozen=True)
class Operand:
    """One argument of a call: the output of a layer, given by its name, or a constant.

    `node` and `tensor` say which call of the layer it is, and which of that call's outputs; `keyword` is the argument's name, or
    the key of a mapping that it lies in.
    """

    layer: str | None
    constant: Any = None
    node: int = 0
    tensor: int = 0
    keyword: str | None = None


@dataclass(frozen=True)
class Entry:
    """A layer, an operation, or a model, as an architecture has it.

    Attributes:
        class_name: Keras's class.
        name: Keras 3.3 to 3.10 leave it out of an operation's configuration; it stands beside it.
        config: the configuration; empty where there is none, or where it is the list of an old Sequential.
        calls: the operands of each call.
        layers: those of a model, in the file's order.
        ends: of a Functional model, the "input" and "output" layers, in Keras's structure: an operand, or lists or mappings of them.
        wrapped: the layer or model that a wrapper (TimeDistributed, say) applies.
        backward: the layer that a Bidirectional applies backwards, where the file has it.
        has_config: whether there is a configuration.
        is_custom: whether its class isn't one of Keras's.
        is_keras_3: whether its calls are as Keras 3 writes them.
        in_training: whether a call fixes `training=True`. (Keras 3 doesn't heed that on loading.)
    """

    class_name: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    calls: list[list[Operand]] = field(default_factory=list)
    layers: list[Entry] = field(default_factory=list)
    ends: Mapping[str, Any] = field(default_factory=dict)
    wrapped: Entry | None = None
    backward: Entry | None = None
    has_config: bool = True
    is_custom: bool = False
    is_keras_3: bool = False
    in_training: bool = False

    @property
    def inputs(self) -> list[Operand]:
        """The outputs of other layers that feed this one, in all its calls."""
        return [operand for call in self.calls for operand in call if operand.layer is not None]


def read_entry(found: Any, depth: int = 0, place: int = 0) -> Entry:
    """Reads a layer or a model, with all that lies in it; one without a name is called by its class, and its place in its model.

    Raises a ValueError if it isn't as Keras writes it, or larger than a network is.
    """
    if depth > MOST_NESTED:
        raise ValueError(f"models nested deeper than {MOST_NESTED}")
    if not depth:
        check_backbones(found)
    if not isinstance(found, Mapping) or not isinstance(found.get("class_name"), str) or "config" not in found:
        raise _malformed("a layer, with its class_name and config", found)
    package, _, class_name = found["class_name"].rpartition(">")  # `Custom>Mine`: registered by the user
    config = found["config"]
    in_config = config if isinstance(config, Mapping) else {}
    if class_name in HUB_MODELS and "layers" not in in_config:
        config = in_config = hub_config(class_name, in_config)
    default_name = f"{class_name.lower()}_{place}" if place else class_name.lower()
    name = next((own for own in (found.get("name"), in_config.get("name")) if own is not None), default_name)
    if not isinstance(name, str) or len(name) > LONGEST_NAME or len(class_name) > LONGEST_NAME:
        raise _malformed("the name of a layer", name)
    nodes = found.get("inbound_nodes") or []
    if not isinstance(nodes, list):
        raise _malformed(f"the calls of {name!r}, inbound_nodes", nodes)
    layers = config if isinstance(config, list) else in_config.get("layers")  # a list: a Sequential, before Keras 2.2.3
    is_model = class_name in MODELS or isinstance(layers, list)
    if is_model and not isinstance(layers, list):
        raise _malformed(f"the layers of {name!r}", layers)
    wrapped, backward = (
        read_entry(layer, depth + 1) if isinstance(layer, Mapping) and "class_name" in layer else None
        for layer in map(in_config.get, ("layer", "backward_layer"))
    )
    entry = Entry(
        class_name,
        name,
        in_config,
        [list(_operands_of_call(node, 0)) for node in nodes],
        [
            read_entry(layer, depth + 1, number)
            for number, layer in enumerate(counted(layers) if isinstance(layers, list) else [])
        ],
        {way: _structure(in_config[f"{way}_layers"]) for way in ("input", "output") if f"{way}_layers" in in_config},
        wrapped,
        backward,
        isinstance(config, Mapping) or is_model,
        bool(package or found.get("registered_name") or "module" in found)
        and not f"{found.get('module')}.".startswith(("keras.", "tf_keras.")),
        any(isinstance(node, Mapping) and "args" in node for node in nodes),
        any(map(_is_in_training, nodes)),
    )
    _check_references(entry)
    return entry


def _malformed(expected: str, received: Any) -> ValueError:
    return ValueError(f"a configuration that Keras doesn't write: expected {expected}. Received: {received!r:.100}")


def _check_references(model: Entry) -> None:
    """Raises a ValueError if a model's graph has a name twice, or names a layer that isn't there."""
    names = {layer.name for layer in model.layers}
    if len(names) < len(model.layers):
        raise ValueError(f"{model.name}: two layers of one name")
    for operand in chain(*map(flattened, model.ends.values()), *(layer.inputs for layer in model.layers)):
        if operand.layer not in names:
            raise _malformed(f"a layer of {model.name!r}", operand.layer)


def counted(layers: list[Any]) -> list[Any]:
    """Raises a ValueError if there are more layers than a network has: some work takes the square of their number."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers):,} layers; a network of up to {MOST_LAYERS:,} can be converted")
    return layers


def _operands_of_call(node: Any, depth: int) -> Iterator[Operand]:
    match node:
        case {"args": list(arguments), "kwargs": dict(keywords)}:  # Keras 3
            yield from chain.from_iterable(_operands(value, depth) for value in arguments)
            yield from chain.from_iterable(_operands(value, depth, key) for key, value in keywords.items())
        case dict() if "args" not in node:  # Keras 2, of a layer that takes a mapping of tensors
            yield from chain.from_iterable(_operands(value, depth, key) for key, value in node.items())
        case [list(), *_] if depth < MOST_NESTED:  # Keras 2: [["layer", 0, 0, {...}], ...], one for each tensor
            yield from chain.from_iterable(_operands_of_call(tensor, depth + 1) for tensor in node)
        case [str(layer), int(number), int(tensor), *rest] | ["_CONSTANT_VALUE" as layer, number, tensor, *rest]:
            yield Operand(None, tensor) if layer == "_CONSTANT_VALUE" else Operand(layer, None, number, tensor)
            # The other arguments of a function, `{"y": …}`.
            for key, value in rest[0].items() if rest and isinstance(rest[0], Mapping) else ():
                if key not in ("name", "training"):
                    yield from _operands(value, depth, key)
        case []:
            pass
        case _:
            raise _malformed("the call of a layer", node)


def _operands(value: Any, depth: int, keyword: str | None = None) -> Iterator[Operand]:
    """Yields what an argument consists of: tensors, alone, in a list or in a mapping, or a constant."""
    match value:
        case {"class_name": "__keras_tensor__", "config": {"keras_history": [str(layer), int(node), int(tensor)]}}:
            yield Operand(layer, None, node, tensor, keyword)
        case [str(layer), int(node), int(tensor), *_]:
            yield Operand(layer, None, node, tensor, keyword)
        case list() if _holds_tensors(value) and depth < MOST_NESTED:
            yield from chain.from_iterable(_operands(item, depth + 1, keyword) for item in value)
        case dict() if _holds_tensors(list(value.values())) and depth < MOST_NESTED:
            yield from chain.from_iterable(_operands(item, depth + 1, key) for key, item in value.items())
        case _:
            yield Operand(None, value, keyword=keyword)


def _holds_tensors(values: list[Any]) -> bool:
    """Tells tensors, or lists of them, from constants, as the index of `x[..., i]`."""
    for value in values:
        match value:
            case {"class_name": "__keras_tensor__"} | [str(), int(), int(), *_]:
                return True
            case list() if _holds_tensors(value):
                return True
    return False


def _is_in_training(node: Any) -> bool:
    """Tells whether a call of Keras 2's, `[["layer", 0, 0, {"training": true}]]`, fixes that."""
    return isinstance(node, list) and any(
        isinstance(part, list) and len(part) > 3 and isinstance(part[3], Mapping) and part[3].get("training") is True
        for part in (node, *node)
    )


def _structure(ends: Any, depth: int = 0) -> Any:
    """Reads `["dense", 0, 0]`, or lists of or mappings to such; a list of one, as older versions write, is that one."""
    match ends:
        case [str(layer), int(node), int(tensor)]:
            return Operand(layer, None, node, tensor)
        case [alone] if not depth:
            return _structure(alone, 1)
        case list() if depth < MOST_NESTED:
            return [_structure(end, depth + 1) for end in ends]
        case dict() if depth < MOST_NESTED and all(isinstance(key, str) for key in ends):
            return {key: _structure(end, depth + 1) for key, end in ends.items()}
    raise _malformed("the ends of a model", ends)


def flattened(structure: Any) -> list[Any]:
    """Lists what a structure of lists and mappings holds, as Keras does: mappings by their sorted keys."""
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in flattened(structure[key])]
    return [leaf for part in structure for leaf in flattened(part)] if isinstance(structure, list) else [structure]


def is_structure(found: Any, depth: int = 0) -> bool:
    """Tells whether something consists of strings, in lists and mappings of them."""
    parts = found.values() if isinstance(found, dict) else found
    if not isinstance(found, dict | list):
        return isinstance(found, str)
    return depth < MOST_NESTED and bool(parts) and all(is_structure(part, depth + 1) for part in parts)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """Applies a function to each leaf of a structure of lists and mappings."""
    if isinstance(structure, dict):
        return {key: mapped(function, part) for key, part in structure.items()}
    return [mapped(function, part) for part in structure] if isinstance(structure, list) else function(structure)
