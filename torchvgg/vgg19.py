"""VGG19 with the functions of `keras.applications.vgg19`."""

import os

from .activations import Activation
from .imagenet import decode_predictions, preprocess_input
from .vgg import VGG

__all__ = ["VGG19", "decode_predictions", "preprocess_input"]


class VGG19(VGG):
    """Keras's VGG19: 16 convolutions in five blocks, and three dense layers on top (arXiv 1409.1556, column E).

    The arguments, shapes and errors are those of `VGG16`.
    """

    network = "vgg19"

    def __init__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
        input_shape: tuple[int | None, int | None, int | None] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Activation = "softmax",
        name: str = "vgg19",
        adapt_input: bool = False,
    ) -> None:
        super().__init__(include_top, weights, input_shape, pooling, classes, classifier_activation, name, adapt_input)
