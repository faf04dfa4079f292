"""Layers that move, repeat or surround features."""

import math

import torch
from torch import Tensor

from .kind import Arrays, Kind, Settings, Shape
from .sliding_windows import pad
from .validators import REQUIRED, Setting, anything, margins, one_of, pair, pair_or_zeros, permutation, target, whole


class ZeroPadding2D(Kind):
    settings = {"padding": Setting(((1, 1), (1, 1)), margins)}
    ranks = (3,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        match given.get("padding"):  # Keras 1's forms
            case (int() as rows, int() as columns):
                return given | {"padding": ((rows, rows), (columns, columns))}
            case (int() as top, int() as bottom, int() as left, int() as right):
                return given | {"padding": ((top, bottom), (left, right))}
            case {**sides} if sides.keys() <= {"top_pad", "bottom_pad", "left_pad", "right_pad"}:
                pairs = (("top_pad", "bottom_pad"), ("left_pad", "right_pad"))
                return given | {"padding": tuple(tuple(sides.get(side, 0) for side in pair) for pair in pairs)}
        return given

    def output(self, settings: Settings, shape: Shape) -> Shape:
        sizes = zip(shape[:2], settings["padding"], strict=True)
        return *(None if n is None else n + before + after for n, (before, after) in sizes), shape[2]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return pad(x, settings["padding"], 0)


class _Sides(Kind):
    settings = {"padding": Setting((1, 1), pair_or_zeros)}
    ranks = (2,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        key = next(iter(self.settings))
        return given | {key: (given[key],) * 2} if isinstance(given.get(key), int) else given  # in Keras 1


class ZeroPadding1D(_Sides):
    def output(self, settings: Settings, shape: Shape) -> Shape:
        return None if shape[0] is None else shape[0] + sum(settings["padding"]), shape[1]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return pad(x, [settings["padding"]], 0)


class Cropping1D(_Sides):
    settings = {"cropping": Setting((1, 1), pair_or_zeros)}

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return None if shape[0] is None else shape[0] - sum(settings["cropping"]), shape[1]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        before, after = settings["cropping"]
        return x[:, before : x.shape[1] - after]


class RepeatVector(Kind):
    settings = {"n": Setting(REQUIRED, whole)}
    ranks = (1,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return settings["n"], *shape

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.stack([x] * settings["n"], 1)


class Permute(Kind):
    settings = {"dims": Setting(REQUIRED, permutation)}

    def output(self, settings: Settings, shape: Shape) -> Shape:
        if len(settings["dims"]) != len(shape):
            raise ValueError(f"dims={settings['dims']} don't permute the axes of {(None, *shape)}")
        return tuple(shape[axis - 1] for axis in settings["dims"])

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.einsum(x, range(x.dim()), [0, *settings["dims"]])


class Cropping2D(Kind):
    settings = {"cropping": Setting(((0, 0), (0, 0)), margins)}
    ranks = (3,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        sizes = zip(shape[:2], settings["cropping"], strict=True)
        return *(None if n is None else n - before - after for n, (before, after) in sizes), shape[2]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = settings["cropping"]
        return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


class UpSampling2D(Kind):
    settings = {"size": Setting((2, 2), pair), "interpolation": Setting("nearest", one_of("nearest", "bilinear"))}
    ranks = (3,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        # Before TensorFlow 2 the corners of the two images were aligned in another way.
        is_old = keras_version.startswith(("2.2.", "2.3.")) and not keras_version.endswith("-tf")
        if is_old and given.get("interpolation") == "bilinear":
            raise ValueError(f"interpolation='bilinear' of Keras {keras_version} can't be converted")
        return given

    def output(self, settings: Settings, shape: Shape) -> Shape:
        sizes = zip(shape[:2], settings["size"], strict=True)
        return *(None if n is None else n * times for n, times in sizes), shape[2]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        for axis, times in enumerate(settings["size"], start=1):
            is_nearest = settings["interpolation"] == "nearest"
            x = x.repeat_interleave(times, axis) if is_nearest else _stretched(x, axis, times)
        return x


def _stretched(x: Tensor, axis: int, times: int) -> Tensor:
    """Interpolates linearly along an axis, where pixels have their centres at halves."""
    length = x.shape[axis]
    place = ((x.new_tensor(range(length * times)) + 0.5) / times - 0.5).clamp(0, length - 1)
    left = place.floor().long()
    share = (place - left).reshape(-1, *[1] * (x.dim() - 1 - axis))
    first, second = (x.index_select(axis, index) for index in (left, (left + 1).clamp_max(length - 1)))
    return first + (second - first) * share


class Flatten(Kind):
    settings = {"order": Setting("channels_first", anything)}  # `assemble` knows what follows, and chooses
    any_order = True
    keeps_mask = False

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return (_product(shape),)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.flatten(1)


class Reshape(Kind):
    settings = {"target_shape": Setting(REQUIRED, target)}

    def output(self, settings: Settings, shape: Shape) -> Shape:
        wanted = settings["target_shape"]
        if None in shape and -1 not in wanted:
            raise ValueError(f"it can't be converted on an input of shape {(None, *shape)}, of an open size")
        known, total = math.prod(size for size in wanted if size != -1), _product(shape)
        rest = total // known if total is not None and known else None
        reshaped = tuple(rest if size == -1 else size for size in wanted)
        if total is not None and _product(reshaped) != total:
            raise ValueError(f"{total} features don't make a shape of {wanted}")
        return reshaped

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.reshape(len(x), *settings["target_shape"])


def _product(shape: Shape) -> int | None:
    """Counts the features of a shape; None where a size is open."""
    return None if None in shape else math.prod(size or 0 for size in shape)
