"""An architecture that stands beside its weights: JSON or YAML as Keras writes it, a configuration, or another Keras file's."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import naming_file
from .file_kind import ARCHITECTURE
from .keras_file import open_keras_file
from .strict_json import LONGEST_JSON, LONGEST_VERSION, parse_json

MOST_VALUES = 1 << 20  # in YAML, whose parts may stand for one another

# A file (model.to_json(), model.to_yaml(), a Keras file), or the dict of one, or of model.get_config().
Architecture = str | os.PathLike[str] | Mapping[str, Any]


class ReadArchitecture(NamedTuple):
    """A model's configuration, with its class; and the version of the Keras that wrote it, "" where it isn't said."""

    config: dict[str, Any]
    keras_version: str


def read_architecture(source: Architecture) -> ReadArchitecture:
    """Reads an architecture. A ValueError tells of what is none; an ImportError of YAML without PyYAML."""
    if isinstance(source, str) and source.lstrip()[:1] == "{":  # model.to_json() itself
        return _of_mapping(parse_json(source, "architecture"))
    if isinstance(source, list):  # Keras 1's get_config() of a Sequential
        source = {"class_name": "Sequential", "config": source}
    if not isinstance(source, str | os.PathLike | Mapping):
        raise ValueError(f"architecture: expected a file, or a dict. Received: {type(source).__name__}")
    if isinstance(source, Mapping):
        try:
            text = json.dumps(source, default=_plain)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"architecture: no configuration of Keras's ({error})") from None
        return _of_mapping(parse_json(text, "architecture"))
    path = Path(source)
    head = b""
    if path.is_file():
        with open(path, "rb") as stream:
            head = stream.read(LONGEST_JSON + 1)
    with naming_file(path):
        if re.match(ARCHITECTURE, head):
            head = head.removeprefix(b"\xef\xbb\xbf")
            is_json = head.lstrip()[:1] == b"{"
            return _of_mapping(parse_json(head, "architecture") if is_json else _parse_yaml(head))
    with open_keras_file(path) as file, naming_file(path):
        if file.config is None:
            raise ValueError("weights without an architecture; expected a file of model.save(…) or model.to_json()")
        return ReadArchitecture(file.config, file.keras_version)


def _of_mapping(found: dict[str, Any]) -> ReadArchitecture:
    """Takes a model as `to_json` describes it, or as `get_config` does, without its class."""
    version = found.get("keras_version", "3" if "module" in found else "")
    if not isinstance(version, str) or len(version) > LONGEST_VERSION:
        raise ValueError(f"keras_version: none that Keras writes ({version!r:.50})")
    if "class_name" not in found and "layers" in found:
        found = {"class_name": "Functional" if "output_layers" in found else "Sequential", "config": found}
    if "class_name" not in found:
        raise ValueError(
            "architecture: no layers in it; a subclassed model has none, save a Functional or Sequential one"
        )
    return ReadArchitecture(found, version)


def _plain(value: Any) -> Any:
    """Returns what JSON has for an object in a configuration: NumPy's numbers and arrays, and policies."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "name"):
        return value.name
    raise ValueError(f"architecture: expected a configuration, as model.get_config(). Received: {value!r:.100} in it")


def _parse_yaml(text: bytes) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ImportError("YAML is read with PyYAML: pip install pyyaml; or write JSON, model.to_json()") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Makes lists of Python's tuples and TensorFlow's lists, which Keras writes; runs nothing."""

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", yaml.SafeLoader.construct_yaml_seq)
    wrapper = "tag:yaml.org,2002:python/object/apply:tensorflow.python.training.tracking.data_structures.ListWrapper"
    Loader.add_constructor(wrapper, lambda loader, node: loader.construct_sequence(node, deep=True)[0])
    if len(text) > LONGEST_JSON:
        raise ValueError("longer than Keras writes it")
    try:
        found = yaml.load(text, Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, IndexError, ValueError) as error:
        raise ValueError(
            f"YAML that can't be read ({' '.join(str(error).split())[:200]}); give JSON, model.to_json()"
        ) from None
    _check_size(found)
    return parse_json(json.dumps(found, default=str), "architecture")


def _check_size(value: Any) -> None:
    """Raises a ValueError for more values than an architecture has, counted where they stand, or for endless ones."""
    sizes: dict[int, int] = {}

    def size(part: Any, depth: int) -> int:
        if not isinstance(part, dict | list):
            return 1
        if depth > 100:
            raise ValueError("deeper than Keras writes it")
        if id(part) not in sizes:
            inside = part.values() if isinstance(part, dict) else part
            sizes[id(part)] = 1 + sum(size(each, depth + 1) for each in inside)
        return sizes[id(part)]

    if size(value, 0) > MOST_VALUES:
        raise ValueError("longer than Keras writes it")
