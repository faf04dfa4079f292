"""A network → PyTorch weights as a file: a `.safetensors` with its metadata, or a pickled dict of tensors.

The arrays go from file to file in parts, so that little of them is in memory at a time.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..network.network import Network
from .naming_schemes import to_house

# The types' names in a .safetensors (huggingface.co/docs/safetensors, "Format").
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
}


def write_safetensors(
    network: Network, path: Path, layout: str, dtype: str, metadata: Mapping[str, str], md5: Callable[[], str]
) -> None:
    """Writes a `.safetensors`: the header's length in 8 bytes, the header as JSON, the tensors one after the other.

    Args:
        network: what is written.
        path: the file.
        layout: the house whose names and shapes the tensors get.
        dtype: of the numbers; whole ones stay whole.
        metadata: strings that the header carries.
        md5: waits for the MD5 of the source, which the header carries too.
    """
    forms = _forms(network, dtype)

    def header(digest: str) -> bytes:
        fields: dict[str, object] = {"__metadata__": {**metadata, "source_md5": digest}}
        start = 0
        for key, form in to_house(forms, network, layout).items():
            end = start + form.nbytes
            fields[key] = {"dtype": _NAMES[form.dtype], "shape": list(form.shape), "data_offsets": [start, end]}
            start = end
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    with open(path, "wb") as stream:
        stream.seek(len(header("0" * 32)))
        with _one_thread():  # the MD5, which takes longer than all the rest, has a core to itself
            _write_numbers(network, forms, stream)
        stream.seek(0)
        stream.write(header(md5()))


def write_pickle(network: Network, path: Path, layout: str, dtype: str) -> None:
    """Writes a dict of tensors as `torch.save` does."""
    tensors = tensors_on_disk(network, path.with_name("numbers"), dtype)
    torch.save(to_house(tensors, network, layout), path)


def tensors_on_disk(network: Network, path: Path, dtype: str) -> dict[str, Tensor]:
    """The network's tensors, mapped from a file that is made for them."""
    forms = _forms(network, dtype)
    with open(path, "wb+") as stream:
        _write_numbers(network, forms, stream)
        stream.flush()
        size = stream.tell()
        memory = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) if size else b""
    tensors, start = {}, 0
    for key, form in forms.items():
        numbers = torch.empty(0, dtype=form.dtype)
        if form.numel():
            numbers = torch.frombuffer(memory, dtype=form.dtype, count=form.numel(), offset=start)
        tensors[key] = numbers.view(form.shape)
        start += form.nbytes
    return tensors


def _forms(network: Network, dtype: str) -> dict[str, Tensor]:
    """The tensors without their numbers, in the order of the file: larger types first, so that all are aligned."""
    forms = {}
    for key, weight in network.weights():
        own = weight.array.dtype
        wanted = getattr(torch, dtype) if own.is_floating_point else own
        forms[key] = torch.empty(weight.shape, dtype=wanted, device="meta")
    return dict(sorted(forms.items(), key=lambda item: -item[1].element_size()))


def _write_numbers(network: Network, forms: Mapping[str, Tensor], stream: IO[bytes]) -> None:
    weights = dict(network.weights())
    memory = torch.empty(0, dtype=torch.uint8)  # the same for all: fresh memory costs as much as the work in it
    for key, form in forms.items():
        for units in weights[key].parts():
            part = form[units]
            if len(memory) < part.nbytes:
                memory = torch.empty(part.nbytes, dtype=torch.uint8)
            weights[key].copy_to(memory[: part.nbytes].view(part.dtype).view(part.shape), units)
            stream.write(memory[: part.nbytes].numpy().data)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Lets PyTorch compute in one thread; but not where other threads of Python's might take that over, and keep it."""
    threads = torch.get_num_threads()
    is_alone = threading.active_count() <= 2  # this one, and the MD5's
    torch.set_num_threads(1 if is_alone else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def metadata(network: Network, path: Path, keras_version: str, layout: str) -> dict[str, str]:
    """What a `.safetensors` file of ours says of itself; `path` is its source."""
    ours = {"architecture": json.dumps(network.architecture())} if layout == "torchvgg" else {"layout": layout}
    return {
        "format": "pt",
        "source": os.fsencode(path.name).decode("utf-8", "replace"),
        "keras_version": keras_version,
        "torchvgg_version": _our_version(),
        **ours,
    }


def _our_version() -> str:
    try:
        return version("torchvgg")
    except PackageNotFoundError:  # a checkout that isn't installed
        return "unknown"
