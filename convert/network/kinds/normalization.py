"""Normalizations whose numbers are learnt."""

from collections.abc import Iterator

from torch import Tensor

from .kind import Arrays, Features, Kind, Settings, Spec
from .validators import Setting, anything, flag, fraction, number


class _Normalization(Kind):
    settings = {"epsilon": Setting(1e-3, number), "center": Setting(True, flag), "scale": Setting(True, flag)}
    any_order = True


class BatchNormalization(_Normalization):
    settings = {"momentum": Setting(0.99, fraction), **_Normalization.settings}
    only = {"axis": (-1,), "renorm": (None, False)}

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
