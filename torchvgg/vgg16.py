"""VGG16 with the functions of `keras.applications.vgg16`."""

import os

from .activations import Activation
from .imagenet import decode_predictions, preprocess_input
from .vgg import VGG

__all__ = ["VGG16", "decode_predictions", "preprocess_input"]


class VGG16(VGG):
    """Keras's VGG16: 13 convolutions in five blocks, and three dense layers on top (arXiv 1409.1556, column D).

    Takes images `(N, 3, H, W)` after `preprocess_input`. Returns class probabilities `(N, classes)`; without the top,
    features `(N, 512, H // 32, W // 32)`, or `(N, 512)` with a `pooling`.

    Args:
        include_top: include the three dense layers. They fix the size of the images; without them any size goes in.
        weights: "imagenet" (Keras's published weights, downloaded and converted once), None (Keras's random
            initialisation), or the path of a file that `convert` wrote, of a Keras file, or of a `state_dict` of this model or of
            torchvision's or timm's, whose own ImageNet weights want another preprocessing: a warning says which.
        input_shape: `(channels, height, width)` of an image, None for an open size; Keras's `(height, width, channels)`
            is understood where the last number is under 32. By default `(3, 224, 224)` with the top, `(3, None, None)` without.
        pooling: "avg" or "max" adds a global pooling at the end of a model without the top, None doesn't.
        classes: the number of classes, with the top.
        classifier_activation: the last layer's activation: "softmax", None for logits, or another of Keras's.
        name: the title of the summary.
        adapt_input: with weights for three channels, take images of as many as `input_shape` says, as timm's `in_chans` does:
            the first kernel is summed for grey images, else its channels (blue, green, red) are repeated and scaled by
            3 / channels. Grey images in [0, 255], minus 114.799, the mean of `preprocess_input`'s three, give what the model for
            three channels gives for three such channels. Without weights nothing is adapted.

    Raises:
        ValueError: Keras refuses an argument, or the weights don't fit.
        OSError: the published weights can't be downloaded, or a file can't be read.
    """

    network = "vgg16"

    def __init__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
        input_shape: tuple[int | None, int | None, int | None] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Activation = "softmax",
        name: str = "vgg16",
        adapt_input: bool = False,
    ) -> None:
        super().__init__(include_top, weights, input_shape, pooling, classes, classifier_activation, name, adapt_input)
