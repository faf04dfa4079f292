"""ONNX files: the nodes of the graph, the numbers that they use, and the graph's inputs and outputs. No operator is understood here."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..errors import naming_file
from .keras_file import tensor_of
from .protobuf import Message, signed, varints

MOST_PARTS = 10_000  # nodes, or tensors
LONGEST_NAME = 1000
MOST_AXES = 8
LONGEST_LIST = 1 << 20  # bytes

_MODEL_GRAPH, _MODEL_OPERATORS = 7, 8  # the numbers of the fields that are read, as onnx.proto has them
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_DIMS, _TYPE, _FLOATS, _INT32S, _INT64S, _NAME, _RAW, _DOUBLES, _LOCATION = 1, 2, 4, 5, 7, 8, 9, 10, 14
# NumPy's types by data_type; 16 is bfloat16.
_KINDS = {1: "<f4", 2: "u1", 3: "i1", 5: "<i2", 6: "<i4", 7: "<i8", 9: "u1", 10: "<f2", 11: "<f8", 16: "V2"}
_UNPACKED = {1: _FLOATS, 11: _DOUBLES, 7: _INT64S}  # where the numbers are if not raw, else in int32_data


@dataclass(frozen=True)
class OnnxNode:
    """One call of an operator: what goes in and comes out by name, and its attributes, numbers, texts, tensors or lists of numbers."""

    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class OnnxFile(NamedTuple):
    """The graph of an ONNX file. Tensors are mapped from the file; those of types that no weight has are left out.

    Attributes:
        version: of the operators.
        nodes: each after those that feed it.
        tensors: by name.
        inputs: the shape of each, None for an open size, except for those with a tensor.
        outputs: their names.
    """

    version: int
    nodes: list[OnnxNode]
    tensors: dict[str, Tensor]
    inputs: dict[str, list[int | None]]
    outputs: list[str]


def read_onnx_file(path: Path) -> OnnxFile:
    """Reads an ONNX file. A ValueError tells of one that is damaged, or has its numbers elsewhere."""
    with naming_file(path):
        model = _Message(np.memmap(path, "u1", "c").data)
        operators = [_Message(each) for each in model.views(_MODEL_OPERATORS)]
        versions = [each.number(2) for each in operators if each.text(1) in ("", "ai.onnx")]
        graph = _Message(model.view(_MODEL_GRAPH))
        tensors = dict(_read_tensor(_Message(each)) for each in graph.parts(_GRAPH_TENSOR))
        inputs = dict(_read_input(_Message(each)) for each in graph.parts(_GRAPH_INPUT))
        return OnnxFile(
            max(versions, default=1),
            [_read_node(_Message(each)) for each in graph.parts(_GRAPH_NODE)],
            {name: tensor for name, tensor in tensors.items() if tensor is not None},
            {name: shape for name, shape in inputs.items() if name not in tensors},  # up to version 3 all were inputs
            [_Message(each).text(1) for each in graph.parts(_GRAPH_OUTPUT)],
        )


class _Message(Message):
    """A message whose lists and texts are no longer than a network's."""

    def parts(self, number: int) -> list[memoryview]:
        if len(self._found[number]) > MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS:,} nodes or tensors; no VGG has so many")
        return self.views(number)

    def text(self, number: int) -> str:
        return _text(self.view(number))

    def numbers(self, number: int) -> list[int]:
        """Reads whole numbers, packed or not; a kernel's are raw instead, as these take much memory."""
        found: list[int] = []
        for value in self._found[number]:
            if isinstance(value, memoryview) and len(value) > LONGEST_LIST:
                raise ValueError(
                    "a tensor of whole numbers that isn't raw_data; onnx.numpy_helper.from_array makes it so"
                )
            found += varints(value) if isinstance(value, memoryview) else [value]
        return [signed(value) for value in found]

    def has(self, number: int) -> bool:
        return bool(self._found[number])


def _text(view: memoryview) -> str:
    if len(view) > LONGEST_NAME:
        raise ValueError("a damaged ONNX file; download it again, or make it again")
    return bytes(view).decode(errors="replace")


def _read_input(message: _Message) -> tuple[str, list[int | None]]:
    tensor_type = _Message(_Message(message.view(2)).view(1))
    sizes = [_Message(each).number(1) for each in _Message(tensor_type.view(2)).parts(1)]
    return message.text(1), [size if size > 0 else None for size in sizes]


def _read_node(message: _Message) -> OnnxNode:
    inputs, outputs = ([_text(each) for each in message.parts(number)] for number in (1, 2))
    attributes = dict(_read_attribute(_Message(each)) for each in message.parts(5))
    domain = message.text(7)
    operator = f"{domain}.{message.text(4)}" if domain not in ("", "ai.onnx") else message.text(4)
    return OnnxNode(operator, message.text(3), inputs, outputs, attributes)


def _read_attribute(message: _Message) -> tuple[str, Any]:
    """Reads a float, an int, a text, a tensor or ints; others, as graphs, are None."""
    values: dict[int, Any] = {
        1: lambda: _float(message.number(2)),
        2: lambda: message.number(3),
        3: lambda: _text(message.view(4)),
        4: lambda: _read_tensor(_Message(message.view(5)))[1],
        7: lambda: message.numbers(8),
    }
    return message.text(1), values.get(message.number(20), lambda: None)()


def _float(bits: int) -> float:
    """Reads a float32 as the shortest number that rounds to it, 0.3 and not 0.30000001192092896."""
    return float(str(np.uint32(bits & 0xFFFFFFFF).view(np.float32)))


def _read_tensor(message: _Message) -> tuple[str, Tensor | None]:
    """Returns a tensor with its name, or None for one of a type that isn't read."""
    name, kind = message.text(_NAME), message.number(_TYPE)
    if message.number(_LOCATION):
        raise ValueError(
            f"{name}: its numbers are in another file; put them into one, "
            "onnx.save(onnx.load('x.onnx'), 'whole.onnx'), or torch.onnx.export(…, external_data=False)"
        )
    if kind not in _KINDS:
        return name, None
    stored, shape = np.dtype(_KINDS[kind]), message.numbers(_DIMS)
    size = math.prod(shape)
    if len(shape) > MOST_AXES or min(shape, default=1) < 0:
        raise ValueError(f"{name}: a tensor of shape {shape[:MOST_AXES]}")
    if message.has(_RAW) or kind in (1, 11):
        content = message.view(_RAW if message.has(_RAW) else _UNPACKED[kind])
        if len(content) != size * stored.itemsize:
            raise ValueError(f"{name}: {size:,} numbers are declared, and {len(content):,} bytes stored")
        numbers = np.frombuffer(content, stored) if size else np.empty(0, stored)
    else:
        packed = message.numbers(_UNPACKED.get(kind, _INT32S))
        if len(packed) != size:
            raise ValueError(f"{name}: {size:,} numbers are declared, and {len(packed):,} stored")
        whole = np.array(packed, np.int64)
        numbers = whole.astype("<u2").view(stored) if kind in (10, 16) else whole.astype(stored)
    return name, tensor_of(numbers.reshape(shape if size else -1))
