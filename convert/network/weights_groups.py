"""The groups of layers' arrays in a file that doesn't name them after the layers: by class, or by place."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ..read.keras_file import GroupNames
from .architecture_json import Entry

ALIASES = {  # classes of older versions, by the names that they have now
    "Model": "Functional",
    **{f"BatchNormalizationV{n}": "BatchNormalization" for n in (1, 2)},  # TensorFlow 1's
    # Keras 1's
    **{"Convolution2D": "Conv2D", "AtrousConvolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D"},
}


def places_of(model: Entry, group_names: GroupNames) -> dict[str, str]:
    """Maps each layer's name to its group within its model's."""
    if group_names is GroupNames.PLACE:
        return {entry.name: f"layer-{number}" for number, entry in enumerate(model.layers[::-1], 1)}
    numbered = places(ALIASES.get(entry.class_name, entry.class_name) for entry in model.layers)
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
