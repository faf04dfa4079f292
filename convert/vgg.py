"""VGG16 and VGG19 as chains of Keras layers, and the files that hold no more than their weights.

Such a file is matched as Keras matches it, by order and shape: a VGG is a row of 3×3 convolutions of known widths, then
three dense layers or none. Names come from Keras's VGG, not from the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from .chain import Chain, Described
from .network import Array, Network, assemble

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


def vgg_of_arrays(arrays: Sequence[Array], input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The VGG that the arrays of a weights-only file belong to.

    Args:
        arrays: all arrays, in the file's order.
        input_shape: `(height, width)` of the images, for a top whose flatten isn't square.
        base_only: leave the top, or a head of another kind, aside.

    Raises:
        ValueError: the arrays aren't those of a VGG16 or VGG19; the message names the first that doesn't fit.
    """
    pairs = list(zip(arrays[0::2], arrays[1::2], strict=False))
    convolutions = _in_order_of_names([pair for pair in pairs if len(pair[0].shape) == 4])
    dense = [pair for pair in pairs if len(pair[0].shape) == 2]
    plain = 2 * (len(convolutions) + len(dense)) == len(arrays) and len(convolutions) in NETWORKS
    if not plain or (dense and [kernel.shape[1] for kernel, _ in dense[:-1]] != [*TOP_UNITS]):
        if not base_only:
            raise ValueError(_foreign(arrays))
        convolutions, dense = _base(arrays), []
    if base_only:
        dense = []
    first = convolutions[0][0].shape
    theano = first[0] == WIDTHS[0] and first[2:] == (3, 3)
    height, width = input_shape or (square_input(dense[0][0].name, dense[0][0].shape[0]) if dense else (None, None))
    if dense and height and width:
        _check_size(dense[0][0], height, width)
    classes = dense[-1][0].shape[1] if dense else None
    chain = vgg_chain(len(convolutions), (height, width, first[1 if theano else 2]), classes)
    remaining = iter([array for pair in (*convolutions, *dense) for array in pair])
    return assemble(chain, lambda wanted: ([next(remaining) for _ in specs] for _, specs in wanted), theano=theano)


def _base(arrays: Sequence[Array]) -> list[tuple[Array, Array]]:
    """The VGG's own convolutions among all arrays, each with its bias."""
    pairs = [(a, b) for a, b in pairwise(arrays) if (len(a.shape), len(b.shape)) == (4, 1)]
    ordered = _in_order_of_names(pairs)
    for convolutions in sorted(NETWORKS, reverse=True):
        filters = filters_of(convolutions)
        for start in range(len(ordered) - convolutions + 1):
            base = ordered[start : start + convolutions]
            channels = [base[0][0].shape[2], *filters[:-1]]
            if [kernel.shape for kernel, _ in base] == [(3, 3, *c) for c in zip(channels, filters, strict=True)]:
                return base
    raise ValueError(
        f"expected the 13 convolutions of VGG16 or the 16 of VGG19, one after the other. Received: {_shown(arrays)}"
    )


def _in_order_of_names(pairs: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Convolutions under Keras's own names in the order of these: the file of a half-frozen model has another."""
    return sorted(pairs, key=lambda pair: _block(pair[0].name))


def _block(name: str) -> tuple[int, int]:
    """`vgg16/block3_conv2/kernel:0` → (3, 2); a name of another kind comes last."""
    match = re.search(r"block(\d)_conv(\d)", name)
    return (int(match[1]), int(match[2])) if match else (9, 9)


def _foreign(arrays: Sequence[Array]) -> str:
    kernels = [array for array in arrays if len(array.shape) == 4]
    if len(kernels) < min(NETWORKS):
        return f"expected the 13 convolutions of VGG16 or the 16 of VGG19. Received: {len(kernels)}; {_shown(arrays)}"
    head = [array for array in arrays if _block(array.name) == (9, 9) and len(array.shape) != 4] or arrays
    return (
        f"a VGG with a head that isn't Keras's own ({_shown(head)}), and how its layers are connected isn't in a file "
        "of weights; take the VGG alone, with --base-only or VGG16(weights=path, include_top=False), or save the whole "
        "model, model.save('x.keras'), and take that"
    )


def _shown(arrays: Sequence[Array]) -> str:
    shown = [f"{array.name} {array.shape}" for array in arrays[:3]]
    return ", ".join(shown + (["…"] if len(arrays) > 3 else []))


def square_input(name: str, features: int) -> tuple[int, int]:
    """The size of the images of a flatten, taken to be square: 25088 = 512 × 7 × 7 features come from 224 × 224 pixels.

    Raises:
        ValueError: no square gives so many features; `name` is the array that takes them.
    """
    side = math.isqrt(features // WIDTHS[-1])
    if side * side * WIDTHS[-1] != features:
        raise ValueError(
            f"{name}: {features} features are no square of 512 channels; "
            "say the size of the images with --input-shape H,W"
        )
    return side * 32, side * 32


def _check_size(fc1: Array, height: int, width: int) -> None:
    features = WIDTHS[-1] * (height // 32) * (width // 32)
    if fc1.shape[0] != features:
        raise ValueError(
            f"{fc1.name}: images of {height}×{width} give {features} features, the array takes {fc1.shape[0]}; "
            "pass the right --input-shape H,W"
        )
