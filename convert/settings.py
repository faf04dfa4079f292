"""A layer's configuration, whichever version of Keras wrote it, as the settings of `KINDS`, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .kinds import KINDS, REQUIRED, Config
from .reference import ACTIVATIONS

# Layers that may stand as the activation of another.
ACTIVATION_LAYERS = ("ReLU", "LeakyReLU", "ELU", "Softmax")


def settings(class_name: str, config: Mapping[str, Any], rank: int, keras_version: str) -> Config:
    """The settings that count, all of them, with Keras's defaults where the file is silent.

    Args:
        class_name: a key of `KINDS`.
        config: as the file has it.
        rank: the number of sizes of what goes in, without the batch; 3 for `(height, width, channels)`.
        keras_version: of the file.

    Raises:
        ValueError: a setting isn't one that can be converted.
    """
    kind = KINDS[class_name]
    given = _modern(class_name, config, rank)
    found = {}
    for key, default in kind.settings.items():
        if default is REQUIRED and key not in given:
            raise ValueError(f"the setting {key!r} is missing")
        found[key] = given.get(key, default)
        if key == "activation":
            found[key] = _activation(found[key], rank, keras_version)
    for key, understood in kind.only.items():
        value = given.get(key, kind.settings.get(key, understood[0]))
        if value not in understood:
            choices = " or ".join(repr(choice) for choice in understood if choice is not None)
            raise ValueError(f"{key}={value!r} can't be converted, only {choices}")
    return found


def shortened(class_name: str, config: Config) -> Config:
    """The settings that differ from Keras's defaults: what a file of ours says of a layer."""
    return {key: value for key, value in config.items() if value != KINDS[class_name].settings[key]}


def _modern(class_name: str, config: Mapping[str, Any], rank: int) -> Config:
    """Keras 3's names of the settings, and lists as tuples."""
    found = {key: _plain(value) for key, value in config.items()}
    if class_name == "LeakyReLU" and "alpha" in found:
        found["negative_slope"] = found["alpha"]
    if class_name in ("MaxPooling2D", "AveragePooling2D") and found.get("strides") == found.get("pool_size"):
        found["strides"] = None  # which says the same
    if "axis" in found:
        found["axis"] = _axis(found["axis"], rank)
    if class_name == "Normalization":
        for key in ("mean", "variance"):
            found[key] = None if found.get(key) is None else _flat(found[key])
    return found


def _plain(value: Any) -> Any:
    """Lists as tuples, and arrays as Keras writes them (`{"class_name": "__numpy__", …}`) as their values."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping) and value.get("class_name") in ("__numpy__", "__tensor__"):
        return _plain(value["config"]["value"])
    return value


def _axis(axis: Any, rank: int) -> Any:
    """An axis as -1 where it is the channels', several as a sorted tuple of positive ones; None stays."""
    if axis is None:
        return None
    axes = sorted({a % (rank + 1) for a in (axis if isinstance(axis, tuple) else (axis,))})
    if len(axes) > 1:
        return tuple(axes)
    return -1 if axes == [rank] else axes[0] if axes else None


def _flat(value: Any) -> tuple[float, ...]:
    """Nested tuples of numbers as one."""
    return tuple(number for item in value for number in _flat(item)) if isinstance(value, tuple) else (value,)


def _activation(value: Any, rank: int, keras_version: str) -> Any:
    """An activation as its name; a layer as one as `{"class_name", "config"}`."""
    if value is None:
        return "linear"
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
    if isinstance(value, Mapping) and value.get("class_name") in ACTIVATION_LAYERS:
        class_name = value["class_name"]
        return {"class_name": class_name, "config": settings(class_name, value["config"], rank, keras_version)}
    if value == "hard_sigmoid" and keras_version.split(".")[0] in ("1", "2"):
        return "keras2_hard_sigmoid"  # another function than Keras 3's
    if not isinstance(value, str) or value not in ACTIVATIONS:
        shown = value.get("class_name", "a function") if isinstance(value, Mapping) else value
        raise ValueError(f"the activation {shown!r} isn't one of Keras's own")
    return value
