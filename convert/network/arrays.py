"""Which arrays a layer has, in Keras's order, for its settings and for what goes in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..layout import CONV2D_KERNEL, DENSE_KERNEL, FEATURES, UNCHANGED, Layout, flattened, flattened_dense_kernel

Shape = tuple[int | None, ...]


Config = dict[str, Any]


class Spec(NamedTuple):
    """An array that a layer has: its PyTorch name, its shape in Keras, the change of layout."""

    name: str
    shape: Shape
    layout: Layout

    @property
    def is_trained(self) -> bool:
        """By gradients, that is; the others are statistics."""
        return self.name in ("weight", "bias")


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


def no_arrays(config: Config, x: Features) -> Iterator[Spec]:
    yield from ()


def conv2d(config: Config, x: Features) -> Iterator[Spec]:
    yield Spec("weight", (*config["kernel_size"], x.channels // config["groups"], config["filters"]), CONV2D_KERNEL)
    if config["use_bias"]:
        yield Spec("bias", (config["filters"],), UNCHANGED)


def dense(config: Config, x: Features) -> Iterator[Spec]:
    yield Spec("weight", (x.channels, config["units"]), x.dense_kernel)
    if config["use_bias"]:
        yield Spec("bias", (config["units"],), UNCHANGED)


def batch_normalization(config: Config, x: Features) -> Iterator[Spec]:
    for name, there in (("weight", config["scale"]), ("bias", config["center"])):
        if there:
            yield Spec(name, (x.channels,), x.per_channel)
    yield Spec("running_mean", (x.channels,), x.per_channel)
    yield Spec("running_var", (x.channels,), x.per_channel)


def layer_normalization(config: Config, x: Features) -> Iterator[Spec]:
    shape, layout = (x.shape, x.per_feature) if config["axis"] != -1 else ((x.channels,), x.per_channel)
    for name, there in (("weight", config["scale"]), ("bias", config["center"])):
        if there:
            yield Spec(name, shape, layout)


def prelu(config: Config, x: Features) -> Iterator[Spec]:
    shared = config["shared_axes"] or ()
    if any(axis > len(x.shape) for axis in shared):
        raise ValueError(f"shared_axes={shared!r} of an input of shape {(None, *x.shape)}")
    shape = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape, start=1))
    yield Spec("weight", shape, UNCHANGED if shape == (1,) else x.per_feature)


def normalization(config: Config, x: Features) -> Iterator[Spec]:
    if config["mean"] is None:
        shape = () if config["axis"] is None else (x.channels,)
        layout = x.per_channel if shape else UNCHANGED
        yield from (Spec("mean", shape, layout), Spec("variance", shape, layout), Spec("count", (), UNCHANGED))
