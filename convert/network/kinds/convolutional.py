"""Convolutions."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...layout import CONV1D_KERNEL, CONV2D_KERNEL, UNCHANGED, depthwise_kernel
from .activations import ACTIVATION
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .sliding_windows import places, shifts
from .validators import REQUIRED, SAME_OR_VALID, Setting, flag, one_of, pair, single, whole, with_tuples


class _Convolution(Kind):
    settings = {
        "kernel_size": Setting(REQUIRED, pair),
        "strides": Setting((1, 1), pair),
        "padding": SAME_OR_VALID,
        "dilation_rate": Setting((1, 1), pair),
        "use_bias": Setting(True, flag),
        "activation": ACTIVATION,
    }
    ranks = (3,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return *places(shape, settings["kernel_size"], settings), _filters(settings, shape)


class Conv2D(_Convolution):
    settings = {"filters": Setting(REQUIRED, whole), **_Convolution.settings, "groups": Setting(1, whole)}
    layout = CONV2D_KERNEL

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        shape = (*settings["kernel_size"], x.channels // settings["groups"], settings["filters"])
        yield Spec("weight", shape, self.layout)
        yield from _bias(settings, x)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        """Sums matrix products, one for each shift of the image."""
        kernel, *bias = arrays
        groups = settings["groups"]
        outputs = []
        for part, own in zip(x.chunk(groups, -1), kernel.chunk(groups, -1), strict=True):
            total = None
            for shifted, matrix in zip(shifts(part, kernel.shape[:-2], settings, 0), own.flatten(0, -3), strict=True):
                rows = shifted.reshape(-1, shifted.shape[-1])
                total = rows @ matrix if total is None else total.addmm_(rows, matrix)
            assert total is not None
            outputs.append(total.unflatten(0, shifted.shape[:-1]))
        output = torch.cat(outputs, -1)
        return output.add_(bias[0]) if bias else output


class Conv1D(Conv2D):
    settings = {
        **Conv2D.settings,
        "kernel_size": Setting(REQUIRED, single),
        "strides": Setting((1,), single),
        "padding": Setting("valid", one_of("same", "valid", "causal")),
        "dilation_rate": Setting((1,), single),
    }
    ranks = (2,)
    layout = CONV1D_KERNEL

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        return with_tuples(given)


class DepthwiseConv2D(_Convolution):
    settings = {**_Convolution.settings, "depth_multiplier": Setting(1, whole)}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        shape = (*settings["kernel_size"], x.channels, settings["depth_multiplier"])
        yield Spec("weight", shape, depthwise_kernel(settings["depth_multiplier"]))
        yield from _bias(settings, x)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        kernel, *bias = arrays
        products = (
            shifted[..., None] * numbers
            for shifted, numbers in zip(shifts(x, kernel.shape[:2], settings, 0), kernel.flatten(0, 1), strict=True)
        )
        output = sum(products, torch.zeros(())).flatten(-2)
        return output + bias[0] if bias else output


class SeparableConv2D(DepthwiseConv2D):
    settings = {**DepthwiseConv2D.settings, "filters": Setting(REQUIRED, whole)}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        depthwise, *_ = super().arrays(settings, x)
        yield depthwise._replace(name="depthwise_weight")
        pointwise = (1, 1, x.channels * settings["depth_multiplier"], settings["filters"])
        yield Spec("pointwise_weight", pointwise, CONV2D_KERNEL)
        yield from _bias(settings, x)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        depthwise, pointwise, *bias = arrays
        output = super().reference(settings, [depthwise], x) @ pointwise[0, 0]
        return output + bias[0] if bias else output


def _filters(settings: Settings, shape: Shape) -> Any:
    """Counts the output's channels: a depthwise convolution has so many filters for each of the input's."""
    return settings["filters"] if "filters" in settings else (shape[-1] or 0) * settings["depth_multiplier"]


def _bias(settings: Settings, x: Features) -> Iterator[Spec]:
    if settings["use_bias"]:
        yield Spec("bias", (_filters(settings, x.shape),), UNCHANGED)
