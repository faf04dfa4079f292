"""VGG16 and VGG19 as chains of Keras layers, and how to recognise one."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ..vgg_blocks import BLOCKS
from .assemble import plan
from .graph import Described, Graph, chain
from .settings import shortened

NETWORKS = {sum(count for count, _ in blocks): name for name, blocks in BLOCKS.items()}  # by the number of convolutions
LAST_FILTERS = 512  # channels of the maps that the top flattens
TOP = {"fc1": (4096, "relu"), "fc2": (4096, "relu"), "predictions": (None, "softmax")}  # units, activation
CONVOLUTION_NAME = re.compile(r"block(\d)_conv(\d)")
POOLINGS = {  # Keras's class and name of a global pooling at the end; when it makes another, it adds a number to the name
    "GlobalAveragePooling2D": ("avg", "global_average_pooling2d"),
    "GlobalMaxPooling2D": ("max", "global_max_pooling2d"),
}


def filters_of(convolutions: int) -> list[int]:
    """Returns the filters of each convolution of the VGG with so many."""
    return [filters for count, filters in BLOCKS[NETWORKS[convolutions]] for _ in range(count)]


def vgg_chain(convolutions: int, input_shape: tuple[int | None, int | None, int], classes: int | None) -> Graph:
    """Describes Keras's VGG of so many convolutions, with the top for so many classes, or without it for None."""
    layers = []
    for block, (count, filters) in enumerate(BLOCKS[NETWORKS[convolutions]], start=1):
        for number in range(1, count + 1):
            config = {"filters": filters, "kernel_size": [3, 3], "padding": "same", "activation": "relu"}
            layers.append(Described("Conv2D", f"block{block}_conv{number}", config))
        layers.append(Described("MaxPooling2D", f"block{block}_pool"))
    if classes is not None:
        layers.append(Described("Flatten", "flatten"))
        for name, (units, activation) in TOP.items():
            layers.append(Described("Dense", name, {"units": units or classes, "activation": activation}))
    return chain(NETWORKS[convolutions], input_shape, layers)


def vgg_arguments(architecture: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Finds the call of `VGG16` or `VGG19` that builds an architecture, as `Network.architecture` describes it.

    Returns:
        The network's name and the arguments, weights and name left out; None if neither of them has these layers.
    """
    if "input_shape" not in architecture:  # it isn't a chain on images
        return None
    channels, height, width = shape = tuple(architecture["input_shape"])
    layers = [(layer["class_name"], layer["name"], layer["config"]) for layer in architecture["layers"]]
    convolutions = sum(class_name == "Conv2D" for class_name, *_ in layers)
    if convolutions not in NETWORKS or any(size is not None and size < 32 for size in (height, width)):
        return None
    arguments: dict[str, Any] = {"input_shape": shape, "include_top": layers[-1][1] == "predictions"}
    class_name, name, config = layers[-1]
    if arguments["include_top"] and class_name == "Dense":
        arguments |= {"classes": config["units"], "classifier_activation": config.get("activation")}
        layers[-1] = (class_name, name, config | {"activation": "softmax"})
    elif class_name in POOLINGS and re.sub(r"_\d+$", "", name) == POOLINGS[class_name][1] and not config:
        arguments["pooling"], _ = POOLINGS[class_name]
        layers.pop()
    planned = plan(vgg_chain(convolutions, (height, width, channels), arguments.get("classes")))
    expected = [(own.class_name, own.name, shortened(own.class_name, settings)) for own, settings, _ in planned]
    return (NETWORKS[convolutions], arguments) if layers == expected else None


def size_for(features: int) -> str:
    """Names the size of the images that give a flatten so many features: 25088 → 224×224."""
    side = math.isqrt(features // LAST_FILTERS)
    return (
        f"{side * 32}×{side * 32}"
        if side * side * LAST_FILTERS == features
        else f"a size that gives {features} features"
    )


def square_input(name: str, features: int) -> tuple[int, int]:
    """Returns the size of the images of a flatten, taken to be square: 25088 = 512 × 7 × 7 features of 224 × 224 pixels.

    Raises a ValueError if no square gives so many features; `name` is the array that takes them.
    """
    side = math.isqrt(features // LAST_FILTERS)
    if not side or side * side * LAST_FILTERS != features:
        raise ValueError(
            f"{name}: {features} features are no square of {LAST_FILTERS} channels; "
            "say the size of the images with --input-shape H,W"
        )
    return side * 32, side * 32
