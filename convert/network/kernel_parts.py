"""Kernels that are stored in parts: by Keras 1 for each gate of a recurrent layer, by Keras 3 with a scale (int8) or an adapter (LoRA).

In a `.weights.h5` adapters are already merged. Keras rounds what an int8 layer is fed, too; that isn't imitated.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..array import Units
from ..read.keras_file import KerasArray
from .graph import Described
from .kinds.validators import number


@dataclass(frozen=True)
class WholeKernel:
    """A kernel, made of its parts when it is read.

    `scale` divides it, the rows of an Embedding or the columns of others; `factor` times the product of `adapters` is added.
    """

    kernel: KerasArray
    scale: KerasArray | None
    adapters: tuple[KerasArray, KerasArray] | None
    factor: float
    by_row: bool

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kernel.shape

    @property
    def owner(self) -> str:
        return self.kernel.owner

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def read(self, units: Units = ...) -> Tensor:
        kernel = self.kernel.read(units).float()
        if self.scale:
            scale = self.scale.read().float()
            kernel = kernel / (scale[:, None] if self.by_row else scale[units])
        if self.adapters:
            a, b = self.adapters
            kernel = kernel + self.factor * (a.read().float() @ b.read(units).float())
        return kernel


@dataclass(frozen=True)
class JoinedGates:
    """The arrays of all gates side by side, as Keras 2 has them."""

    name: str
    parts: tuple[KerasArray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.parts[0].shape[:-1], sum(part.shape[-1] for part in self.parts))

    @property
    def owner(self) -> str:
        return self.parts[0].owner

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def read(self, units: Units = ...) -> Tensor:
        return torch.cat([part.read() for part in self.parts], -1)[..., units]


StoredArray = KerasArray | WholeKernel | JoinedGates
GATES = ("ifco", "zrh")  # in Keras's order, of an LSTM and of a GRU


def quantization(config: Mapping[str, Any]) -> str:
    """Returns how a layer is quantised, "int8" or "int4/128", as its `dtype` says; "" if it isn't."""
    match config.get("dtype"):
        case {"config": {"mode": str(mode)}}:
            return mode
        case {"config": {"name": str(name)}} | str(name) if "_from_" in name:  # int8_from_float32
            return name.partition("_from_")[0]
    return ""


def whole_kernels(arrays: Sequence[KerasArray], layers: Iterable[Described] = ()) -> list[StoredArray]:
    """Joins the parts of kernels in a group, which belong to these layers. Parts that don't fit are left as they are.

    A whole kernel stands before its bias, as any other.
    """
    if gates := joined_gates(arrays):
        return gates
    described = {layer.own_name: layer for layer in layers}
    by_name = {array.name: array for array in arrays}
    joined: list[StoredArray] = list(arrays)
    for kernel in arrays:
        stem, _, last = kernel.name.rpartition("/")
        layer = next(iter(described.values()), None) if last == "0" else described.get(kernel.owner)
        by_row = last == "embeddings" or (layer is not None and layer.class_name == "Embedding")
        scale = arrays[-1] if last == "0" else by_name.get(f"{kernel.name}_scale")
        scaled = kernel.shape[:1] if by_row else kernel.shape[-1:]
        if scale and (kernel.dtype is not torch.int8 or len(kernel.shape) != 2 or scale.shape != scaled):
            scale = None
        a, b = (by_name.get(f"{stem}/lora_{last}_{letter}") for letter in "ab")
        rank = b.shape[0] if b and b.shape else 0
        alpha = layer.config.get("lora_alpha", rank) if layer else None
        shapes = ((*kernel.shape[:-1], rank), (rank, *kernel.shape[-1:]))
        adapters, factor = None, 1.0
        if a and b and rank and number(alpha) and (a.shape, b.shape) == shapes:
            adapters, factor = (a, b), float(alpha or 0) / rank
        if scale or adapters:
            parts = [part for part in (kernel, scale, *(adapters or ())) if part]
            place = min(joined.index(part) for part in (*parts, by_name.get(f"{stem}/bias")) if part)
            joined.insert(place, WholeKernel(kernel, scale, adapters, factor, by_row))
            joined = [array for array in joined if array not in parts]
    return joined


def joined_gates(arrays: Sequence[KerasArray]) -> list[StoredArray]:
    """Joins arrays that Keras 1 has for each gate, `lstm_1_W_i` and so on; [] if there are none. Others stay."""
    parts: dict[str, dict[str, KerasArray]] = {}
    for array in arrays:
        if match := re.fullmatch(r"(.*_[WUb])_([ifcozrh])(:0)?", array.name):
            parts.setdefault(match[1], {})[match[2]] = array
    joined = {}
    for stem, own in parts.items():
        gates = next((gates for gates in GATES if {*gates} == own.keys()), "")
        if gates and len({part.shape for part in own.values()}) == 1 and own[gates[0]].shape:
            joined[stem] = JoinedGates(stem, tuple(own[gate] for gate in gates))
    of_part = {part.name: whole for whole in joined.values() for part in whole.parts}
    return list(dict.fromkeys(of_part.get(array.name, array) for array in arrays)) if joined else []
