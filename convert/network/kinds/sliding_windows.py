"""Windows that slide over images, as convolutions and poolings have them: how many places they take, and what each sees."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from .kind import Settings, Shape


def places(shape: Shape, size: Sequence[int], settings: Settings) -> Shape:
    """Counts the places of a window of `size` along height and width; None where that is open."""
    is_same = settings["padding"] == "same"
    return tuple(
        None if n is None else -(-n // stride) if is_same else (n - reach) // stride + 1
        for n, stride, _, reach in zip(shape[:2], *_steps(size, settings), strict=True)
    )


def shifts(x: Tensor, size: Sequence[int], settings: Settings, fill: float) -> Iterator[Tensor]:
    """Yields what each element of a window sees, over all places of the window: views, `(N, H', W', C)`, row by row."""
    strides, dilation, reach = _steps(size, settings)
    if settings["padding"] == "same":  # as TensorFlow pads: an odd row or column comes last
        lack = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(x.shape[1:3], strides, reach, strict=True)]
        x = pad(x, [(n // 2, n - n // 2) for n in lack], fill)
    height, width = ((n - r) // s + 1 for n, s, r in zip(x.shape[1:3], strides, reach, strict=True))
    for i in range(0, reach[0], dilation[0]):
        for j in range(0, reach[1], dilation[1]):
            rows = slice(i, i + (height - 1) * strides[0] + 1, strides[0])
            yield x[:, rows, j : j + (width - 1) * strides[1] + 1 : strides[1]]


def _steps(size: Sequence[int], settings: Settings) -> tuple[Any, Any, list[int]]:
    """Returns a window's strides, its dilation, and its length with that."""
    strides = settings["strides"] or size  # a pooling's are by default as long as its window
    dilation = settings.get("dilation_rate", (1, 1))
    return strides, dilation, [rate * (length - 1) + 1 for length, rate in zip(size, dilation, strict=True)]


def pad(x: Tensor, sides: Sequence[Sequence[int]], fill: float) -> Tensor:
    """Surrounds images with `((top, bottom), (left, right))` rows and columns of one number."""
    (top, bottom), (left, right) = sides
    n, height, width, channels = x.shape
    padded = x.new_full((n, top + height + bottom, left + width + right, channels), fill)
    padded[:, top : top + height, left : left + width] = x
    return padded
