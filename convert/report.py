"""The report on a conversion: its arrays, totals and error, as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .errors import printable
from .network.network import Network


@dataclass(frozen=True)
class Report:
    """Reports one conversion.

    Attributes:
        source: the name or file that was asked for.
        output: the file that was written; None if it wasn't kept.
        format: the kind of the source.
        keras_version: of the Keras that wrote it.
        layers: `{"name", "keras_shape", "shape"}` of each array: the PyTorch tensor's name, its shapes in Keras and PyTorch.
        params: the count of all numbers.
        max_relative_error: the largest of any layer's output, against the channels-last computation; None if unchecked.
        seconds: the time the conversion took.
        activation: of the last layer; None if it has none.
        assumed: what the source doesn't say.
        keras_names: the arrays' names in the source, in the order of `layers`; not in the JSON.
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
    keras_names: list[str]
    worst_layer: str | None

    @classmethod
    def of(cls, network: Network, **attributes: Any) -> Report:
        """Makes the report on `network`; `attributes` are those that the network doesn't show."""
        weights = list(network.weights())
        rows = [{"name": key, "keras_shape": list(w.array.shape), "shape": list(w.shape)} for key, w in weights]
        names = [weight.array.name for _, weight in weights]
        params = sum(math.prod(weight.array.shape) for _, weight in weights)
        activation = network.layers[-1].settings.get("activation") if network.layers else None
        return cls(layers=rows, params=params, keras_names=names, activation=activation, **attributes)

    def to_json(self) -> str:
        left_out = ("keras_names", "worst_layer")
        return json.dumps({key: value for key, value in vars(self).items() if key not in left_out})

    def to_text(self) -> str:
        """Formats a row for each array, then the totals."""
        cells = [
            (name, str(tuple(row["keras_shape"])), row["name"], str(tuple(row["shape"])))
            for name, row in zip(self.keras_names, self.layers, strict=True)
        ]
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
