"""What each kind of Keras layer means here: the settings that count, the arrays it has, and the shape that it returns.

One entry of `KINDS` is all that the conversion knows of a layer. Settings are Keras 3's, with its defaults; those of older
versions are translated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .layout import CONV2D_KERNEL, DENSE_KERNEL, FEATURES, UNCHANGED, Layout, flattened, flattened_dense_kernel

Shape = tuple[int | None, ...]
Config = dict[str, Any]


class Spec(NamedTuple):
    """An array that a layer has: its PyTorch name, its shape in Keras, the change of layout."""

    name: str
    shape: Shape
    layout: Layout


class Features(NamedTuple):
    """What goes into a layer: its shape in Keras, `(height, width, channels)` or `(features,)`.

    `flattened` is the `(height, width)` of features that PyTorch flattened in another order than Keras.
    """

    shape: Shape
    flattened: tuple[int, int] | None = None

    @property
    def channels(self) -> Any:
        return self.shape[-1]

    @property
    def per_channel(self) -> Layout:
        """Of an array with one number for each channel."""
        return flattened(*self.flattened) if self.flattened else UNCHANGED

    @property
    def per_feature(self) -> Layout:
        """Of an array of this very shape."""
        return FEATURES if len(self.shape) == 3 else self.per_channel

    @property
    def dense_kernel(self) -> Layout:
        return flattened_dense_kernel(*self.flattened) if self.flattened else DENSE_KERNEL


def _no_arrays(config: Config, x: Features) -> Iterator[Spec]:
    yield from ()


def _conv2d(config: Config, x: Features) -> Iterator[Spec]:
    yield Spec("weight", (*config["kernel_size"], x.channels // config["groups"], config["filters"]), CONV2D_KERNEL)
    if config["use_bias"]:
        yield Spec("bias", (config["filters"],), UNCHANGED)


def _dense(config: Config, x: Features) -> Iterator[Spec]:
    yield Spec("weight", (x.channels, config["units"]), x.dense_kernel)
    if config["use_bias"]:
        yield Spec("bias", (config["units"],), UNCHANGED)


def _batch_normalization(config: Config, x: Features) -> Iterator[Spec]:
    for name, there in (("weight", config["scale"]), ("bias", config["center"])):
        if there:
            yield Spec(name, (x.channels,), x.per_channel)
    yield Spec("running_mean", (x.channels,), x.per_channel)
    yield Spec("running_var", (x.channels,), x.per_channel)


def _layer_normalization(config: Config, x: Features) -> Iterator[Spec]:
    shape, layout = (x.shape, x.per_feature) if config["axis"] != -1 else ((x.channels,), x.per_channel)
    for name, there in (("weight", config["scale"]), ("bias", config["center"])):
        if there:
            yield Spec(name, shape, layout)


def _prelu(config: Config, x: Features) -> Iterator[Spec]:
    shared = config["shared_axes"] or ()
    shape = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape, start=1))
    yield Spec("weight", shape, UNCHANGED if shape == (1,) else x.per_feature)


def _normalization(config: Config, x: Features) -> Iterator[Spec]:
    if config["mean"] is None:
        shape = () if config["axis"] is None else (x.channels,)
        layout = x.per_channel if shape else UNCHANGED
        yield from (Spec("mean", shape, layout), Spec("variance", shape, layout), Spec("count", (), UNCHANGED))


def window(size: int | None, kernel: int, stride: int, padding: str, dilation: int = 1) -> int | None:
    """The number of places that a window takes along one axis, None where the axis is open."""
    if size is None:
        return None
    return -(-size // stride) if padding == "same" else (size - dilation * (kernel - 1) - 1) // stride + 1


def _convolved(config: Config, shape: Shape) -> Shape:
    settings = zip(shape[:2], config["kernel_size"], config["strides"], config["dilation_rate"], strict=True)
    return *(window(n, k, s, config["padding"], d) for n, k, s, d in settings), config["filters"]


def _pooled(config: Config, shape: Shape) -> Shape:
    settings = zip(shape[:2], config["pool_size"], config["strides"] or config["pool_size"], strict=True)
    return *(window(n, k, s, config["padding"]) for n, k, s in settings), shape[2]


def _padded(config: Config, shape: Shape) -> Shape:
    sizes = zip(shape[:2], config["padding"], strict=True)
    return *(None if n is None else n + before + after for n, (before, after) in sizes), shape[2]


def _flattened(config: Config, shape: Shape) -> Shape:
    return (product(shape),)


def _reshaped(config: Config, shape: Shape) -> Shape:
    target = config["target_shape"]
    known = product(tuple(size for size in target if size != -1))
    total = product(shape)
    rest = None if total is None or not known else total // known
    return tuple(rest if size == -1 else size for size in target)


def product(shape: Shape) -> int | None:
    """The number of features of a shape, None where a size is open."""
    total = 1
    for size in shape:
        if size is None:
            return None
        total *= size
    return total


REQUIRED = object()  # a setting that Keras always writes
CHANNELS_LAST = {"data_format": ("channels_last", None)}


class Kind(NamedTuple):
    """A kind of layer.

    Attributes:
        settings: those that count, with Keras's defaults.
        arrays: the arrays, in Keras's order, for a configuration and what goes in.
        output: the shape that comes out, for a configuration and the shape that goes in.
        ranks: how many sizes that shape may have; 3 is `(height, width, channels)`.
        only: settings of which only some values are understood.
    """

    settings: Mapping[str, Any] = {}
    arrays: Callable[[Config, Features], Iterator[Spec]] = _no_arrays
    output: Callable[[Config, Shape], Shape] = lambda config, shape: shape
    ranks: tuple[int, ...] = (1, 3)
    only: Mapping[str, tuple[Any, ...]] = {}


_POOLING = Kind({"pool_size": (2, 2), "strides": None, "padding": "valid"}, _no_arrays, _pooled, (3,), CHANNELS_LAST)
_GLOBAL_POOLING = Kind(
    {"keepdims": False},
    output=lambda config, shape: (1, 1, shape[-1]) if config["keepdims"] else shape[-1:],
    ranks=(3,),
    only=CHANNELS_LAST,
)
_DROPOUT = Kind({"rate": REQUIRED}, only={"noise_shape": (None,)})

KINDS: dict[str, Kind] = {
    "Conv2D": Kind(
        {
            **{"filters": REQUIRED, "kernel_size": REQUIRED, "strides": (1, 1), "padding": "valid"},
            **{"dilation_rate": (1, 1), "groups": 1, "use_bias": True, "activation": "linear"},
        },
        _conv2d,
        _convolved,
        (3,),
        CHANNELS_LAST,
    ),
    "Dense": Kind(
        {"units": REQUIRED, "use_bias": True, "activation": "linear"},
        _dense,
        lambda config, shape: (*shape[:-1], config["units"]),
    ),
    "MaxPooling2D": _POOLING,
    "AveragePooling2D": _POOLING,
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "ZeroPadding2D": Kind({"padding": ((1, 1), (1, 1))}, output=_padded, ranks=(3,), only=CHANNELS_LAST),
    "Flatten": Kind({"order": "channels_first"}, output=_flattened, only=CHANNELS_LAST),
    "Reshape": Kind({"target_shape": REQUIRED}, output=_reshaped),
    "BatchNormalization": Kind(
        {"momentum": 0.99, "epsilon": 1e-3, "center": True, "scale": True},
        _batch_normalization,
        only={"axis": (-1,), "renorm": (None, False)},
    ),
    "LayerNormalization": Kind(
        {"axis": -1, "epsilon": 1e-3, "center": True, "scale": True},
        _layer_normalization,
        only={"axis": (-1, (1, 2, 3)), "rms_scaling": (None, False)},
    ),
    "Normalization": Kind(
        {"axis": -1, "mean": None, "variance": None, "invert": False}, _normalization, only={"axis": (-1, None)}
    ),
    "Rescaling": Kind({"scale": REQUIRED, "offset": 0.0}),
    "PreprocessInput": Kind(ranks=(3,)),
    "Dropout": _DROPOUT,
    "SpatialDropout2D": Kind({"rate": REQUIRED}, ranks=(3,), only=CHANNELS_LAST),
    "AlphaDropout": _DROPOUT,
    "GaussianDropout": Kind({"rate": REQUIRED}),
    "GaussianNoise": Kind({"stddev": REQUIRED}),
    "Activation": Kind({"activation": REQUIRED}),
    "ReLU": Kind({"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    "LeakyReLU": Kind({"negative_slope": 0.3}),
    "PReLU": Kind({"shared_axes": None}, _prelu),
    "ELU": Kind({"alpha": 1.0}),
    "Softmax": Kind({"axis": -1}, only={"axis": (-1, 1, 2)}),
}

WITH_ARRAYS = {class_name for class_name, kind in KINDS.items() if kind.arrays is not _no_arrays}

# Layers that act on each feature by itself, whatever the order in which the features lie. (Those with a setting for each
# channel aren't among them: only arrays change their layout.)
FEATUREWISE = {
    *("BatchNormalization", "LayerNormalization", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Flatten"),
}
