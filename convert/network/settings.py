"""A layer's configuration, whichever version of Keras wrote it, as the settings of `KINDS`, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .arrays import Config, Shape
from .kinds import KINDS
from .reference import ACTIVATIONS  # what can't be checked isn't converted
from .validators import REQUIRED

# Layers that may stand as the activation of another.
ACTIVATION_LAYERS = ("ReLU", "LeakyReLU", "ELU", "Softmax")


def settings(class_name: str, config: Mapping[str, Any], shape: Shape, keras_version: str) -> Config:
    """The settings that count, all of them, with Keras's defaults where the file is silent.

    Args:
        class_name: a key of `KINDS`.
        config: as the file has it.
        shape: of what goes in, `(height, width, channels)` or `(features,)`.
        keras_version: of the file.

    Raises:
        ValueError: a setting isn't one that can be converted.
    """
    kind = KINDS[class_name]
    given = _modern(class_name, config, shape)
    found = {}
    for key, (default, is_valid) in kind.settings.items():
        value = given.get(key, default)
        if key == "activation":
            value = _activation(value, shape, keras_version)
        if value is REQUIRED:
            raise ValueError(f"the setting {key!r} is missing")
        if value is not default and not is_valid(value):
            raise ValueError(f"{key}={value!r} is no such setting")
        found[key] = value
    for key, understood in kind.only.items():
        value = given.get(key, found.get(key, understood[0]))
        if value not in understood:
            choices = " or ".join(repr(choice) for choice in understood if choice is not None)
            raise ValueError(f"{key}={value!r} can't be converted" + (f", only {choices}" if choices else ""))
    return found


def shortened(class_name: str, config: Config) -> Config:
    """The settings that differ from Keras's defaults: what a file of ours says of a layer."""
    return {key: value for key, value in config.items() if value != KINDS[class_name].settings[key].default}


def _modern(class_name: str, config: Mapping[str, Any], shape: Shape) -> Config:
    """Keras 3's names of the settings, and lists as tuples."""
    found = {key: _plain(value) for key, value in config.items()}
    if class_name == "LeakyReLU" and "alpha" in found:
        found["negative_slope"] = found["alpha"]
    if class_name in ("MaxPooling2D", "AveragePooling2D") and found.get("strides") == found.get("pool_size"):
        found["strides"] = None  # which says the same
    if "axis" in found:
        found["axis"] = _axis(found["axis"], len(shape))
    for key in ("mean", "variance", "scale", "offset") if class_name in ("Normalization", "Rescaling") else ():
        if found.get(key) is not None:
            found[key] = _per_channel(key, found[key], shape[-1])
    return found


def _plain(value: Any) -> Any:
    """Lists as tuples, and arrays as Keras writes them (`{"class_name": "__numpy__", …}`) as their values."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping) and value.get("class_name") in ("__numpy__", "__tensor__"):
        return _plain(value["config"]["value"])
    return value


def _axis(axis: Any, rank: int) -> Any:
    """An axis as -1 where it is the channels', several as a sorted tuple of positive ones; None, or (), as None."""
    if axis is None or axis == ():
        return None
    every = axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, int) and not isinstance(a, bool) and -rank - 1 <= a <= rank for a in every):
        raise ValueError(f"axis={axis!r} is no such setting")
    positive = sorted({a % (rank + 1) for a in every})
    if len(positive) > 1:
        return tuple(positive)
    return -1 if positive == [rank] else positive[0]


def _per_channel(key: str, value: Any, channels: Any) -> Any:
    """One number, or a tuple of one for each channel, out of the nested ones that broadcast so."""
    while isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, tuple) and len(value) != channels:
        raise ValueError(f"{key} can't be converted but for one number, or one for each of {channels} channels")
    return value


def _activation(value: Any, shape: Shape, keras_version: str) -> Any:
    """An activation as its name; a layer that stands as one as `{"class_name", "config"}`."""
    if value is None:
        return "linear"
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        class_name, config = value.get("class_name"), value["config"]
        if class_name == "Activation":
            return _activation(config.get("activation"), shape, keras_version)
        if class_name in ACTIVATION_LAYERS:
            return {"class_name": class_name, "config": settings(class_name, config, shape, keras_version)}
    if value == "hard_sigmoid" and keras_version.split(".")[0] in ("1", "2"):
        return "keras2_hard_sigmoid"  # another function than Keras 3's
    name = value.removesuffix("_v2") if isinstance(value, str) else value  # TensorFlow's softmax_v2
    if not isinstance(name, str) or name not in ACTIVATIONS:
        shown = value.get("class_name") if isinstance(value, Mapping) else value
        raise ValueError(f"the activation {shown!r} can't be converted, only Keras's own that act on each feature")
    return name
