"""Layers that bring images into a model's range or size."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...layout import UNCHANGED
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .validators import REQUIRED, Setting, anything, flag, numbers, whole

MEAN_BGR = (103.939, 116.779, 123.68)  # what `keras.applications.vgg16.preprocess_input` subtracts


class _PerChannel(Kind):
    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        """Reduces nested tuples that broadcast over images to one number, or one for each channel."""
        given = dict(given)
        for key in (key for key, setting in self.settings.items() if setting.is_valid is numbers and key in given):
            depth = 0
            while isinstance(given[key], tuple) and len(given[key]) == 1:
                (given[key],) = given[key]
                depth += 1
            if depth + isinstance(given[key], tuple) > len(shape) + 1:
                raise ValueError(f"{key}: numbers along more axes than the input's")
            if isinstance(given[key], tuple) and shape[-1:] != (len(given[key]),):
                raise ValueError(
                    f"{key} can't be converted but for one number, or one for each of {shape[-1] if shape else 0} channels"
                )
        return given


class Normalization(_PerChannel):
    settings = {
        "axis": Setting(-1, anything),
        "mean": Setting(None, numbers),
        "variance": Setting(None, numbers),
        "invert": Setting(False, flag),
    }
    only = {"axis": (-1, None)}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        if (settings["mean"] is None) != (settings["variance"] is None):
            raise ValueError("a mean without a variance, or the other way round")
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


class Rescaling(_PerChannel):
    ranks = (0, 1, 2, 3, 4)
    settings = {"scale": Setting(REQUIRED, numbers), "offset": Setting(0.0, numbers)}
    keeps_mask = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x * torch.tensor(settings["scale"]) + torch.tensor(settings["offset"])


class _ToSize(Kind):
    settings = {"height": Setting(REQUIRED, whole), "width": Setting(REQUIRED, whole)}
    ranks = (3,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return settings["height"], settings["width"], shape[2]


class Resizing(_ToSize):
    settings = {**_ToSize.settings, "interpolation": Setting("bilinear", anything)}
    only = {
        "interpolation": ("bilinear", "nearest"),  # others depend on Keras's backend
        **dict.fromkeys(("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"), (False,)),
    }

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        for axis, size in ((1, settings["height"]), (2, settings["width"])):
            length = x.shape[axis]
            # In float32, as TensorFlow counts: pixels have their centres at halves.
            centre = (torch.arange(size) + 0.5) * torch.tensor(length / size)
            if settings["interpolation"] == "nearest":
                x = x.index_select(axis, centre.long().clamp_max(length - 1))
                continue
            place = (centre - 0.5).clamp(0, length - 1)
            first = x.index_select(axis, place.long())
            second = x.index_select(axis, (place.long() + 1).clamp_max(length - 1))
            x = first + (second - first) * place.frac().reshape(-1, *[1] * (3 - axis))
        return x


class CenterCrop(_ToSize):
    def output(self, settings: Settings, shape: Shape) -> Shape:
        if None in shape:
            raise ValueError("it needs images of a fixed size")
        if any((n or 0) < size for n, size in zip(shape, (settings["height"], settings["width"]), strict=False)):
            raise ValueError(f"an input of shape {(None, *shape)}, smaller than the crop, can't be converted")
        return super().output(settings, shape)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        rows, columns = x.shape[1] - settings["height"], x.shape[2] - settings["width"]
        return x[:, rows // 2 : x.shape[1] - (rows + 1) // 2, columns // 2 : x.shape[2] - (columns + 1) // 2]


class PreprocessInput(Kind):
    """No layer of Keras's: the operations that `preprocess_input` leaves in a graph."""

    ranks = (3,)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x[..., [2, 1, 0]] - torch.tensor(MEAN_BGR)
