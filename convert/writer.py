"""PyTorch weights as files: what may be written where, and the three formats."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .files import md5
from .keras_file import KerasFile
from .network import Network


def write(network: Network, keras_file: KerasFile, path: Path, dtype: str) -> None:
    """Writes the network's tensors, in the format that the path's suffix names, with what `load_model` needs beside them."""
    tensors = {}
    for key, weight in network.weights():
        tensor = weight.tensor()
        tensors[key] = tensor.to(getattr(torch, dtype)).contiguous()
        if dtype == "float16" and not torch.equal(tensors[key].isinf(), tensor.isinf()):
            raise ValueError(f"{weight.array.name}: values beyond the range of float16; bfloat16 has room for them")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        if path.suffix == ".safetensors":
            save_file(tensors, path, metadata(network, keras_file))
        else:
            torch.save(tensors, path)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path.parent}: can't be written to ({reason}); make room there, or name another OUTPUT"
        ) from None


def metadata(network: Network, keras_file: KerasFile) -> dict[str, str]:
    """What a `.safetensors` file of ours says of itself."""
    return {
        "format": "pt",
        "source": keras_file.path.name,
        "source_md5": md5(keras_file.path),
        "keras_version": keras_file.keras_version,
        "torchvgg_version": _our_version(),
        "architecture": json.dumps(network.architecture()),
    }


def read_back(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `write` wrote."""
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    from safetensors.torch import load_file

    return load_file(path)


def _our_version() -> str:
    try:
        return version("torchvgg")
    except PackageNotFoundError:  # a checkout that isn't installed
        return "unknown"
