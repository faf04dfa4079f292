"""Poolings, over windows and over whole images and sequences."""

import math
from functools import reduce

import torch
from torch import Tensor

from .kind import Arrays, Kind, Settings, Shape
from .sliding_windows import places, shifts
from .validators import SAME_OR_VALID, Setting, flag, pair, single, with_tuples


class _Pooling(Kind):
    settings = {"pool_size": Setting((2, 2), pair), "strides": Setting(None, pair), "padding": SAME_OR_VALID}
    ranks = (3,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        # None says the same as strides that are as long as the window.
        return given | {"strides": None} if given.get("strides") == given.get("pool_size") else given

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return *places(shape, settings["pool_size"], settings), shape[-1]


class MaxPooling2D(_Pooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return reduce(torch.maximum, shifts(x, settings["pool_size"], settings, -math.inf))


class AveragePooling2D(_Pooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        both = (shifts(y, settings["pool_size"], settings, 0) for y in (x, torch.ones_like(x)))
        total, inside = (reduce(torch.add, views) for views in both)
        return total / inside  # padding doesn't count


class _Pooling1D(_Pooling):
    settings = {**_Pooling.settings, "pool_size": Setting((2,), single), "strides": Setting(None, single)}
    ranks = (2,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        return super().modernize(with_tuples(given), shape, keras_version)


class MaxPooling1D(_Pooling1D, MaxPooling2D):
    pass


class AveragePooling1D(_Pooling1D, AveragePooling2D):
    pass


class _GlobalPooling(Kind):
    settings = {"keepdims": Setting(False, flag)}
    ranks = (3,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return (*[1] * (len(shape) - 1), shape[-1]) if settings["keepdims"] else shape[-1:]


class GlobalAveragePooling2D(_GlobalPooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.double().mean((1, 2), keepdim=bool(settings["keepdims"])).float()


class GlobalMaxPooling2D(_GlobalPooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.amax((1, 2), keepdim=bool(settings["keepdims"]))


class GlobalAveragePooling1D(_GlobalPooling):
    ranks = (2,)
    heeds_mask = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *masks: Tensor) -> Tensor:
        mask = masks[0][..., None] if masks else torch.ones(*x.shape[:2], 1, dtype=torch.bool)
        keepdim = bool(settings["keepdims"])
        total = torch.where(mask, x.double(), 0).sum(1, keepdim)
        return (total / mask.double().sum(1, keepdim)).float()


class GlobalMaxPooling1D(_GlobalPooling):
    ranks = (2,)

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=bool(settings["keepdims"]))
