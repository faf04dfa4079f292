"""What the conversion knows of one kind of layer: `Kind`, to be subclassed under the name of Keras's class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ...layout import DENSE_KERNEL, FEATURES, UNCHANGED, Layout, flattened, flattened_dense_kernel
from .validators import Setting

Shape = tuple[int | None, ...]  # without the batch, channels last; None where a size is open
Settings = dict[str, Any]  # Keras 3's names, all of them, in plain values
Arrays = list[Tensor]

KINDS: dict[str, Kind] = {}


def is_before_3(keras_version: str) -> bool:
    """Tells whether Keras 1 or 2 wrote a file."""
    return keras_version.split(".")[0] in ("1", "2")


class Spec(NamedTuple):
    """An array that a layer has: its PyTorch name, its shape in Keras, its layout; statistics aren't trained."""

    name: str
    shape: Shape
    layout: Layout
    is_trained: bool = True


class Features(NamedTuple):
    """The input of a layer: its shape in Keras, `(height, width, channels)` or `(features,)`.

    `flattened` is the `(height, width)` of features that PyTorch flattened in another order than Keras.
    """

    shape: Shape
    flattened: tuple[int, int] | None = None

    @property
    def channels(self) -> int:
        if self.shape[-1] is None:
            raise ValueError("its input has an open number of channels; it needs images of a fixed size")
        return self.shape[-1]

    @property
    def per_channel(self) -> Layout:
        """The layout of an array with one number for each channel."""
        return flattened(*self.flattened) if self.flattened else UNCHANGED

    @property
    def per_feature(self) -> Layout:
        """The layout of an array that has the input's shape."""
        return FEATURES if len(self.shape) >= 3 else self.per_channel

    @property
    def dense_kernel(self) -> Layout:
        return flattened_dense_kernel(*self.flattened) if self.flattened else DENSE_KERNEL


class Kind:
    """A kind of layer. By default it has no settings and no arrays, and is the identity.

    Attributes:
        settings: those that affect the output: Keras 3's defaults, and what is a valid value.
        only: settings of which only some values can be converted; of any kind, `data_format` has to be channels-last.
        ranks: the possible lengths of the input's shape: 1 is `(features,)`, 2 `(time, features)`, 3 `(height, width, channels)`, 4 images in time.
        any_order: whether it computes the same in whatever order the features lie, its arrays being in that order too.
        is_steep: whether it may turn small differences into large ones, so that the check compares it alone.
        inputs: how many tensors it takes, at least and at most.
        heeds_mask: whether it takes the mask of a sequence as its last input, if there is one.
        keeps_mask: whether the mask of its input is the output's too; by default as `any_order`.
        activates_within: whether its activation is a part of the `reference`, not applied to that.
        groups: where its arrays lie within its own group of a `.weights.h5`.
    """

    settings: ClassVar[Mapping[str, Setting]] = {}
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)
    any_order: ClassVar[bool] = False
    is_steep: ClassVar[bool] = False
    inputs: ClassVar[tuple[int, int]] = (1, 1)
    heeds_mask: ClassVar[bool] = False
    keeps_mask: ClassVar[bool | None] = None
    activates_within: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("",)

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            KINDS[cls.__name__] = cls()

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        """Translates a configuration of an older Keras into Keras 3's names and values."""
        return given

    def hands_mask_on(self, config: Mapping[str, Any]) -> bool:
        """Tells whether the mask of its input is the output's too."""
        return self.any_order if self.keeps_mask is None else self.keeps_mask

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        """Yields the layer's arrays in Keras's order."""
        yield from ()

    def output(self, settings: Settings, shape: Shape) -> Shape:
        """Returns the shape of the output for an input of `shape`. Raises a ValueError if there is none."""
        return shape

    def steps(self, settings: Settings, shape: Shape) -> int:
        """Counts the steps, each over all places, that `reference` takes for an input of `shape`."""
        return math.prod(settings.get("pool_size", (1, 1)))

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        """Computes the output for `x`, `(N, H, W, C)` or `(N, features)`, at inference, without the activation.

        `arrays` are in Keras's order and layout. It shares no code with the model, and is written to be plainly right; long
        sums run in float64, so that the reference isn't the less exact of the two.
        """
        return x
