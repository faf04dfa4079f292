"""PyTorch weights as files: a `.safetensors` with its metadata, or a pickled dict of tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from .files import md5
from .network import Network


def tensors_of(network: Network, dtype: str) -> dict[str, Tensor]:
    """The network's tensors by name, in the type that is asked for; whole numbers stay whole.

    Raises:
        ValueError: the type has no room for a number.
    """
    tensors: dict[str, Tensor] = {}
    memory = set()  # of tensors that share theirs each gets its own: a .safetensors has no such thing
    for key, weight in network.weights():
        tensor = weight.tensor()
        tensors[key] = (tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor).contiguous()
        if tensors[key].dtype != tensor.dtype and not torch.equal(tensors[key].isinf(), tensor.isinf()):
            raise ValueError(f"{weight.array.name}: values beyond the range of {dtype}")
        if (start := tensors[key].untyped_storage().data_ptr()) in memory:
            tensors[key] = tensors[key].clone()
        memory.add(start)
    return tensors


def write_torch(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes tensors in the format that the path's suffix names."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(tensors), path, metadata)
    else:
        torch.save(dict(tensors), path)


def metadata(network: Network, path: Path, keras_version: str, layout: str) -> dict[str, str]:
    """What a `.safetensors` file of ours says of itself; `path` is its source."""
    ours = {"architecture": json.dumps(network.architecture())} if layout == "torchvgg" else {"layout": layout}
    return {
        "format": "pt",
        "source": os.fsencode(path.name).decode("utf-8", "replace"),
        "source_md5": md5(path),
        "keras_version": keras_version,
        "torchvgg_version": _our_version(),
        **ours,
    }


def _our_version() -> str:
    try:
        return version("torchvgg")
    except PackageNotFoundError:  # a checkout that isn't installed
        return "unknown"
