"""Validators for the settings of layers, which come from files that nobody vouches for."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

REQUIRED = object()  # a setting that Keras always writes
LARGEST = 2**31 - 1


class Setting(NamedTuple):
    """A setting's default, and the test that another value has to pass."""

    default: Any
    is_valid: Callable[[Any], bool]


def anything(value: Any) -> bool:
    return True


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def integer(value: Any) -> bool:
    """Accepts a whole number, which True and False aren't, though Python counts them as such."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(value: Any) -> bool:
    return integer(value) and 1 <= value <= LARGEST


def whole_or_zero(value: Any) -> bool:
    return integer(value) and 0 <= value <= LARGEST


def number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return integer(value) and abs(value) <= LARGEST


def fraction(value: Any) -> bool:
    return number(value) and 0 <= value <= 1


def numbers(value: Any) -> bool:
    """Accepts one number, or several; how many, a kind checks itself."""
    return number(value) or (isinstance(value, tuple) and bool(value) and all(map(number, value)))


def two(value: Any, is_valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_valid, value))


def pair(value: Any) -> bool:
    return two(value, whole)


def single(value: Any) -> bool:
    """Accepts `(size,)`, along the one axis of a sequence."""
    return isinstance(value, tuple) and len(value) == 1 and whole(value[0])


def with_tuples(given: dict[str, Any]) -> dict[str, Any]:
    """Writes sizes along a sequence as tuples, `(2,)`, where TensorFlow has written numbers."""
    keys = ("kernel_size", "pool_size", "strides", "dilation_rate")
    return {key: (value,) if key in keys and isinstance(value, int) else value for key, value in given.items()}


def pair_or_zeros(value: Any) -> bool:
    return two(value, whole_or_zero)


def one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


SAME_OR_VALID = Setting("valid", one_of("same", "valid"))


def margins(value: Any) -> bool:
    """Accepts `((top, bottom), (left, right))`."""
    return two(value, pair_or_zeros)


def target(value: Any) -> bool:
    """Accepts sizes, one of which may be -1, for the rest."""
    return isinstance(value, tuple) and all(size == -1 or whole(size) for size in value) and value.count(-1) <= 1


def permutation(value: Any) -> bool:
    """Accepts the numbers from 1 in any order."""
    return isinstance(value, tuple) and all(map(whole, value)) and sorted(value) == [*range(1, len(value) + 1)]


def axes(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(whole, value))
