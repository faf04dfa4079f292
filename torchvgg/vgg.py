"""The networks of Simonyan and Zisserman (2014, arXiv 1409.1556) as Keras builds them, and their arguments."""

import os
from contextlib import nullcontext
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import nn

from .activations import Activation, get_activation
from .layers import Conv2D, Dense, Flatten, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D
from .model import Model, Shape
from .weights import load_weights


class VGG(Model):
    """Base class of `VGG16` and `VGG19`, which document the arguments."""

    network: ClassVar[str]
    min_size = 32  # halved to 1 by five pools

    def __init__(
        self,
        include_top: bool,
        weights: str | os.PathLike[str] | None,
        input_shape: tuple[int | None, int | None, int | None] | None,
        pooling: str | None,
        classes: int,
        classifier_activation: Activation,
        name: str,
        adapt_input: bool,
    ) -> None:
        for argument, value in (("include_top", include_top), ("adapt_input", adapt_input)):
            if not isinstance(value, bool):
                raise ValueError(f"{argument}: expected True or False. Received: {value!r}")
        check_weights(weights, include_top, classes, classifier_activation)
        shape = resolve_input_shape(input_shape, include_top, weights == "imagenet", adapt_input)
        pool = global_pooling(pooling)
        # Weights that are about to be replaced are neither allocated nor initialised.
        with nullcontext() if weights is None else torch.device("meta"):
            layers = convolutional_base(self.network, shape)
            layers |= classifier(shape, classes, classifier_activation) if include_top else pool
        super().__init__(layers, shape, name)
        if weights is not None:
            load_weights(self, self.network, weights, adapt_input)


def convolutional_base(network: str, input_shape: Shape) -> dict[str, nn.Module]:
    """Makes the layers `block1_conv1` … `block5_pool` for images of `(channels, height, width)`."""
    from .convert.vgg_blocks import BLOCKS  # the table, which the conversion reads too

    layers: dict[str, nn.Module] = {}
    channels = input_shape[0] or 3
    for block, (convolutions, filters) in enumerate(BLOCKS[network], start=1):
        for number in range(1, convolutions + 1):
            layers[f"block{block}_conv{number}"] = Conv2D(channels, filters, 3, padding="same", activation="relu")
            channels = filters
        layers[f"block{block}_pool"] = MaxPooling2D((2, 2))
    return layers  # (N, 512, H // 32, W // 32)


def classifier(input_shape: tuple[int, Any, Any], classes: int, activation: Activation) -> dict[str, nn.Module]:
    """Makes the top, `flatten`, `fc1`, `fc2`, `predictions`, for images of a fixed `(channels, height, width)`."""
    _, height, width = input_shape
    return {
        "flatten": Flatten(),
        "fc1": Dense(512 * (height // 32) * (width // 32), 4096, activation="relu"),
        "fc2": Dense(4096, 4096, activation="relu"),
        "predictions": Dense(4096, classes, activation=activation),
    }


def global_pooling(pooling: str | None) -> dict[str, nn.Module]:
    """Makes the global pooling layer at the end of a model without the top, if there is one."""
    if pooling is None:
        return {}
    if pooling == "avg":
        return {"global_average_pooling2d": GlobalAveragePooling2D()}
    if pooling == "max":
        return {"global_max_pooling2d": GlobalMaxPooling2D()}
    raise ValueError(f"pooling: expected None, 'avg' or 'max'. Received: {pooling!r}")


def check_weights(weights: Any, include_top: bool, classes: Any, activation: Activation) -> None:
    """Raises a ValueError if Keras refuses `weights`, or the classifier with these weights."""
    from .convert.read.file_kind import exists

    known = weights is None or weights == "imagenet"
    if not known and not (isinstance(weights, str | os.PathLike) and exists(weights)):
        received = repr(weights) if isinstance(weights, str | os.PathLike) else f"a {type(weights).__name__}"
        raise ValueError(
            "weights: expected None (random initialisation), 'imagenet', or the path of a weights file, as torch.save writes one "
            f"of a state_dict. Received: {received}, which is no such name and no file"
        )
    if not include_top:
        return
    if not _is_whole(classes) or classes < 1:
        raise ValueError(f"classes: expected a number from 1 up. Received: {classes!r}")
    if weights == "imagenet" and classes != 1000:
        raise ValueError(f"classes: expected 1000 with weights='imagenet' and include_top=True. Received: {classes}")
    get_activation(activation)
    if weights is not None and activation not in (None, "softmax", "linear"):
        raise ValueError(f"classifier_activation: expected 'softmax' or None with weights. Received: {activation!r}")


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def resolve_input_shape(
    input_shape: Any, include_top: bool, imagenet: bool, adapt_input: bool = False
) -> tuple[int, int | None, int | None]:
    """Resolves `input_shape`, None or in Keras's order too, to `(C, H, W)`. Raises a ValueError if Keras refuses it."""
    if input_shape is None:
        return (3, 224, 224) if include_top else (3, None, None)

    def refused(expected: str) -> ValueError:
        return ValueError(f"input_shape: expected {expected}. Received: {input_shape!r}")

    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3:
        raise refused("three numbers, (channels, height, width)")
    channels, height, width = input_shape
    is_height = channels is None or (_is_whole(channels) and channels >= VGG.min_size)
    if is_height and _is_whole(width) and width < VGG.min_size:  # (height, width, channels), since no width is so small
        channels, height, width = width, channels, height
    if not _is_whole(channels) or channels < 1 or not all(n is None or _is_whole(n) for n in (height, width)):
        raise refused("(channels, height, width) in whole numbers, with None for an open height or width")
    if any(size is not None and size < VGG.min_size for size in (height, width)):
        raise refused(f"a height and width of {VGG.min_size} or more, after the channels")
    if include_top and None in (height, width):
        raise refused(
            "a fixed height and width with include_top=True, since a dense layer takes one number of features"
        )
    if imagenet and channels != 3 and not adapt_input:
        raise refused("3 channels with weights='imagenet', or adapt_input=True")
    if imagenet and include_top and (height, width) != (224, 224):
        raise refused(f"({channels}, 224, 224) with weights='imagenet' and include_top=True")
    return channels, height, width
