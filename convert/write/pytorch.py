"""Writes a network's tensors for PyTorch: a `.safetensors` with its metadata, or a pickled dict of tensors.

The arrays go from file to file in parts, so that few of them are in memory at a time.
"""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..network.from_file import Source
from ..network.naming_schemes import to_scheme
from ..network.network import Network
from ..read.file_kind import files_of
from ..read.strict_json import LONGEST_JSON
from ..version import installed_version

# The types' names in a .safetensors (huggingface.co/docs/safetensors, "Format").
TYPE_NAMES = {
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
    network: Network, path: Path, naming_scheme: str, dtype: str | None, facts: Mapping[str, str]
) -> None:
    """Writes a `.safetensors` with `facts` as its metadata; integers stay integers, whatever the `dtype`, which None leaves as it is.

    The library's own `save_file` takes tensors in memory, all of them.
    """
    forms = _forms(network, dtype)
    with open(path, "wb") as stream:
        stream.write(_header(to_scheme(forms, network, naming_scheme), facts))
        _write_numbers(network, forms, stream)


def _header(forms: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """Makes the header of a `.safetensors`: its length in 8 bytes, then JSON; the tensors follow one after the other."""
    fields: dict[str, object] = {"__metadata__": facts}
    start = 0
    for key, form in forms.items():
        end = start + form.nbytes
        fields[key] = {"dtype": TYPE_NAMES[form.dtype], "shape": list(form.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    if len(text) > LONGEST_JSON:
        raise ValueError(
            f"{len(text):,} bytes of names and settings, more than the {LONGEST_JSON:,} that are read of a .safetensors; "
            "give the layers shorter names"
        )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_pickle(network: Network, path: Path, naming_scheme: str, dtype: str) -> None:
    """Writes a dict of tensors as `torch.save` does."""
    tensors = tensors_on_disk(network, path.with_name("numbers"), dtype)
    torch.save(to_scheme(tensors, network, naming_scheme), path)


def tensors_on_disk(network: Network, path: Path, dtype: str) -> dict[str, Tensor]:
    """Writes the network's tensors into a file, and returns them mapped from there."""
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


def _forms(network: Network, dtype: str | None) -> dict[str, Tensor]:
    """Returns the tensors on the meta device, in the order of the file: larger types first, so that all are aligned."""
    forms = {}
    for key, weight in network.weights():
        own = weight.array.dtype
        wanted = getattr(torch, dtype) if dtype and own.is_floating_point else own
        forms[key] = torch.empty(weight.shape, dtype=wanted, device="meta")
    return dict(sorted(forms.items(), key=lambda item: -item[1].element_size()))


def _write_numbers(network: Network, forms: Mapping[str, Tensor], stream: IO[bytes]) -> None:
    weights = dict(network.weights())
    memory = torch.empty(0, dtype=torch.uint8)  # reused: fresh memory costs as much time as the work in it
    for key, form in forms.items():
        for units in weights[key].parts():
            part = form[units]
            if len(memory) < part.nbytes:
                memory = torch.empty(part.nbytes, dtype=torch.uint8)
            weights[key].copy_to(memory[: part.nbytes].view(part.dtype).view(part.shape), units)
            stream.write(memory[: part.nbytes].numpy().data)


def metadata(
    network: Network,
    source: Source | None,
    naming_scheme: str = "torchvgg",
    preprocessing_is_unknown: bool = False,
) -> dict[str, str]:
    """Returns the metadata of a `.safetensors`: where its tensors come from, and what `load_model` builds the model of.

    Of weights that may be torchvision's or timm's it isn't known which preprocessing they want; a source says so itself.
    """
    found = {"format": "pt", "torchvgg_version": installed_version()}
    if source:
        found |= {
            "source": os.fsencode(source.path.name).decode("utf-8", "replace"),
            "source_size": str(sum(file.stat().st_size for file in files_of(source.path))),
            "keras_version": source.keras_version,
        }
    if source and source.published_md5:
        found["source_md5"] = source.published_md5
    if preprocessing_is_unknown or (source and source.warning):
        found["preprocessing"] = "unknown"
    if naming_scheme == "torchvgg":
        return found | {"architecture": json.dumps(network.architecture())}
    return found | {"layout": naming_scheme}
