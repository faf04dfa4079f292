"""What the configuration in a Keras file says: the model's layers as one chain, nested models unfolded.

It is read as data. Nothing that it names is imported, and no code in it is run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from .graph import MODELS, LayerError, counted, entries, in_order
from .operations import Entry, name_of
from .validators import whole

ALIASES = {f"BatchNormalizationV{n}": "BatchNormalization" for n in (1, 2)}  # TensorFlow 1's


# Names that a model of ours uses itself, beyond those of every module.
RESERVED = {
    *("name", "input_shape", "output_shape", "min_size", "extract", "summary", "count_params", "network", "training"),
}


# Identities at inference: in training they vary the images, or add to the loss.
AUGMENTATION = {
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
    *("RandomHeight", "RandomWidth", "RandomShear", "RandomHue", "RandomSaturation", "RandomSharpness"),
    *("RandomColorJitter", "RandomErasing", "RandomPerspective", "RandomGaussianBlur", "RandomColorDegeneration"),
    *("RandomGrayscale", "RandomPosterization", "RandomElasticTransform", "RandomInvert", "RandAugment", "AugMix"),
    *("MixUp", "CutMix", "Identity", "ActivityRegularization"),
}


@dataclass(frozen=True)
class Described:
    """One layer of a chain, as a configuration has it.

    Attributes:
        class_name: Keras's class.
        name: fit for a PyTorch module, and no other layer's in this chain.
        config: Keras's settings.
        trainable: False where the layer is frozen; in Keras 2 also where a model that it lies in is, whatever it says.
        comes_first: whether its trained arrays come before the rest in the group of a nested model.
        path: its name within each model that it lies in, the outermost first: `("vgg16", "block1_conv1")`.
        place: its group in a `.weights.h5`: `layers/functional/layers/conv2d`.
    """

    class_name: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    trainable: bool = True
    comes_first: bool = True
    path: tuple[str, ...] = ()
    place: str = ""

    @property
    def own_name(self) -> str:
        """As Keras has it."""
        return self.path[-1] if self.path else self.name


class Chain(NamedTuple):
    """A model as a chain; `input_shape` is an image's `(height, width, channels)`, None for an open size."""

    name: str
    input_shape: tuple[int | None, int | None, int]
    layers: list[Described]


def read_chain(model: Entry, keras_version: str = "3") -> Chain:
    """The chain that a model's configuration describes, as written by that version of Keras.

    Raises:
        ValueError: it isn't a chain on images; the message names the layer at fault.
        KeyError, TypeError, AttributeError, IndexError: it isn't a configuration that Keras writes.
    """
    if model["class_name"] not in MODELS:
        raise LayerError(name_of(model), model["class_name"], "a model of a class whose code isn't in the file")
    shape = _input_shape(model)
    if len(shape) != 4 or not whole(shape[3]) or not all(size is None or whole(size) for size in shape[1:3]):
        raise ValueError(f"expected a model of images, (N, height, width, channels). Received input shape: {shape}")
    _, height, width, channels = shape
    layers = counted([layer for layer in unfolded(model, keras_version) if layer.class_name not in AUGMENTATION])
    return Chain(name_of(model), (height, width, channels), named_for_modules(layers))


def unfolded(model: Entry, keras_version: str, outer: Described | None = None) -> Iterator[Described]:
    """A model's layers in order, those of the models in it among them; `outer` is that model as a layer."""
    place_of = places_of(model)
    for entry in in_order(model):
        class_name, name = entry["class_name"], name_of(entry)
        if not isinstance(entry["config"], Mapping) and class_name not in MODELS:
            raise LayerError(name, class_name, "it has no configuration")
        layer = described(entry, place_of.get(name, ""), keras_version, outer)
        if class_name in MODELS:
            yield from unfolded(entry, keras_version, layer)
        elif entry.get("registered_name") and not f"{entry.get('module')}.".startswith(("keras.", "tf_keras.")):
            raise LayerError(name, class_name, "a custom layer, whose code isn't in the file")
        elif class_name != "InputLayer":
            yield layer


def described(entry: Entry, place: str, keras_version: str, outer: Described | None = None) -> Described:
    """A layer in its place in a model; `outer` is that model as a layer, if it lies in another."""
    class_name, name = entry["class_name"], name_of(entry)
    config = entry["config"] if isinstance(entry["config"], Mapping) else {}
    outer = outer or Described("", "")
    inherits = keras_version.split(".")[0] in ("1", "2")
    own = config.get("trainable", True) is not False
    return Described(
        str(ALIASES.get(class_name, class_name)),
        name,
        config,
        own and (outer.trainable or not inherits),
        outer.comes_first and (own or (class_name in MODELS and inherits == (not outer.path))),
        (*outer.path, name),
        f"{outer.place}/{place}".lstrip("/"),
    )


def places_of(model: Entry) -> dict[str, str]:
    """Each layer's group in a `.weights.h5`: its class in snake case, numbered in the model's own order."""
    layers = entries(model)
    return dict(zip(map(name_of, layers), places(entry["class_name"] for entry in layers), strict=True))


def places(class_names: Iterable[str]) -> Iterator[str]:
    """The groups that a `.weights.h5` has for layers of these classes: each class numbered by itself, in order."""
    counts: Counter[str] = Counter()
    for class_name in class_names:
        kind = _snake_case(class_name)
        yield f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"
        counts[kind] += 1


def _snake_case(class_name: str) -> str:
    """As Keras turns a class into a name: `MaxPooling2D` → `max_pooling2d`, `PReLU` → `p_re_lu`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _input_shape(model: Entry) -> list[Any]:
    """The shape of a model's input, batch first, wherever this version of Keras has written it."""
    first = in_order(model)[0]
    if first["class_name"] in MODELS:
        return _input_shape(first)
    for config, key in (
        (first["config"], "batch_shape"),  # Keras 3
        (first["config"], "batch_input_shape"),  # Keras 2
        (model["config"], "build_input_shape"),  # a Sequential without an input
    ):
        if isinstance(config, Mapping) and config.get(key):
            return config[key]
    raise LayerError(name_of(model), model["class_name"], "the shape of its input isn't in the file")


def named_for_modules(layers: list[Described]) -> list[Described]:
    """The layers under names that a PyTorch module's child can have: no dot, none twice, none that a module uses."""
    named: dict[str, Described] = {}
    for layer in layers:
        short, full = (name.replace(".", "_") for name in (layer.name, "_".join(layer.path) or layer.name))
        name = short if _is_free(short, named) else full
        while not _is_free(name, named):
            name += "_"
        named[name] = replace(layer, name=name)
    return list(named.values())


def _is_free(name: str, taken: Mapping[str, Any]) -> bool:
    return bool(name) and name not in taken and name not in RESERVED and not hasattr(torch.nn.Module, name)
