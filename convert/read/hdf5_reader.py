"""Describes a Keras HDF5 file: `python -m torchvgg.convert.read.hdf5_reader PATH START LENGTH SPOOL SECONDS`.

`hdf5_process` runs it in a process of its own, with limits on memory and on processor time: SECONDS beyond what the start
took, and more for what is unpacked. It prints one JSON object: which arrays there are, their types and shapes, and where in
the file their numbers lie, for the caller to read them there. Compressed arrays are unpacked into a spool file.

Keras has three structures (learned from files that Keras wrote, and from its source):

- with `layer_names`: weights of Keras 1 and 2, and, under `/model_weights`, whole models of Keras 2 and 3. Each layer is a
  group whose attribute `weight_names` names its arrays, in order; a nested model is one group with all its arrays.
- without: `.weights.h5` of Keras 2 and 3. `/layers/<type>[_N]/vars/0, 1, …`, nested models alike; what is an attribute of
  another layer, or of a subclassed model, lies under the attribute's name.
- inside a `.keras`: such a `.weights.h5`.
"""

import io
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import h5py

from ..errors import FULL
from .hdf5_limits import MEMORY, GuardedFile, RefusedError, has, set_limit
from .strict_json import LONGEST_VERSION

MOST_NESTED = 40  # groups in groups
OF_TRAINING = ("metrics", "optimizer")  # groups of a compiled model whose arrays aren't weights


class Slice(io.RawIOBase):
    """Reads a part of a file as a file: the `.h5` in a `.keras`."""

    def __init__(self, stream: io.FileIO, start: int, length: int) -> None:
        self.stream, self.start, self.length, self.position = stream, start, length, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.length)[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        self.stream.seek(self.start + self.position)
        wanted = max(0, min(len(buffer), self.length - self.position))
        count = self.stream.readinto(buffer[:wanted])
        self.position += count
        return count


class Reader(GuardedFile):
    """Walks through Keras's structures."""

    def read(self) -> dict[str, Any]:
        weights = self.group(self.root, "model_weights") if has(self.root, "model_weights") else self.root
        version = self.text(self.root, "keras_version") or self.text(weights, "keras_version")
        if version and len(version) > LONGEST_VERSION:
            raise RefusedError(f"keras_version: none that Keras writes ({version[:20]!r}…)")
        backend = self.text(self.root, "backend") or self.text(weights, "backend")
        found: dict[str, Any] = {"config": self.text(self.root, "model_config"), "turned": backend == "theano"}
        if names := self.names(weights, "layer_names"):
            if len(set(names)) < len(names):
                raise RefusedError("layer_names: two layers of one name")
            found["layers"] = [self.named_layer(weights, name) for name in names]
            found["format"] = "weights .h5" if weights is self.root else "whole model .h5"
            if backend is None and (version or "1").startswith("1"):  # TensorFlow's variables are called `…:0`
                arrays = [array for _, own in found["layers"] for array in own]
                found["turned"] = bool(arrays) and not any(array[0].endswith(":0") for array in arrays)
            return found | {"version": version or "1", "is_named": True}
        layers = list(self.numbered_layers(self.root, 0))
        has_names = any(name for *_, name in layers)
        found["layers"] = [[place, arrays] for place, arrays, _ in layers]
        return found | {"format": ".weights.h5", "version": version or ("3" if has_names else "2"), "is_named": False}

    def named_layer(self, weights: h5py.Group, name: str) -> list[Any]:
        group = self.folder(weights, name.split("/"))
        if group is None:
            raise RefusedError(f"layer {name[:100]!r} is named, but has no group")
        names = self.names(group, "weight_names")
        if len(set(names)) < len(names):
            raise RefusedError(f"layer {name!r}: two arrays of one name, of which Keras has kept one")
        arrays = []
        for weight_name in names:
            *folders, last = weight_name.split("/")
            place = self.folder(group, folders)
            if place is None or not has(place, last):
                raise RefusedError(f"layer {name!r}: the array {weight_name[:100]!r} is named, but isn't there")
            arrays.append(self.array(place, last, weight_name))
        return [name, arrays]

    def numbered_layers(self, model: h5py.Group, depth: int) -> Iterator[tuple[str, list[Any], bool]]:
        if depth > MOST_NESTED:
            raise RefusedError(f"{model.name}: models nested deeper than {MOST_NESTED}, or in themselves")
        if has(model, "vars"):
            variables = self.group(model, "vars")
            keys = self.members(variables)
            numbers = [str(number) for number in range(len(keys))]
            if set(keys) != set(numbers):
                raise RefusedError(f"{variables.name}: expected arrays 0, 1, … Received: {keys[:3]}")
            place = model.name[1:]
            arrays = [self.array(variables, n, f"{place}/vars/{n}".lstrip("/")) for n in numbers]
            yield place, arrays, "name" in variables.attrs
        for key in sorted(self.members(model), key=natural):
            if key != "vars" and not (depth == 0 and key in OF_TRAINING):
                found = self.member(model, key)
                if not isinstance(found, h5py.Group):
                    raise RefusedError(f"an HDF5 file without Keras layers, or with an array beside them: {key[:50]!r}")
                yield from self.numbered_layers(found, depth + 1)


def natural(key: str) -> tuple[list[str | int], int]:
    """Sorts `conv2d_2` before `conv2d_10`, and `conv2d` before both; `conv9` before `conv10`."""
    match = re.fullmatch(r"(.*?)(?:_([0-9]{1,9}))?", key, re.DOTALL)
    stem, number = match.groups() if match else (key, None)
    parts: list[str | int] = [*re.split("([0-9]{1,9})", stem)]
    parts[1::2] = map(int, parts[1::2])
    return parts, int(number or 0)


def main(path: str, start: int, length: int, spool: str, seconds: float) -> dict[str, Any]:
    """Describes the HDF5 file at `path`, from `start` and of `length`; or returns `{"error": reason}`, or `{"full": errno}`."""
    deadline = time.process_time() + seconds
    set_limit("RLIMIT_CPU", deadline)
    try:
        with (
            open(path, "rb", buffering=0) as stream,
            open(spool, "wb") as packed,
            h5py.File(Slice(stream, start, length), "r") as root,
        ):
            return Reader(root, start, length, packed, deadline).read()
    except RefusedError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "a damaged HDF5 file, or one that asks for more memory than there is"}
    except Exception as error:
        if not is_raised_by_h5py(error):
            if isinstance(error, OSError) and error.errno in FULL:  # no room for the spool file
                return {"full": error.errno}
            raise
        return {"error": f"a damaged or incomplete HDF5 file ({' '.join(str(error).split())[:200]})"}


def is_raised_by_h5py(error: Exception) -> bool:
    """Tells whether an error comes from within h5py, which raises any type for a damaged file; others are our mistakes."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith("h5py") for frame, _ in frames)


if __name__ == "__main__":
    set_limit("RLIMIT_AS", MEMORY)
    set_limit("RLIMIT_CORE", 0)
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))))
