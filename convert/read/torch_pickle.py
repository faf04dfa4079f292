"""An interpreter for the pickles that `torch.save` writes: which tensors there are, and where in which storage each lies.

It calls no function: tensors are only described. Python's own unpickler, and PyTorch's, allocate what a pickle asks for,
and hash its keys, which may take forever.
"""

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

_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # of items; TUPLE and so on use the mark
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_DAMAGED, _NO_DICT = "a damaged pickle", "a pickle that isn't a dict of tensors"


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


class _Stack(list[Any]):
    """The stack of the interpreter. A ValueError tells of a pickle that takes what it hasn't put there."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[int] = []

    def take(self, count: int | None) -> list[Any]:
        """Takes so many of the items after the last mark; or all of them, and the mark."""
        if count is None and not self.marks:
            raise ValueError(_DAMAGED)
        start = self.marks.pop() if count is None else len(self) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError(_DAMAGED)
        items = self[start:]
        del self[start:]
        return items

    def top(self, kind: type, otherwise: str = _NO_DICT) -> Any:
        """Returns the last item, which has to be of that type."""
        if not self:
            raise ValueError(_DAMAGED)
        if not isinstance(self[-1], kind):
            raise ValueError(otherwise)
        return self[-1]


def read_pickle(content: bytes) -> dict[str, TensorEntry]:
    """Interprets a pickled dict of tensors. A ValueError tells of one that is damaged, or names or holds anything else."""
    stack = _Stack()
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" if argument not in (2, 3):
                raise ValueError(f"a pickle of protocol {argument}; torch.save writes protocol 2")
            case "PROTO" | "STOP":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[opcode.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_EMPTY[opcode.name]())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack.top(object)
            case "BINGET" | "LONG_BINGET":
                if argument not in memo:
                    raise ValueError(_DAMAGED)
                stack.append(memo[argument])
            case "MARK":
                stack.marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(stack.take(_COUNTS.get(opcode.name))))
            case "APPEND" | "APPENDS":
                items = stack.take(_COUNTS.get(opcode.name))
                stack.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = stack.take(_COUNTS.get(opcode.name))
                if len(items) % 2 or not all(isinstance(key, str | int) for key in items[::2]):
                    raise ValueError(_NO_DICT)
                stack.top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if argument not in (_DICT, _TENSOR, _PARAMETER, *_DTYPES):
                    raise ValueError(f"a pickle that names {str(argument).replace(' ', '.')}, which isn't run")
                stack.append(argument)
            case "BINPERSID":
                stack.append(_describe_storage(*stack.take(1)))
            case "REDUCE":
                stack.append(_describe(*stack.take(2)))
            case "BUILD":
                stack.take(1)  # what a state_dict notes of its modules' versions
                stack.top(dict, "a pickle with a tensor that has a state of its own")
            case name:
                raise ValueError(f"a pickle with {name}, which isn't run")
    found: dict[str, TensorEntry] = stack.top(dict)
    if not all(isinstance(key, str) and isinstance(value, TensorEntry) for key, value in found.items()):
        raise ValueError(_NO_DICT)
    return found


def _describe_storage(saved: object) -> StorageEntry:
    match saved:
        case ("storage", str(kind), str(key), _, int(length)) if kind in _DTYPES:
            return StorageEntry(key, _DTYPES[kind], length)
    raise ValueError("a pickle with a storage that torch.save doesn't write")


def _describe(called: object, arguments: object) -> dict[str, Any] | TensorEntry:
    """Describes what a call in a pickle would make: an empty dict, a tensor, or a parameter, which is read as its tensor."""
    match called, arguments:
        case (str(name), ()) if name == _DICT:
            return {}
        case (str(name), (StorageEntry() as storage, int(offset), tuple(size), tuple(stride), _, _, *metadata)) if (
            name == _TENSOR
            and len(size) == len(stride)
            and all(type(number) is int for number in (offset, *size, *stride))
            and not any(metadata)  # which says that the numbers are to be negated
        ):
            return TensorEntry(storage, offset, size, stride)
        case (str(name), (TensorEntry() as tensor, _, _)) if name == _PARAMETER:
            return tensor
    raise ValueError("a pickle with a tensor that torch.save doesn't write, or a negated or conjugated one")
