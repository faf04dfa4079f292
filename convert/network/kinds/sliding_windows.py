"""Windows that slide over images or sequences, as convolutions and poolings have them: how many places they take, and what each sees."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from .kind import Settings, Shape


def places(shape: Shape, size: Sequence[int], settings: Settings) -> Shape:
    """Counts the places of a window of `size` along each axis but the channels'; None where that is open."""
    is_same = settings["padding"] in ("same", "causal")
    return tuple(
        None if n is None else -(-n // stride) if is_same else (n - reach) // stride + 1
        for n, stride, _, reach in zip(shape[:-1], *_steps(size, settings), strict=True)
    )


def shifts(x: Tensor, size: Sequence[int], settings: Settings, fill: float) -> Iterator[Tensor]:
    """Yields what each element of a window sees, over all places of the window: views, `(N, H', W', C)`, row by row."""
    strides, dilation, reach = _steps(size, settings)
    if settings["padding"] == "same":  # as TensorFlow pads: an odd row or column comes last
        lack = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(x.shape[1:-1], strides, reach, strict=True)]
        x = pad(x, [(n // 2, n - n // 2) for n in lack], fill)
    elif settings["padding"] == "causal":  # a step sees only those before it
        x = pad(x, [(r - 1, 0) for r in reach], fill)
    spans = [(n - r) // s * s + 1 for n, s, r in zip(x.shape[1:-1], strides, reach, strict=True)]
    for starts in itertools.product(*(range(0, r, d) for r, d in zip(reach, dilation, strict=True))):
        views = (slice(i, i + span, s) for i, span, s in zip(starts, spans, strides, strict=True))
        yield x[(slice(None), *views)]


def _steps(size: Sequence[int], settings: Settings) -> tuple[Any, Any, list[int]]:
    """Returns a window's strides, its dilation, and its length with that."""
    strides = settings["strides"] or size  # a pooling's are by default as long as its window
    dilation = settings.get("dilation_rate", (1,) * len(size))
    return strides, dilation, [rate * (length - 1) + 1 for length, rate in zip(size, dilation, strict=True)]


def pad(x: Tensor, sides: Sequence[Sequence[int]], fill: float) -> Tensor:
    """Surrounds images with `((top, bottom), (left, right))` rows and columns of one number; sequences with steps."""
    sizes = x.shape[1:-1]
    totals = [before + n + after for n, (before, after) in zip(sizes, sides, strict=True)]
    padded = x.new_full((len(x), *totals, x.shape[-1]), fill)
    padded[(slice(None), *(slice(before, before + n) for n, (before, _) in zip(sizes, sides, strict=True)))] = x
    return padded
