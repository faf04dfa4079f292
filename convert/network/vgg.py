"""."""

from __future__ import annotations

import re

from .architecture import Chain, Described

CONVOLUTION_NAME = re.compile(r"block(\d)_conv(\d)")

WIDTHS = (64, 128, 256, 512, 512)  # filters of a convolution in block 1 … 5 (arXiv 1409.1556, table 1)


NETWORKS = {13: "vgg16", 16: "vgg19"}  # by the number of convolutions


TOP_UNITS = (4096, 4096)  # of fc1 and fc2


def blocks(convolutions: int) -> list[tuple[int, int]]:
    """(convolutions, filters) of each block: the first two have two convolutions, the others share the rest."""
    deep = (convolutions - 4) // 3
    return list(zip((2, 2, deep, deep, deep), WIDTHS, strict=True))


def filters_of(convolutions: int) -> list[int]:
    """The filters of each convolution."""
    return [filters for count, filters in blocks(convolutions) for _ in range(count)]


def vgg_chain(convolutions: int, input_shape: tuple[int | None, int | None, int], classes: int | None) -> Chain:
    """Keras's VGG of so many convolutions, with the top for so many classes, or without where that is None."""
    layers = []
    for block, (count, filters) in enumerate(blocks(convolutions), start=1):
        for number in range(1, count + 1):
            config = {"filters": filters, "kernel_size": [3, 3], "padding": "same", "activation": "relu"}
            layers.append(Described("Conv2D", f"block{block}_conv{number}", config))
        layers.append(Described("MaxPooling2D", f"block{block}_pool"))
    if classes is not None:
        layers.append(Described("Flatten", "flatten"))
        for name, units, activation in zip(
            ("fc1", "fc2", "predictions"), (*TOP_UNITS, classes), ("relu", "relu", "softmax"), strict=True
        ):
            layers.append(Described("Dense", name, {"units": units, "activation": activation}))
    return Chain(NETWORKS[convolutions], input_shape, layers)
