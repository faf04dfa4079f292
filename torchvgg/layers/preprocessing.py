"""Layers that scale, resize or crop a model's input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..imagenet import preprocess_input
from .shared import Config, Shapes, along_channels

__all__ = ["CenterCrop", "Normalization", "PreprocessInput", "Rescaling", "Resizing"]

Numbers = float | Sequence[float]


class Normalization(nn.Module):
    """`keras.layers.Normalization`: normalizes by a mean and a variance that were adapted to the data, or given.

    Adapted statistics are in the `state_dict`, with the `count` of the numbers they come from, and have the shape `shape`:
    `(C,)` with `axis` -1, over the channels; `()` with None. Given ones are settings.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        shape: Sequence[int] = (),
        axis: int | None = -1,
        mean: Numbers | None = None,
        variance: Numbers | None = None,
        invert: bool = False,
    ) -> None:
        super().__init__()
        self.invert = invert
        given = mean is not None
        for name, value in (("mean", mean), ("variance", variance)):
            tensor = torch.ones(tuple(shape)) if value is None else torch.tensor(value, device="cpu")
            self.register_buffer(name, tensor, persistent=not given)
        if not given:
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
        return {"shape": shapes.get("mean", ())}

    def forward(self, x: Tensor) -> Tensor:
        mean = along_channels(self.mean, x)
        deviation = along_channels(self.variance, x).sqrt().clamp_min(1e-7)
        return x * deviation + mean if self.invert else (x - mean) / deviation


class Rescaling(nn.Module):
    """`keras.layers.Rescaling`: `x * scale + offset`, each one number or one per channel."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Numbers, offset: Numbers = 0.0) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.tensor(value, device="cpu"), persistent=False)

    def extra_repr(self) -> str:
        return f"scale={self.scale.tolist()}, offset={self.offset.tolist()}"

    def forward(self, x: Tensor) -> Tensor:
        return x * along_channels(self.scale, x) + along_channels(self.offset, x)


class Resizing(nn.Upsample):
    """`keras.layers.Resizing`: `(N, C, H, W)` → `(N, C, height, width)`, "nearest" or "bilinear", as TensorFlow 2 does it."""

    def __init__(self, height: int, width: int, interpolation: str = "bilinear") -> None:
        super().__init__((height, width), mode="nearest-exact" if interpolation == "nearest" else interpolation)


class CenterCrop(nn.Module):
    """`keras.layers.CenterCrop`: `(N, C, H, W)` → `(N, C, height, width)`. A smaller image, which Keras resizes, is a ValueError."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def extra_repr(self) -> str:
        return f"{self.height}, {self.width}"

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[-2] - self.height) // 2, (x.shape[-1] - self.width) // 2
        if top < 0 or left < 0:
            raise ValueError(f"expected images of {self.height}×{self.width} or more. Received shape: {tuple(x.shape)}")
        return x[..., top : top + self.height, left : left + self.width]


class PreprocessInput(nn.Module):
    """`keras.applications.vgg16.preprocess_input` in a model's graph: RGB in [0, 255] → centred BGR."""

    def forward(self, x: Tensor) -> Tensor:
        return preprocess_input(x)
