"""Poolings, over windows and over whole images."""

import math
from functools import reduce

import torch
from torch import Tensor

from .kind import Arrays, Kind, Settings, Shape
from .sliding_windows import places, shifts
from .validators import SAME_OR_VALID, Setting, flag, pair


class _Pooling(Kind):
    settings = {"pool_size": Setting((2, 2), pair), "strides": Setting(None, pair), "padding": SAME_OR_VALID}
    ranks = (3,)

    def modernize(self, given: Settings, shape: Shape, keras_version: str) -> Settings:
        # None says the same as strides that are as long as the window.
        return given | {"strides": None} if given.get("strides") == given.get("pool_size") else given

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return *places(shape, settings["pool_size"], settings), shape[2]


class MaxPooling2D(_Pooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return reduce(torch.maximum, shifts(x, settings["pool_size"], settings, -math.inf))


class AveragePooling2D(_Pooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        both = (shifts(y, settings["pool_size"], settings, 0) for y in (x, torch.ones_like(x)))
        total, inside = (reduce(torch.add, views) for views in both)
        return total / inside  # padding doesn't count


class _GlobalPooling(Kind):
    settings = {"keepdims": Setting(False, flag)}
    ranks = (3,)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return (1, 1, shape[-1]) if settings["keepdims"] else shape[-1:]


class GlobalAveragePooling2D(_GlobalPooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.double().mean((1, 2), keepdim=bool(settings["keepdims"])).float()


class GlobalMaxPooling2D(_GlobalPooling):
    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return x.amax((1, 2), keepdim=bool(settings["keepdims"]))
