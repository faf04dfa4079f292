"""A layer's configuration, whichever version of Keras wrote it → its settings: Keras 3's names, plain values, all of them."""

from collections.abc import Mapping
from typing import Any

from .kinds import KINDS, Settings, Shape
from .kinds.activations import ACTIVATIONS  # what can't be checked isn't converted
from .kinds.kind import is_before_3
from .kinds.validators import REQUIRED, integer

# Keras 1's names of settings (`alpha` is also Keras 2's), each for the kinds that have a setting of the new name.
RENAMED = {
    "nb_filter": "filters",
    "pool_length": "pool_size",
    "subsample": "strides",
    "stride": "strides",
    "border_mode": "padding",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "output_dim": "units",
    "inner_activation": "recurrent_activation",
    "p": "rate",
    "sigma": "stddev",
    "alpha": "negative_slope",
    "dim_ordering": "data_format",
}
DATA_FORMATS = {"tf": "channels_last", "th": "channels_first"}


def read_settings(class_name: str, config: Mapping[str, Any], shape: Shape, keras_version: str) -> Settings:
    """Reads a configuration of a kind in `KINDS`, with Keras's defaults where it is silent.

    `shape` is the input's, `(height, width, channels)` or `(features,)`. Raises a ValueError for a setting that can't be
    converted.
    """
    kind = KINDS[class_name]
    given = _renamed({key: plain_value(value) for key, value in config.items()}, {*kind.settings, "data_format"})
    if "axis" in given:
        given["axis"] = _axis(given["axis"], len(shape))
    given = kind.modernize(given, shape, keras_version)
    found = {}
    for key, (default, is_valid) in kind.settings.items():
        value = given.get(key, default)
        if value is REQUIRED:
            raise ValueError(f"the setting {key!r} is missing")
        if key in ("activation", "recurrent_activation"):
            value = _activation(value, shape, keras_version)
        if value is not default and not is_valid(value):
            raise ValueError(f"{key}={value!r} is no such setting")
        found[key] = value
    for key, understood in {"data_format": ("channels_last", None), **kind.only}.items():
        value = given.get(key, found.get(key, understood[0]))
        if value not in understood:
            choices = " or ".join(repr(choice) for choice in understood if choice is not None)
            raise ValueError(f"{key}={value!r} can't be converted" + (f", only {choices}" if choices else ""))
    return found


def _renamed(given: Settings, known: set[str]) -> Settings:
    """Gives settings of Keras 1 and 2 the names of Keras 3, as far as these are `known` and not themselves given."""
    renamed = {RENAMED[key]: value for key, value in given.items() if RENAMED.get(key) in known}
    if "nb_row" in given:
        renamed["kernel_size"] = (given["nb_row"], given.get("nb_col"))
    if "data_format" in renamed:
        renamed["data_format"] = DATA_FORMATS.get(str(renamed["data_format"]), renamed["data_format"])
    return renamed | given


def shortened(class_name: str, settings: Settings) -> Settings:
    """Keeps the settings that differ from Keras's defaults, for a file's architecture."""
    return {key: value for key, value in settings.items() if value != KINDS[class_name].settings[key].default}


def plain_value(value: Any) -> Any:
    """Turns lists into tuples, and arrays as Keras writes them (`{"class_name": "__numpy__", …}`) into their values."""
    match value:
        case list() | tuple():
            return tuple(map(plain_value, value))
        case {"class_name": "__numpy__" | "__tensor__", "config": {"value": numbers}}:
            return plain_value(numbers)
    return value


def _axis(axis: Any, rank: int) -> Any:
    """Returns -1 for the channels, a positive axis, a sorted tuple of several, or None for none."""
    if axis is None or axis == ():
        return None
    every = axis if isinstance(axis, tuple) else (axis,)
    if not all(integer(a) and -rank - 1 <= a <= rank for a in every):
        raise ValueError(f"axis={axis!r} is no such setting")
    positive = sorted({a % (rank + 1) for a in every})
    if len(positive) > 1:
        return tuple(positive)
    return -1 if positive == [rank] else positive[0]


def _activation(value: Any, shape: Shape, keras_version: str) -> Any:
    """Returns an activation's name; for a layer that stands as one, `{"class_name", "config"}`."""
    match value:
        case None:
            return "linear"
        case {"class_name": "Activation", "config": {"activation": inner}}:
            return _activation(inner, shape, keras_version)
        case {"class_name": "function", "config": inner}:
            return _activation(inner, shape, keras_version)
        case {
            "class_name": "ReLU" | "LeakyReLU" | "ThresholdedReLU" | "ELU" | "Softmax" as class_name,
            "config": dict(config),
        }:
            return {"class_name": class_name, "config": read_settings(class_name, config, shape, keras_version)}
        case "hard_sigmoid" if is_before_3(keras_version):
            return "keras2_hard_sigmoid"  # another function than Keras 3's
        case str() if (name := value.removesuffix("_v2")) in ACTIVATIONS:  # TensorFlow's softmax_v2
            return name
    shown = value.get("class_name") if isinstance(value, Mapping) else value
    raise ValueError(f"the activation {shown!r} can't be converted, only Keras's own that act on each feature")
