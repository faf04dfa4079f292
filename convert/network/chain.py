"""A model's architecture → its layers as one chain, nested models unfolded."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..errors import LayerError
from .architecture_json import MODELS, Entry, counted
from .graph import in_order
from .kinds.validators import whole

ALIASES = {
    **{f"BatchNormalizationV{n}": "BatchNormalization" for n in (1, 2)},  # TensorFlow 1's
    # Keras 1's
    **{"Convolution2D": "Conv2D", "AtrousConvolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D"},
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
    """One layer of a chain, as an architecture describes it.

    Attributes:
        class_name: Keras's class.
        name: unique in the chain, and without a dot, which separates a PyTorch module's name from a parameter's.
        config: the configuration, as the file has it.
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
        """Keras's name."""
        return self.path[-1] if self.path else self.name


class Chain(NamedTuple):
    """A model as a chain; `input_shape` is an image's `(height, width, channels)`, None for an open size."""

    name: str
    input_shape: tuple[int | None, int | None, int]
    layers: list[Described]


def read_chain(model: Entry, keras_version: str = "3") -> Chain:
    """Reads a model, as written by that version of Keras. Raises a ValueError unless it is a chain on images."""
    if model.class_name not in MODELS:
        raise LayerError(model.name, model.class_name, "a model of a class whose code isn't in the file")
    match _input_shape(model):
        case [_, height, width, channels] if whole(channels) and all(n is None or whole(n) for n in (height, width)):
            layers = counted([d for d in unfolded(model, keras_version) if d.class_name not in AUGMENTATION])
            return Chain(model.name, (height, width, channels), uniquely_named(layers))
        case shape:
            expected = "a model of images, (N, height, width, channels)"
            raise ValueError(f"expected {expected}. Received input shape: {shape!r:.100}")


def _input_shape(model: Entry) -> Any:
    """Finds the shape of a model's input, batch first, wherever this version of Keras has written it."""
    first = next(iter(in_order(model)), model)
    if first.layers and first is not model:
        return _input_shape(first)
    keras_3, keras_2 = first.config.get("batch_shape"), first.config.get("batch_input_shape")
    if found := keras_3 or keras_2 or model.config.get("build_input_shape"):  # the last: a Sequential without an input
        return found
    raise LayerError(model.name, model.class_name, "the shape of its input isn't in the file")


def unfolded(model: Entry, keras_version: str, outer: Described | None = None) -> Iterator[Described]:
    """Yields a model's layers in order, those of the models in it among them; `outer` is that model as a layer."""
    place_of = places_of(model)
    for entry in in_order(model):
        if not entry.has_config:
            raise LayerError(entry.name, entry.class_name, "it has no configuration")
        layer = described(entry, place_of.get(entry.name, ""), keras_version, outer)
        if entry.class_name in MODELS:
            yield from unfolded(entry, keras_version, layer)
        elif entry.is_custom:
            raise LayerError(entry.name, entry.class_name, "a custom layer, whose code isn't in the file")
        elif entry.class_name != "InputLayer":
            yield layer


def described(entry: Entry, place: str, keras_version: str, outer: Described | None = None) -> Described:
    """Describes a layer in its place in a model; `outer` is that model as a layer, if it lies in another."""
    outer = outer or Described("", "")
    inherits = keras_version.split(".")[0] in ("1", "2")
    own = entry.config.get("trainable", True) is not False
    return Described(
        ALIASES.get(entry.class_name, entry.class_name),
        entry.name,
        entry.config,
        own and (outer.trainable or not inherits),
        outer.comes_first and (own or (entry.class_name in MODELS and inherits == (not outer.path))),
        (*outer.path, entry.name),
        f"{outer.place}/{place}".lstrip("/"),
    )


def places_of(model: Entry) -> dict[str, str]:
    """Maps each layer's name to its group in a `.weights.h5`."""
    numbered = places(entry.class_name for entry in model.layers)
    return dict(zip((entry.name for entry in model.layers), numbered, strict=True))


def places(class_names: Iterable[str]) -> Iterator[str]:
    """Yields the groups that a `.weights.h5` has for layers of these classes, in snake case, each class numbered by itself."""
    counts: Counter[str] = Counter()
    for class_name in class_names:
        # Keras's snake case: `MaxPooling2D` → `max_pooling2d`, `PReLU` → `p_re_lu`
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        yield f"layers/{kind}_{counts[kind]}" if counts[kind] else f"layers/{kind}"
        counts[kind] += 1


def uniquely_named(layers: list[Described]) -> list[Described]:
    """Renames layers of nested models whose names come twice, and those with a dot, which PyTorch's modules can't have."""
    named: dict[str, Described] = {}
    for layer in layers:
        short, full = (name.replace(".", "_") for name in (layer.name, "_".join(layer.path) or layer.name))
        name = full if short in named else short
        while name in named:
            name += "_"
        named[name] = replace(layer, name=name)
    return list(named.values())
