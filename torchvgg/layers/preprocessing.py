"""Layers that bring numbers into range: those that learn how, and those that stand in front of a model.

As in `layers`: Keras's names, defaults and behaviour, in training too; tensors are channels-first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..imagenet import preprocess_input
from .shared import along_channels

Numbers = float | Sequence[float]


class Normalization(nn.Module):
    """`keras.layers.Normalization`: by a mean and a variance that were learnt from the data beforehand, or given.

    Learnt ones are part of the `state_dict`, with the `count` of numbers they come from; given ones are settings.
    `shape` is that of the learnt ones: `(C,)` where `axis` is -1, for the channels; `()` where it is None.
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

    def forward(self, x: Tensor) -> Tensor:
        mean = along_channels(self.mean, x)
        deviation = along_channels(self.variance, x).sqrt().clamp_min(1e-7)
        return x * deviation + mean if self.invert else (x - mean) / deviation


class Rescaling(nn.Module):
    """`keras.layers.Rescaling`: `x * scale + offset`, each one number or one for each channel."""

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


class PreprocessInput(nn.Module):
    """`keras.applications.vgg16.preprocess_input` in a model's graph: RGB in [0, 255] → centred BGR."""

    def forward(self, x: Tensor) -> Tensor:
        return preprocess_input(x)
