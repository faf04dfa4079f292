"""Layers that bring images into a model's range."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...layout import UNCHANGED
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .validators import REQUIRED, Setting, anything, flag, numbers

MEAN_BGR = (103.939, 116.779, 123.68)  # what `keras.applications.vgg16.preprocess_input` subtracts


class Normalization(Kind):
    settings = {
        "axis": Setting(-1, anything),
        "mean": Setting(None, numbers),
        "variance": Setting(None, numbers),
        "invert": Setting(False, flag),
    }
    only = {"axis": (-1, None)}

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        return given | {key: _per_channel(key, given.get(key), shape[-1]) for key in ("mean", "variance")}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        if settings["mean"] is None:
            shape = () if settings["axis"] is None else (x.channels,)
            layout = x.per_channel if shape else UNCHANGED
            for name in ("mean", "variance"):
                yield Spec(name, shape, layout, is_trained=False)
            yield Spec("count", (), UNCHANGED, is_trained=False)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        mean, variance = arrays[:2] if arrays else (torch.tensor(settings[key]) for key in ("mean", "variance"))
        deviation = variance.sqrt().clamp_min(1e-7)
        return x * deviation + mean if settings["invert"] else (x - mean) / deviation


class Rescaling(Kind):
    settings = {"scale": Setting(REQUIRED, numbers), "offset": Setting(0.0, numbers)}

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        return given | {key: _per_channel(key, given[key], shape[-1]) for key in ("scale", "offset") if key in given}

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x * torch.tensor(settings["scale"]) + torch.tensor(settings["offset"])


class PreprocessInput(Kind):
    """No layer of Keras's: the operations that `preprocess_input` leaves in a graph."""

    ranks = (3,)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x[..., [2, 1, 0]] - torch.tensor(MEAN_BGR)


def _per_channel(key: str, value: Any, channels: int | None) -> Any:
    """Reduces nested tuples that broadcast over images to one number, or one for each channel."""
    while isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, tuple) and len(value) != channels:
        raise ValueError(f"{key} can't be converted but for one number, or one for each of {channels} channels")
    return value
