"""VGG16 and VGG19 as chains of Keras layers, and the files that hold no more than their weights.

Such a file is matched as Keras matches it, by order and shape: a VGG is a row of 3×3 convolutions of known widths, then
three dense layers or none. Names come from Keras's VGG, not from the file.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from ..array import Array
from ..layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .assemble import assemble
from .network import Network
from .vgg import NETWORKS, TOP_UNITS, WIDTHS, filters_of, vgg_chain

Pair = tuple[Array, Array]  # a kernel and its bias


def vgg_of_arrays(
    arrays: Sequence[Array], input_shape: tuple[int, int] | None, base_only: bool, kernels: Layout = CONV2D_KERNEL
) -> Network:
    """The VGG that the arrays of a weights-only file belong to.

    Args:
        arrays: all arrays, in the file's order.
        input_shape: `(height, width)` of the images, for a top whose flatten isn't square.
        base_only: leave the top, or a head of another kind, aside.
        kernels: how convolutions' kernels are laid out, if they are channels-last.

    Raises:
        ValueError: the arrays aren't those of a VGG16 or VGG19; the message names the first that doesn't fit.
    """
    if base_only:
        return vgg_of_convolutions(_base(arrays), kernels)
    pairs = list(zip(arrays[0::2], arrays[1::2], strict=False))
    convolutions = _in_order_of_names([pair for pair in pairs if len(pair[0].shape) == 4])
    dense = [pair for pair in pairs if len(pair[0].shape) == 2]
    plain = 2 * (len(convolutions) + len(dense)) == len(arrays) and len(convolutions) in NETWORKS
    if not plain or (dense and [kernel.shape[1] for kernel, _ in dense[:-1]] != [*TOP_UNITS]):
        raise ValueError(_foreign(arrays))
    if not dense:
        return vgg_of_convolutions(convolutions, kernels)
    fc1, predictions = dense[0][0], dense[-1][0]
    height, width = input_shape or square_input(fc1.name, fc1.shape[0])
    _check_size(fc1, height, width)
    return _assembled(convolutions, dense, (height, width), predictions.shape[1], kernels)


def vgg_of_convolutions(convolutions: Sequence[Pair], kernels: Layout = CONV2D_KERNEL) -> Network:
    """The VGG without a top that these convolutions, in order, are the arrays of.

    Raises:
        ValueError: a VGG's have other shapes.
    """
    return _assembled(convolutions, [], (None, None), None, kernels)


def _assembled(
    convolutions: Sequence[Pair],
    dense: Sequence[Pair],
    size: tuple[int | None, int | None],
    classes: int | None,
    kernels: Layout,
) -> Network:
    first = convolutions[0][0].shape
    kernels = THEANO_KERNEL if _is_channels_first(first) else kernels
    chain = vgg_chain(len(convolutions), (*size, first[1 if kernels is THEANO_KERNEL else 2]), classes)
    remaining = iter([array for pair in (*convolutions, *dense) for array in pair])
    return assemble(chain, lambda wanted: ([next(remaining) for _ in specs] for _, specs in wanted), kernels=kernels)


def _is_channels_first(kernel: tuple[int, ...]) -> bool:
    """Whether a first convolution's kernel is one of the release's Theano files, `(64, 3, 3, 3)`."""
    return kernel[0] == WIDTHS[0] and kernel[2:] == (3, 3)


def _base(arrays: Sequence[Array]) -> list[Pair]:
    """The VGG's own convolutions among all arrays, each with its bias.

    Raises:
        ValueError: there is no VGG, or there may be normalisations between its convolutions.
    """
    ordered = _in_order_of_names([(a, b) for a, b in pairwise(arrays) if (len(a.shape), len(b.shape)) == (4, 1)])
    for count in NETWORKS:
        filters = filters_of(count)
        for start in range(len(ordered) - count + 1):
            base = ordered[start : start + count]
            shapes = [kernel.shape for kernel, _ in base]
            if _is_channels_first(shapes[0]):
                shapes = [(*shape[2:], shape[1], shape[0]) for shape in shapes]
            channels = [shapes[0][2], *filters[:-1]]
            if shapes == [(3, 3, *c) for c in zip(channels, filters, strict=True)]:
                _check_between(arrays, base)
                return base
    raise ValueError(
        f"expected the 13 convolutions of VGG16 or the 16 of VGG19, one after the other. Received: {len(ordered)}; {_shown(arrays)}"
    )


def _check_between(arrays: Sequence[Array], base: Sequence[Pair]) -> None:
    """Raises a ValueError for arrays that may belong to a normalisation, or a slope, between the VGG's convolutions.

    They lie between the convolutions' arrays; or, in a file that is in order of the layers' kinds, are as wide as a
    convolution, and no layer of the head is.
    """
    own = {array.name for pair in base for array in pair}
    places = [place for place, array in enumerate(arrays) if array.name in own]
    heads = Counter(array.shape[-1] for array in arrays if len(array.shape) in (2, 4) and array.name not in own)
    heads[WIDTHS[-1]] += 1  # what comes after the last pool
    kinds: dict[str, list[Array]] = defaultdict(list)
    for place, (before, array) in enumerate(zip((None, *arrays), arrays, strict=False)):
        is_bias = len(array.shape) == 1 and before is not None and len(before.shape) in (2, 4)
        if array.name in own or is_bias or len(array.shape) not in (1, 3):
            continue
        kinds[array.name.rpartition("/")[0]].append(array)
        if places[0] < place < places[-1]:
            raise ValueError(_between(array))
    for widths in (kind[0].shape[-1] for kind in kinds.values()):
        heads[widths] -= 1
        if widths in WIDTHS and heads[widths] < 0:
            raise ValueError(_between(next(kind[0] for kind in kinds.values() if kind[0].shape[-1] == widths)))


def _between(array: Array) -> str:
    return (
        f"{array.name} {array.shape}: a layer that no VGG has, it seems between the convolutions; if it is in the head, "
        "save the whole model, model.save('x.keras'), and take that"
    )


def _in_order_of_names(pairs: list[Pair]) -> list[Pair]:
    """Convolutions under Keras's own names in the order of these: the file of a half-frozen model has another."""
    return sorted(pairs, key=lambda pair: _block(pair[0].name))


def _block(name: str) -> tuple[int, int]:
    """`vgg16/block3_conv2/kernel:0` → (3, 2); a name of another kind comes last."""
    match = re.search(r"block(\d)_conv(\d)", name)
    return (int(match[1]), int(match[2])) if match else (9, 9)


def _foreign(arrays: Sequence[Array]) -> str:
    """What is wrong with arrays that aren't a plain VGG's, and what to do."""
    try:
        _base(arrays)
    except ValueError as error:
        return str(error)
    head = [array for array in arrays if _block(array.name) == (9, 9) and len(array.shape) != 4] or arrays
    return (
        f"a VGG with a head that isn't Keras's own ({_shown(head)}), and how its layers are connected isn't in a file "
        "of weights; save the whole model, model.save('x.keras'), and take that"
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
