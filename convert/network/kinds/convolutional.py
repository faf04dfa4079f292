"""Convolutions."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...layout import CONV1D_KERNEL, CONV2D_KERNEL, DECONVOLUTION_KERNEL, UNCHANGED, depthwise_kernel
from .activations import ACTIVATION
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .sliding_windows import places, shifts
from .validators import REQUIRED, SAME_OR_VALID, Setting, flag, one_of, pair, pair_or_zeros, single, whole, with_tuples


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
        if x.channels % settings["groups"] or settings["filters"] % settings["groups"]:
            raise ValueError(f"groups={settings['groups']} of {x.channels} channels and {settings['filters']} filters")
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


class Conv2DTranspose(_Convolution):
    settings = {
        "filters": Setting(REQUIRED, whole),
        **_Convolution.settings,
        "output_padding": Setting(None, pair_or_zeros),
    }

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        yield Spec("weight", (*settings["kernel_size"], settings["filters"], x.channels), CONV2D_KERNEL)
        yield from _bias(settings, x)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        if max(settings["strides"]) > 1 and max(settings["dilation_rate"]) > 1:
            raise ValueError("strides with a dilation_rate can't be converted")
        sizes = []
        for n, stride, reach, grown in zip(shape[:2], settings["strides"], *_reach_and_growth(settings), strict=True):
            if grown > (stride if settings["padding"] == "same" else reach + stride - 1):
                raise ValueError(f"output_padding={settings['output_padding']!r} is too much for such strides")
            sizes.append(None if n is None else (n - 1) * stride + grown)
        return *sizes, settings["filters"]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        """Adds up what each element of the kernel makes of the image, then cuts the edges off."""
        kernel, *bias = arrays
        (step_y, step_x), (rate_y, rate_x) = settings["strides"], settings["dilation_rate"]
        rows, columns = ((n - 1) * step + 1 for n, step in zip(x.shape[1:3], settings["strides"], strict=True))
        reach, growth = _reach_and_growth(settings)
        # At the end one more row or column is cut off, if the number is odd; or some are added.
        top, left = (max(own - grown, 0) // 2 for own, grown in zip(reach, growth, strict=True))
        sizes = (n - 1 + max(pair) for n, *pair in zip((rows, columns), reach, growth, strict=True))
        total = x.new_zeros(len(x), *sizes, settings["filters"])
        for i, row in enumerate(kernel):
            for j, matrix in enumerate(row):
                y, z = i * rate_y, j * rate_x
                total[:, y : y + rows : step_y, z : z + columns : step_x] += x @ matrix.T
        output = total[:, top : top + rows - 1 + growth[0], left : left + columns - 1 + growth[1]]
        return output + bias[0] if bias else output


def _reach_and_growth(settings: Settings) -> tuple[list[int], list[int]]:
    """Returns the height and the width of a kernel with its dilation, and of what Keras keeps of it from one pixel."""
    reach = [rate * (n - 1) + 1 for n, rate in zip(settings["kernel_size"], settings["dilation_rate"], strict=True)]
    is_same, extra = settings["padding"] == "same", settings["output_padding"]
    if extra is None:
        return reach, [step if is_same else max(n, step) for n, step in zip(reach, settings["strides"], strict=True)]
    return reach, [(n % 2 if is_same else n) + more for n, more in zip(reach, extra, strict=True)]


class Deconvolution2D(Conv2DTranspose):
    """Keras 1's. It names the size of its output, and its kernel is `(kh, kw, in, out)`."""

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        """Finds the output_padding that makes an output of `output_shape`, `(N, height, width, filters)`."""
        if "output_padding" in given:  # from a file that `convert` wrote
            return given
        wanted, kernel, strides = (given.get(key, ()) for key in ("output_shape", "kernel_size", "strides"))
        height, width, *_ = shape
        if height is None or width is None:
            raise ValueError("it needs images of a fixed size")
        if not (
            isinstance(wanted, tuple) and len(wanted) == 4 and pair(wanted[1:3]) and pair(kernel) and pair(strides)
        ):
            raise ValueError(f"output_shape={wanted!r}, kernel_size={kernel!r}, strides={strides!r} is no such setting")
        extra = tuple(
            size - (n - 1) * stride - (length % 2 if given.get("padding") == "same" else length)
            for size, n, stride, length in zip(wanted[1:3], (height, width), strides, kernel, strict=True)
        )
        if min(extra) < 0 or wanted[3] != given.get("filters"):
            raise ValueError(f"output_shape={wanted!r} doesn't fit an input of shape {(None, *shape)}")
        return given | {"output_padding": extra}

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        kernel, *bias = super().arrays(settings, x)
        height, width, filters, channels = kernel.shape
        yield kernel._replace(shape=(height, width, channels, filters), layout=DECONVOLUTION_KERNEL)
        yield from bias

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        kernel, *bias = arrays
        return super().reference(settings, [kernel.mT, *bias], x)


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
