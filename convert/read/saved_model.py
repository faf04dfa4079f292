"""What Keras has saved with TensorFlow: a SavedModel, or a checkpoint. Its layers, their arrays, and its configuration.

A checkpoint has a graph of objects (tensorflow/core/protobuf/trackable_object_graph.proto): a model has its layers as
children, `layer-0`, `layer-1`, …, and a layer its arrays, by their attributes. A SavedModel is a checkpoint in a folder, with the
configuration of each Keras layer as JSON, in `keras_metadata.pb`, or before TensorFlow 2.5 in `saved_model.pb`.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .file_kind import SAVED_AGAIN, checkpoint_prefix
from .protobuf import Message
from .strict_json import LONGEST_VERSION, parse_json
from .tensor_bundle import Stored, read_bundle

OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
MOST_OBJECTS = 1 << 17
MOST_NESTED = 40
# A layer's arrays in Keras's order, by the names of its attributes.
ORDER = (
    *("depthwise_kernel", "pointwise_kernel", "kernel", "recurrent_kernel", "embeddings", "alpha", "gamma", "beta"),
    *("bias", "moving_mean", "moving_variance", "mean", "variance", "count"),
)
# What a model has beside its layers.
OTHERS = re.compile(
    r"layer_with_weights-\d+|(non_)?(trainable_)?variables|keras_api|optimizer|signatures|regularization_losses|state_variables|adapt_.*|"
    r"(train|test|predict|train_tf)_function|save_counter|root|compiled_(loss|metrics)|metrics|.*_tracker"
)


class SavedLayer(NamedTuple):
    """A layer's place, and its arrays in Keras's order, by the names of Keras's variables.

    A layer that lies in two models has a place in each. Layers are counted from the end, `layer-1` is the last of its model: only some versions count the input of a Sequential.
    """

    place: str
    arrays: list[tuple[str, Stored]]


class SavedModel(NamedTuple):
    """What a SavedModel or a checkpoint holds; `keras_version` is "" where it isn't said."""

    layers: list[SavedLayer]
    config: dict[str, Any] | None
    keras_version: str


def read_saved_model(path: Path) -> SavedModel:
    """Reads a SavedModel folder. A ValueError tells of damage, and of one that Keras hasn't written."""
    metadata = _metadata(path)
    config, version = metadata.get("model_config") or metadata, metadata.get("keras_version")
    if not isinstance(version, str) or len(version) > LONGEST_VERSION:
        raise ValueError(f"expected the keras_version. Received: {version!r:.50}")
    is_described = isinstance(config, dict) and {"class_name", "config"} <= config.keys()  # a subclassed model isn't
    return SavedModel(
        list(_layers(path / "variables" / "variables")), _plain(config) if is_described else None, version
    )


def read_checkpoint(path: Path) -> SavedModel:
    """Reads a checkpoint. A ValueError tells of damage, and of one without a graph of objects."""
    prefix = checkpoint_prefix(path)
    assert prefix
    return SavedModel(list(_layers(prefix)), None, "")


def _metadata(folder: Path) -> dict[str, Any]:
    """Returns what Keras says of the model itself."""
    described = folder / "keras_metadata.pb"
    if described.is_file():
        nodes = Message(_mapped(described)).views(1)
        texts = [node.text(5) for node in map(Message, nodes[:MOST_OBJECTS]) if node.text(3) == "root"]
    else:
        graphs = [Message(graph) for graph in Message(_mapped(folder / "saved_model.pb")).views(2)[:1]]
        nodes = [node for graph in graphs for objects in graph.views(7) for node in Message(objects).views(1)]
        texts = [Message(user).text(3) for node in nodes[:1] for user in Message(node).views(4)]
    if not any(texts):
        raise ValueError(
            f"a SavedModel that Keras hasn't written, or model.export(…), which keeps no layers; {SAVED_AGAIN}"
        )
    return parse_json(texts[0], "metadata")


def _mapped(path: Path) -> memoryview:
    with open(path, "rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")


def _plain(value: Any) -> Any:
    """Turns tuples as Keras writes them here into lists, as it writes them elsewhere."""
    if isinstance(value, list):
        return list(map(_plain, value))
    if not isinstance(value, dict):
        return value
    if value.keys() == {"class_name", "items"} and value["class_name"] == "__tuple__":
        return _plain(value["items"])
    return {key: _plain(part) for key, part in value.items()}


class _Object(NamedTuple):
    children: dict[str, int]
    arrays: list[tuple[str, str]]  # Keras's name, and the key in the bundle


def _layers(prefix: Path) -> Iterator[SavedLayer]:
    """Yields the layers that have arrays, in the model's order."""
    stored = read_bundle(prefix)
    if OBJECTS not in stored:
        raise ValueError(f"a checkpoint without Keras's layers, as TensorFlow 1 writes it; {SAVED_AGAIN}")
    nodes = Message(stored[OBJECTS].text()).views(1)
    if len(nodes) > MOST_OBJECTS:
        raise ValueError(f"more than {MOST_OBJECTS:,} objects")
    objects = [_object(Message(node)) for node in nodes]
    for node in objects:
        for name, number in node.children.items():
            if not 0 <= number < len(objects):
                raise ValueError(f"{name[:100]!r}: it names an object that isn't there")
    visits = 0

    def walk(number: int, place: str, outer: tuple[int, ...]) -> Iterator[SavedLayer]:
        nonlocal visits
        visits += 1
        depth = len(outer)
        if number in outer:  # objects name those that they belong to
            return
        if depth > MOST_NESTED or visits > MOST_OBJECTS:
            raise ValueError(f"{place[:100]}: objects nested deeper than {MOST_NESTED}, or more than {MOST_OBJECTS:,}")
        inner = (*outer, number)
        children = objects[number].children
        if depth == 0 and "model" in children and "layer-0" not in children:  # tf.train.Checkpoint(model=model)
            yield from walk(children["model"], "", inner)
            return
        arrays = {
            attribute: array
            for attribute, child in children.items()
            for array in objects[child].arrays
            if not OTHERS.fullmatch(attribute)
        }
        if arrays:
            in_order = sorted(arrays, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
            yield SavedLayer(place, [(arrays[a][0], _array(stored, *arrays[a])) for a in in_order])
        numbers = {name: int(name[6:]) for name in children if re.fullmatch(r"layer-[0-9]{1,9}", name)}
        for name in sorted(children, key=lambda name: numbers.get(name, -1)):
            # TensorFlow 1.15 has the other half of a Bidirectional in `_layers`.
            if name == "_layers" and "forward_layer" in children:
                yield from walk(objects[children[name]].children.get("1", number), f"{place}/backward_layer", inner)
            elif name not in arrays and not OTHERS.fullmatch(name):
                own = f"layer-{len(numbers) - numbers[name]}" if name in numbers else name
                yield from walk(children[name], f"{place}/{own}".lstrip("/"), inner)

    if objects:
        yield from walk(0, "", ())


def _object(node: Message) -> _Object:
    children = [(child.text(2), child.number(1)) for child in map(Message, node.views(1))]
    values = [value for value in map(Message, node.views(2)) if value.text(1) == "VARIABLE_VALUE"]
    return _Object(dict(children), [(value.text(2) or value.text(3), value.text(3)) for value in values])


def _array(stored: dict[str, Stored], name: str, key: str) -> Stored:
    if key not in stored or not stored[key].kind:
        raise ValueError(f"{name[:100]}: the array is named, but isn't there")
    stored[key].content()  # compares its CRC
    return stored[key]
