"""An interpreter for the pickles that `torch.save` writes: which tensors there are, and where in which storage each lies.

It imports and calls nothing: tensors are only described, and what else a checkpoint names is only noted. Python's own unpickler,
and PyTorch's, allocate what a pickle asks for, and hash its keys, which may take forever.
"""

import io
import pickletools
import sys
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
_OLD_TENSOR = "torch._utils _rebuild_tensor"  # before PyTorch 0.4
_PARAMETER = "torch._utils _rebuild_parameter"
_COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # of items; TUPLE and so on use the mark
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_DAMAGED, _NO_DICT = "a damaged pickle", "a pickle that isn't a dict of tensors"
_MODEL_IN_CHECKPOINT = ("state_dict", "model_state_dict", "model")  # under which a checkpoint has the model's tensors
_MOST_AXES = 64  # PyTorch's own limit
_MAGIC = 0x1950A86A20F9469CFC6C  # of files from before PyTorch 1.6


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


class Unrun(NamedTuple):
    """What a pickle names and isn't run, a class or a function, or what a call of it would make."""

    name: str


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

    def top(self, kind: type | tuple[type, ...], otherwise: str = _NO_DICT) -> Any:
        """Returns the last item, which has to be of that type."""
        if not self:
            raise ValueError(_DAMAGED)
        if not isinstance(self[-1], kind):
            raise ValueError(otherwise)
        return self[-1]


def read_pickle(content: bytes) -> dict[str, TensorEntry]:
    """Interprets a pickled dict of tensors, or a checkpoint with one.

    A ValueError tells of one that is damaged, or of a dict that holds anything else.
    """
    return _state_dict(_interpret(io.BytesIO(content), {}))


def read_old_pickles(content: bytes) -> tuple[dict[str, TensorEntry], list[StorageEntry], int]:
    """Interprets what PyTorch before 1.6 wrote in front of the numbers: five pickles.

    Returns:
        The tensors, as `read_pickle` does; the storages in order; and where they begin.
    """
    stream, storages = io.BytesIO(content), dict[str, StorageEntry]()
    magic, _, system, found, keys = (_interpret(stream, storages) for _ in range(5))
    match magic, system, keys:
        case (number, {"little_endian": little}, [*_]) if number == _MAGIC and all(
            isinstance(key, str) and key in storages for key in keys
        ):
            if little != (sys.byteorder == "little"):
                raise ValueError("its numbers have another order of bytes; torch.load it and torch.save it again")
            return _state_dict(found), [storages[key] for key in keys], stream.tell()
    raise ValueError(_DAMAGED)


def _state_dict(found: Any) -> dict[str, TensorEntry]:
    """Returns the dict of tensors that was found, or the one in a checkpoint. Raises a ValueError if there is none."""
    for key in _MODEL_IN_CHECKPOINT:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    for value in found.values() if isinstance(found, dict) else [found]:
        if isinstance(value, Unrun):
            raise _unrun(value)
    if not isinstance(found, dict):
        raise ValueError(_NO_DICT)
    if others := [key for key, value in found.items() if not (isinstance(key, str) and isinstance(value, TensorEntry))]:
        raise ValueError(
            f"{_NO_DICT}, nor has one as {', '.join(_MODEL_IN_CHECKPOINT)} ({str(others[0])[:50]!r} is no tensor)"
        )
    return found


def _unrun(value: Unrun) -> ValueError:
    return ValueError(
        f"a pickle that names {value.name}, which isn't run; torch.save(model.state_dict(), path) names nothing"
    )


def _interpret(stream: io.BytesIO, storages: dict[str, StorageEntry]) -> Any:
    """Interprets a pickle up to its end, and notes the storages in it by their keys."""
    stack = _Stack()
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" if argument not in (2, 3):
                raise ValueError(f"a pickle of protocol {argument}; torch.save writes protocol 2")
            case "PROTO" | "STOP":
                pass
            case (
                "BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
            ):
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
                if isinstance(target := stack.top((list, Unrun)), list):
                    target.extend(items)
            case "SETITEM" | "SETITEMS":
                items = stack.take(_COUNTS.get(opcode.name))
                if len(items) % 2 or not all(isinstance(key, str | int) for key in items[::2]):
                    raise ValueError(_NO_DICT)
                if isinstance(target := stack.top((dict, Unrun)), dict):
                    target.update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                is_known = argument in (_DICT, _TENSOR, _OLD_TENSOR, _PARAMETER, *_DTYPES)
                stack.append(argument if is_known else Unrun(str(argument).replace(" ", ".")))
            case "BINPERSID":
                stack.append(storage := _describe_storage(*stack.take(1)))
                storages[storage.key] = storage
            case "REDUCE" | "NEWOBJ":
                stack.append(_describe(*stack.take(2)))
            case "BUILD":
                stack.take(1)  # what a state_dict notes of its modules' versions
                stack.top((dict, Unrun), "a pickle with a tensor that has a state of its own")
            case name:
                raise ValueError(f"a pickle with {name}, which isn't run")
    return stack.top(object)


def _describe_storage(saved: object) -> StorageEntry:
    match saved:
        case ("storage", str(kind), str(key), _, int(length), *view) if kind in _DTYPES and view in ([], [None]):
            return StorageEntry(key, _DTYPES[kind], length)
        case ("storage", Unrun("torch.storage.UntypedStorage"), *_):
            raise ValueError("a pickle with numbers such as float8 or uint16, which aren't read; save tensor.float()")
        case ("storage", Unrun() as kind, *_):
            raise _unrun(kind)
    raise ValueError("a pickle with a storage that torch.save doesn't write")


def _describe(called: Any, arguments: Any) -> dict[str, Any] | TensorEntry | Unrun:
    """Describes what a call in a pickle would make: a dict, a tensor, or a parameter, which is read as its tensor."""
    match called, arguments:
        case Unrun(), _:
            return called
        case (str(name), ()) if name == _DICT:
            return {}
        case (str(name), (list() as pairs,)) if name == _DICT and all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
        ):
            found = dict(pairs)  # as Python 2 pickles it
            pairs.clear()  # another call may name them again, and again
            return found
        case (str(name), (StorageEntry() as storage, int(offset), tuple(size), tuple(stride), *others)) if (
            ((name == _TENSOR and len(others) >= 2) or (name == _OLD_TENSOR and not others))
            and len(size) == len(stride) <= _MOST_AXES
            and all(type(number) is int for number in (offset, *size, *stride))
            and not any(others[2:])  # which says that the numbers are to be negated
        ):
            return TensorEntry(storage, offset, size, stride)
        case (str(), (Unrun() as storage, *_)):
            raise _unrun(storage)
        case (str(name), (TensorEntry() as tensor, _, _)) if name == _PARAMETER:
            return tensor
    raise ValueError("a pickle with a tensor that torch.save doesn't write, or a negated or conjugated one")
