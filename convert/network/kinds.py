"""What each kind of Keras layer means here: the settings that count, the arrays it has, and the shape that it returns.

One entry of `KINDS` is all that the conversion knows of a layer. Settings are Keras 3's, with its defaults; those of older
versions are translated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from . import arrays
from .arrays import Config, Features, Shape, Spec
from .validators import (
    REQUIRED,
    Setting,
    anything,
    axes,
    flag,
    fraction,
    margins,
    number,
    numbers,
    pair,
    same_or_valid,
    target,
    whole,
)


def _window(size: int | None, kernel: int, stride: int, padding: str, dilation: int = 1) -> int | None:
    """The number of places that a window takes along one axis, None where the axis is open."""
    if size is None:
        return None
    return -(-size // stride) if padding == "same" else (size - dilation * (kernel - 1) - 1) // stride + 1


def _convolved(config: Config, shape: Shape) -> Shape:
    settings = zip(shape[:2], config["kernel_size"], config["strides"], config["dilation_rate"], strict=True)
    return *(_window(n, k, s, config["padding"], d) for n, k, s, d in settings), config["filters"]


def _pooled(config: Config, shape: Shape) -> Shape:
    settings = zip(shape[:2], config["pool_size"], config["strides"] or config["pool_size"], strict=True)
    return *(_window(n, k, s, config["padding"]) for n, k, s in settings), shape[2]


def _padded(config: Config, shape: Shape) -> Shape:
    sizes = zip(shape[:2], config["padding"], strict=True)
    return *(None if n is None else n + before + after for n, (before, after) in sizes), shape[2]


def _flattened(config: Config, shape: Shape) -> Shape:
    return (_product(shape),)


def _reshaped(config: Config, shape: Shape) -> Shape:
    wanted = config["target_shape"]
    known = _product(tuple(size for size in wanted if size != -1))
    total = _product(shape)
    rest = None if total is None or not known else total // known
    reshaped = tuple(rest if size == -1 else size for size in wanted)
    if total is not None and _product(reshaped) != total:
        raise ValueError(f"{total} features don't make a shape of {wanted}")
    return reshaped


def _product(shape: Shape) -> int | None:
    """The number of features of a shape, None where a size is open."""
    total = 1
    for size in shape:
        if size is None:
            return None
        total *= size
    return total


CHANNELS_LAST = {"data_format": ("channels_last", None)}


class Kind(NamedTuple):
    """A kind of layer.

    Attributes:
        settings: those that count: Keras's defaults, and what is a value.
        arrays: the arrays, in Keras's order, for a configuration and what goes in.
        output: the shape that comes out, for a configuration and the shape that goes in.
        ranks: how many sizes that shape may have; 3 is `(height, width, channels)`.
        only: settings of which only some values are understood.
    """

    settings: Mapping[str, Setting] = {}
    arrays: Callable[[Config, Features], Iterator[Spec]] = arrays.no_arrays
    output: Callable[[Config, Shape], Shape] = lambda config, shape: shape
    ranks: tuple[int, ...] = (1, 3)
    only: Mapping[str, tuple[Any, ...]] = {}


_ACTIVATION = Setting("linear", anything)  # `settings` knows them


_POOLING = Kind(
    {
        "pool_size": Setting((2, 2), pair),
        "strides": Setting(None, pair),
        "padding": Setting("valid", same_or_valid),
    },
    arrays.no_arrays,
    _pooled,
    (3,),
    CHANNELS_LAST,
)


_GLOBAL_POOLING = Kind(
    {"keepdims": Setting(False, flag)},
    output=lambda config, shape: (1, 1, shape[-1]) if config["keepdims"] else shape[-1:],
    ranks=(3,),
    only=CHANNELS_LAST,
)


_RATE = {"rate": Setting(REQUIRED, fraction)}


_AFFINE = {
    "epsilon": Setting(1e-3, number),
    "center": Setting(True, flag),
    "scale": Setting(True, flag),
}


KINDS: dict[str, Kind] = {
    "Conv2D": Kind(
        {
            "filters": Setting(REQUIRED, whole),
            "kernel_size": Setting(REQUIRED, pair),
            "strides": Setting((1, 1), pair),
            "padding": Setting("valid", same_or_valid),
            "dilation_rate": Setting((1, 1), pair),
            "groups": Setting(1, whole),
            "use_bias": Setting(True, flag),
            "activation": _ACTIVATION,
        },
        arrays.conv2d,
        _convolved,
        (3,),
        CHANNELS_LAST,
    ),
    "Dense": Kind(
        {"units": Setting(REQUIRED, whole), "use_bias": Setting(True, flag), "activation": _ACTIVATION},
        arrays.dense,
        lambda config, shape: (*shape[:-1], config["units"]),
    ),
    "MaxPooling2D": _POOLING,
    "AveragePooling2D": _POOLING,
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "ZeroPadding2D": Kind(
        {"padding": Setting(((1, 1), (1, 1)), margins)}, output=_padded, ranks=(3,), only=CHANNELS_LAST
    ),
    "Flatten": Kind({"order": Setting("channels_first", anything)}, output=_flattened, only=CHANNELS_LAST),
    "Reshape": Kind({"target_shape": Setting(REQUIRED, target)}, output=_reshaped),
    "BatchNormalization": Kind(
        {"momentum": Setting(0.99, fraction), **_AFFINE},
        arrays.batch_normalization,
        only={"axis": (-1,), "renorm": (None, False)},
    ),
    "LayerNormalization": Kind(
        {"axis": Setting(-1, anything), **_AFFINE},
        arrays.layer_normalization,
        only={"axis": (-1, (1, 2, 3)), "rms_scaling": (None, False)},
    ),
    "Normalization": Kind(
        {
            "axis": Setting(-1, anything),
            "mean": Setting(None, numbers),
            "variance": Setting(None, numbers),
            "invert": Setting(False, flag),
        },
        arrays.normalization,
        only={"axis": (-1, None)},
    ),
    "Rescaling": Kind({"scale": Setting(REQUIRED, numbers), "offset": Setting(0.0, numbers)}),
    "PreprocessInput": Kind(ranks=(3,)),
    "Dropout": Kind(_RATE, only={"noise_shape": (None,)}),
    "SpatialDropout2D": Kind(_RATE, ranks=(3,), only=CHANNELS_LAST),
    "AlphaDropout": Kind(_RATE, only={"noise_shape": (None,)}),
    "GaussianDropout": Kind(_RATE),
    "GaussianNoise": Kind({"stddev": Setting(REQUIRED, number)}),
    "Activation": Kind({"activation": Setting(REQUIRED, anything)}),
    "ReLU": Kind(
        {
            "max_value": Setting(None, number),
            "negative_slope": Setting(0.0, number),
            "threshold": Setting(0.0, number),
        }
    ),
    "LeakyReLU": Kind({"negative_slope": Setting(0.3, number)}),
    "PReLU": Kind({"shared_axes": Setting(None, axes)}, arrays.prelu),
    "ELU": Kind({"alpha": Setting(1.0, number)}),
    "Softmax": Kind({"axis": Setting(-1, anything)}, only={"axis": (-1, 1, 2)}),
}


# Layers that do the same in whatever order the features lie, their arrays being in that order too. (Those with a setting
# for each channel aren't among them: only arrays change their layout.)
ANY_ORDER = {
    *("BatchNormalization", "LayerNormalization", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Flatten"),
}
