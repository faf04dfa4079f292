"""The report on a conversion: its arrays, totals and error, as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from .errors import printable
from .network.from_tensors import TorchArray
from .network.naming_schemes import to_scheme
from .network.network import Network
from .write.keras import keras_name

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """Reports one conversion.

    Attributes:
        source: the name or file that was asked for.
        output: the file that was written; None if it wasn't kept.
        format: the kind of the source.
        keras_version: of the Keras that wrote it.
        layers: `{"name", "keras_shape", "shape"}` of each array: its name in the file that was written, and its shapes in Keras
            and in PyTorch (for `layout`, in that project's model).
        params: the count of all numbers.
        max_relative_error: the largest of any layer's output, against the channels-last computation; None if unchecked.
        seconds: the time the conversion took.
        activation: of the last layer; None if it has none.
        assumed: what the source doesn't say.
        rows: for each array its name and shape in the source, then in the file that was written; not in the JSON.
        worst_layer: the layer of `max_relative_error`; None if unchecked; not in the JSON.
    """

    source: str
    output: str | None
    format: str
    keras_version: str
    layers: list[dict[str, Any]]
    params: int
    max_relative_error: float | None
    seconds: float
    activation: str | dict[str, Any] | None
    assumed: str
    rows: list[tuple[str, Shape, str, Shape]]
    worst_layer: str | None

    @classmethod
    def of(cls, network: Network, layout: str, is_keras: bool, **attributes: Any) -> Report:
        """Makes the report on `network`, written in the layout, or for Keras; `attributes` are what the network doesn't show."""
        weights = dict(network.weights())
        tensors = {key: torch.empty(weight.shape, device="meta") for key, weight in weights.items()}
        written = to_scheme(tensors, network, layout)
        in_keras = [f"{layer.name}/{keras_name(layer, weight)}" for layer in network.layers for weight in layer.weights]
        names = in_keras if is_keras else list(written)
        layers, rows = [], []
        for weight, name, tensor in zip(weights.values(), names, written.values(), strict=True):
            array = weight.array
            layers.append({"name": name, "keras_shape": list(array.shape), "shape": list(tensor.shape)})
            before = weight.shape if isinstance(array, TorchArray) else array.shape
            rows.append((array.name, before, name, array.shape if is_keras else tuple(tensor.shape)))
        params = sum(math.prod(weight.array.shape) for weight in weights.values())
        activation = network.layers[-1].settings.get("activation") if network.layers else None
        return cls(layers=layers, params=params, rows=rows, activation=activation, **attributes)

    def to_json(self) -> str:
        left_out = ("rows", "worst_layer")
        return json.dumps({key: value for key, value in vars(self).items() if key not in left_out})

    def to_text(self) -> str:
        """Formats a row for each array, then the totals."""
        cells = [tuple(map(str, row)) for row in self.rows]
        a, b, c = (max((len(row[column]) for row in cells), default=0) for column in range(3))
        checked = "not checked"
        if self.max_relative_error is not None:
            checked = f"largest relative error of any layer: {self.max_relative_error:.1e}, at {self.worst_layer}"
        lines = [
            *(f"{name:<{a}}  {old:<{b}}  →  {key:<{c}}  {new}" for name, old, key, new in cells),
            f"{len(cells)} arrays, {self.params:,} parameters, from {self.source} ({self.format}, Keras {self.keras_version})",
            self.assumed,
            checked,
            f"{self.output or 'not kept: name a file with -o'}  {self.seconds:.1f} s",
        ]
        return "\n".join(map(printable, filter(None, lines)))
