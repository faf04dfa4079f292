"""The pickle in a file that PyTorch wrote: which tensors there are, and where in which storage each of them lies."""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

import torch

_DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
}


_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class StorageEntry(NamedTuple):
    """What a pickle says of a storage; `length` counts numbers."""

    key: str
    dtype: torch.dtype
    length: int


class TensorEntry(NamedTuple):
    """What a pickle says of a tensor."""

    storage: StorageEntry
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(content: bytes) -> dict[str, TensorEntry]:
    """Runs the opcodes that a pickled dict of tensors consists of. No function is called: tensors are only described.

    Python's own unpickler, and PyTorch's, allocate what a pickle asks for, and hash its keys, which may take forever.

    Raises:
        ValueError: it isn't a dict of tensors, or names anything else. A damaged pickle leads to other errors too.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop_from_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO":
                if argument not in (2, 3):
                    raise ValueError(f"a pickle of protocol {argument}; torch.save writes protocol 2")
            case "STOP":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[opcode.name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_from_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                items = pop_from_mark()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = pop_from_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if not all(isinstance(key, str | int) for key in items[::2]):
                    raise ValueError("a pickle that isn't a dict of tensors")
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if argument not in (_DICT, _TENSOR, _PARAMETER, *_DTYPES):
                    raise ValueError(f"a pickle that names {str(argument).replace(' ', '.')}, which isn't run")
                stack.append(argument)
            case "BINPERSID":
                stack.append(_describe_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_describe(stack.pop(), arguments))
            case "BUILD":
                stack.pop()  # what a state_dict notes of its modules' versions
                if not isinstance(stack[-1], dict):
                    raise ValueError("a pickle with a tensor that has a state of its own")
            case name:
                raise ValueError(f"a pickle with {name}, which isn't run")
    found = stack.pop()
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, TensorEntry) for key, value in found.items()
    ):
        raise ValueError("a pickle that isn't a dict of tensors")
    return found


def _describe_storage(saved: object) -> StorageEntry:
    match saved:
        case ("storage", str(kind), str(key), _, int(length)) if kind in _DTYPES:
            return StorageEntry(key, _DTYPES[kind], length)
    raise ValueError("a pickle with a storage that torch.save doesn't write")


def _describe(called: object, arguments: object) -> dict[str, Any] | TensorEntry:
    """What a pickle rebuilds: an empty dict, a tensor, or a parameter, which is read as its tensor."""
    match called, arguments:
        case (str(name), ()) if name == _DICT:
            return {}
        case (str(name), (StorageEntry() as storage, int(offset), tuple(size), tuple(stride), _, _, *metadata)) if (
            name == _TENSOR and not any(metadata)  # which says that the numbers are to be negated
        ):
            return TensorEntry(storage, offset, size, stride)
        case (str(name), (TensorEntry() as tensor, _, _)) if name == _PARAMETER:
            return tensor
    raise ValueError("a pickle with a tensor that torch.save doesn't write, or a negated or conjugated one")
