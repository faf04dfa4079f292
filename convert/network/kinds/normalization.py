"""Normalizations: by what was learnt, or by the features themselves."""

from collections.abc import Iterator

from torch import Tensor

from ...layout import UNCHANGED
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .validators import Setting, anything, axes, flag, fraction, number, whole


class _Normalization(Kind):
    settings = {
        "epsilon": Setting(1e-3, lambda value: number(value) and value >= 0),
        "center": Setting(True, flag),
        "scale": Setting(True, flag),
    }
    any_order = True


class BatchNormalization(_Normalization):
    settings = {"momentum": Setting(0.99, fraction), **_Normalization.settings}
    only = {"axis": (-1,), "renorm": (None, False), "mode": (0,)}  # Keras 1 had modes

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        yield from _affine_arrays(settings, Spec("", (x.channels,), x.per_channel))
        for name in ("running_mean", "running_var"):
            yield Spec(name, (x.channels,), x.per_channel, is_trained=False)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        *affine, mean, variance = arrays
        return _affine((x - mean) / (variance + settings["epsilon"]).sqrt(), settings, affine)


class LayerNormalization(_Normalization):
    settings = {"axis": Setting(-1, anything), **_Normalization.settings}
    only = {"axis": (-1, (1, 2, 3)), "rms_scaling": (None, False)}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        is_last = settings["axis"] == -1
        over = Spec("", (x.channels,), x.per_channel) if is_last else Spec("", x.shape, x.per_feature)
        yield from _affine_arrays(settings, over)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        axes = (-1,) if settings["axis"] == -1 else settings["axis"]
        y = x.double()
        y = (y - y.mean(axes, keepdim=True)) / (y.var(axes, correction=0, keepdim=True) + settings["epsilon"]).sqrt()
        return _affine(y, settings, arrays).float()


class GroupNormalization(_Normalization):
    settings = {"groups": Setting(32, lambda value: value == -1 or whole(value)), **_Normalization.settings}
    only = {"axis": (-1,)}
    any_order = False  # a group's channels lie side by side

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        if x.channels % abs(settings["groups"]):
            raise ValueError(f"groups={settings['groups']} of {x.channels} channels is no such setting")
        yield from _affine_arrays(settings, Spec("", (x.channels,), UNCHANGED))

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        size = 1 if settings["groups"] == -1 else x.shape[-1] // settings["groups"]
        y = x.double().reshape(len(x), -1, x.shape[-1] // size, size)  # (N, places, groups, channels of one)
        y = (y - y.mean((1, 3), keepdim=True)) / (
            y.var((1, 3), correction=0, keepdim=True) + settings["epsilon"]
        ).sqrt()
        return _affine(y.reshape(x.shape), settings, arrays).float()


class UnitNormalization(Kind):
    settings = {
        "axis": Setting(-1, lambda value: whole(value) or axes(value)),
        "epsilon": Setting(1e-12, number),
    }
    any_order = True

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        # Keras 2 bounds the square of the norm.
        return given | {"epsilon": 1e-6} if keras_version.startswith("2") else given

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        squares = x.double().square().sum(settings["axis"], keepdim=True)
        return (x / squares.sqrt().clamp_min(settings["epsilon"])).float()


def _affine_arrays(settings: Settings, spec: Spec) -> Iterator[Spec]:
    """Yields gamma and beta, as far as the layer has them."""
    if settings["scale"]:
        yield spec._replace(name="weight")
    if settings["center"]:
        yield spec._replace(name="bias")


def _affine(x: Tensor, settings: Settings, arrays: Arrays) -> Tensor:
    remaining = iter(arrays)
    x = x * next(remaining) if settings["scale"] else x
    return x + next(remaining) if settings["center"] else x
