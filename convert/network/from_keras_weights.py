"""The arrays of a Keras file of weights alone → the `Network` of a VGG.

They are matched as Keras matches them, by order and shape: a VGG is a row of 3×3 convolutions of known widths, then three
dense layers or none. Names come from Keras's VGG, not from the file.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from ..array import Array
from ..errors import listed
from ..layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .assemble import assemble
from .network import Network
from .vgg_architecture import (
    CONVOLUTION_NAME,
    LAST_FILTERS,
    NETWORKS,
    TOP,
    filters_of,
    size_for,
    square_input,
    vgg_chain,
)

Pair = tuple[Array, Array]  # a kernel and its bias


def vgg_of_arrays(
    arrays: Sequence[Array],
    input_shape: tuple[int, int] | None,
    base_only: bool,
    kernels: Layout = CONV2D_KERNEL,
    in_order: bool = True,
) -> Network:
    """Makes the network of the VGG that the arrays of a file belong to.

    Raises a ValueError if they aren't those of a VGG16 or VGG19, which names the first that doesn't fit.

    Args:
        arrays: all arrays, in the file's order.
        input_shape: `(height, width)` of the images, for a top whose flatten isn't square.
        base_only: leave the top, or a head of another kind, out.
        kernels: the layout of the convolutions' kernels, if they are channels-last.
        in_order: whether the file's order is the layers'; else it is that of their classes.
    """
    if base_only:
        return vgg_of_pairs(_base(arrays, in_order), kernels)
    pairs = list(zip(arrays[0::2], arrays[1::2], strict=False))
    convolutions = sorted((pair for pair in pairs if len(pair[0].shape) == 4), key=_block)
    dense = [pair for pair in pairs if len(pair[0].shape) == 2]
    is_plain = 2 * (len(convolutions) + len(dense)) == len(arrays) and len(convolutions) in NETWORKS
    is_plain = is_plain and all((3, 3) in (kernel.shape[:2], kernel.shape[2:]) for kernel, _ in convolutions)
    widths = [kernel.shape[1] for kernel, _ in dense[:-1]]
    if not is_plain or (dense and widths != [units for units, _ in TOP.values() if units]):
        raise ValueError(_foreign(arrays, in_order))
    if not in_order:
        _check_names(convolutions, convolutions)
    if not dense:
        return vgg_of_pairs(convolutions, kernels)
    fc1, _ = dense[0]
    height, width = input_shape or square_input(fc1.name, fc1.shape[0])
    features = LAST_FILTERS * (height // 32) * (width // 32)
    if fc1.shape[0] != features:
        raise ValueError(
            f"{fc1.name}: images of {height}×{width} give {features} features, the array takes {fc1.shape[0]}, "
            f"as of {size_for(fc1.shape[0])}; pass the right --input-shape H,W, or input_shape"
        )
    return vgg_of_pairs(convolutions, kernels, dense, (height, width))


def vgg_of_pairs(
    convolutions: Sequence[Pair],
    kernels: Layout,
    dense: Sequence[Pair] = (),
    size: tuple[int | None, int | None] = (None, None),
) -> Network:
    """Makes the network of the VGG that has these convolutions, in order, and the top of these dense layers, or none.

    Raises a ValueError if a VGG's have other shapes.
    """
    first = convolutions[0][0].shape
    kernels = THEANO_KERNEL if _is_channels_first(first) else kernels
    classes = dense[-1][0].shape[1] if dense else None
    chain = vgg_chain(len(convolutions), (*size, first[1 if kernels is THEANO_KERNEL else 2]), classes)
    remaining = iter([array for pair in (*convolutions, *dense) for array in pair])
    return assemble(chain, lambda layers: ([next(remaining) for _ in layer.specs] for layer in layers), kernels=kernels)


def _is_channels_first(kernel: tuple[int, ...]) -> bool:
    """Tells whether a first convolution's kernel is one of the release's Theano files, `(64, 3, 3, 3)`."""
    return kernel[0] == filters_of(min(NETWORKS))[0] and kernel[2:] == (3, 3)


def _base(arrays: Sequence[Array], in_order: bool) -> list[Pair]:
    """Finds the VGG's own convolutions among all arrays, each with its bias.

    Raises a ValueError if there is no VGG, or more than one, or there may be normalizations between its convolutions.
    """
    in_pairs = [(a, b) for a, b in pairwise(arrays) if _owner(a) == _owner(b)]
    pairs = [(kernel, bias) for kernel, bias in in_pairs if (len(kernel.shape), len(bias.shape)) == (4, 1)]
    ordered = sorted(pairs, key=_block)
    for count in NETWORKS:
        starts = [start for start in range(len(ordered) - count + 1) if _is_vgg(ordered[start : start + count])]
        if starts and starts[-1] >= starts[0] + count:
            raise ValueError(f"two networks like {NETWORKS[count]}; convert them one by one")
        if starts:
            base = ordered[starts[0] : starts[0] + count]
            if not in_order:
                _check_names(base, pairs)
            check_between(arrays, base, in_order and ordered == pairs)
            return base
    expected = "the 13 convolutions of VGG16 or the 16 of VGG19, one after the other"
    received = f"{len(ordered)} convolutions with a bias; {_shown(arrays)}"
    raise ValueError(f"the weights of no VGG16 or VGG19: expected {expected}. Received: {received}")


def _owner(array: Array) -> str:
    """`conv2d/kernel:0` → `conv2d`."""
    return array.name.rpartition("/")[0]


def _is_vgg(convolutions: Sequence[Pair]) -> bool:
    filters = filters_of(len(convolutions))
    shapes = [kernel.shape for kernel, _ in convolutions]
    if _is_channels_first(shapes[0]):
        shapes = [(*shape[2:], shape[1], shape[0]) for shape in shapes]
    channels = [shapes[0][2], *filters[:-1]]
    return shapes == [(3, 3, *c) for c in zip(channels, filters, strict=True)]


def _check_names(base: Sequence[Pair], convolutions: Sequence[Pair]) -> None:
    """Raises a ValueError if convolutions of one shape are named so that it can't be told which comes first.

    HDF5 keeps no order. Keras numbers a model's layers, but attributes of a subclassed model have any name.
    """
    if all(is_numbered(a, b) for (a, _), (b, _) in pairwise(base)):
        return
    by_shape: dict[tuple[int, ...], list[Array]] = defaultdict(list)
    for kernel, _ in convolutions:
        by_shape[kernel.shape].append(kernel)
    for shape in {kernel.shape for kernel, _ in base}:
        for a, b in pairwise(by_shape[shape]):
            if not is_numbered(a, b):
                raise ValueError(
                    f"{_owner(a)} and {_owner(b)}: convolutions of one shape, and no numbers in their names say which comes first; "
                    "in Keras, call the attributes that hold them block1, block2, …, or copy the VGG's weights into a VGG16 and save that"
                )


def is_numbered(a: Array, b: Array) -> bool:
    """Tells whether the first parts in which two names differ do so by their numbers: `block1/conv2d_3`, `block2/conv2d`."""
    different = next(((x, y) for x, y in zip(a.name.split("/"), b.name.split("/"), strict=False) if x != y), ("", ""))
    x, y = (re.sub(r"[0-9]+", "0", re.sub(r"_[0-9]+$", "", part)) for part in different)
    return x == y


def check_between(arrays: Sequence[Array], base: Sequence[Pair], in_order: bool) -> None:
    """Raises a ValueError for arrays that may belong to a normalization, or a slope, between the VGG's convolutions.

    In a file that is in order they lie between the convolutions' arrays. Else they are as wide as a convolution, and no layer of
    the head is.
    """
    own = {array.name for pair in base for array in pair}
    places = [place for place, array in enumerate(arrays) if array.name in own]
    ranks: dict[str, set[int]] = defaultdict(set)
    for array in arrays:
        ranks[_owner(array)].add(len(array.shape))
    with_kernel = {owner for owner, found in ranks.items() if found & {2, 4} or found >= {1, 3}}
    heads = Counter(a.shape[-1] for a in arrays if len(a.shape) >= 2 and _owner(a) in with_kernel and a.name not in own)
    heads[LAST_FILTERS] += 1  # what comes after the last pool
    others: dict[str, Array] = {}
    for place, (before, array) in enumerate(zip((None, *arrays), arrays, strict=False)):
        is_bias = _owner(array) in with_kernel if _owner(array) else before is not None and len(before.shape) in (2, 4)
        if array.name in own or is_bias or len(array.shape) not in (1, 3):
            continue
        if in_order and places[0] < place < places[-1]:
            raise ValueError(_between(array))
        others.setdefault(_owner(array), array)
    for first in others.values() if not in_order else ():
        width = first.shape[-1]
        heads[width] -= 1
        if width in filters_of(len(base)) and heads[width] < 0:
            raise ValueError(_between(first))


def _between(array: Array) -> str:
    return (
        f"{array.name} {array.shape}: a layer that no VGG has, it seems between the convolutions; if it is in the head, "
        "save the whole model, model.save('x.keras'), and take that"
    )


def _block(convolution: Pair) -> tuple[int, int]:
    """`vgg16/block3_conv2/kernel:0` → (3, 2), the order in a VGG; a half-frozen model's file has another. Others come last."""
    match = CONVOLUTION_NAME.search(convolution[0].name)
    return (int(match[1]), int(match[2])) if match else (9, 9)


def _foreign(arrays: Sequence[Array], in_order: bool) -> str:
    try:
        base = {array.name for pair in _base(arrays, in_order) for array in pair}
    except ValueError as error:
        return f"{error}; other weights need their model's architecture, --architecture model.json"
    head = [array for array in arrays if array.name not in base] or arrays
    return (
        f"a VGG with a head that isn't Keras's own ({_shown(head)}), and how its layers are connected isn't in a file "
        "of weights; save the whole model, model.save('x.keras'), or give its architecture, --architecture model.json"
    )


def _shown(arrays: Sequence[Array]) -> str:
    return listed((f"{array.name} {array.shape}" for array in arrays), 3)
