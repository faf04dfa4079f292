"""A chain of layers, and the arrays that they ask for → a `Network`."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..array import Array
from ..errors import LayerError
from ..layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .chain import Chain, Described
from .kinds import KINDS, Features, Settings, Shape, Spec
from .network import Layer, Network, Weight
from .settings import read_settings

LARGEST = 2**40  # numbers of one map, more than any memory holds


class Planned(NamedTuple):
    """A layer, its settings, and the arrays that it needs, in Keras's order."""

    described: Described
    settings: Settings
    specs: list[Spec]


def plan(chain: Chain, keras_version: str = "3", kernels: Layout = CONV2D_KERNEL) -> list[Planned]:
    """Finds the settings and the arrays of a chain's layers, one fed by the other.

    The configurations follow the defaults and names of `keras_version`; `kernels` is the layout of the convolutions'.
    Raises a LayerError for a layer that can't be converted.
    """
    x = Features(chain.input_shape)
    layers = []
    for position, described in enumerate(chain.layers, start=1):
        try:
            _check_kind(described.class_name, x)
            settings = read_settings(described.class_name, described.config, x.shape, keras_version)
            if described.class_name == "Flatten":
                settings["order"] = _order_of_flatten(later.class_name for later in chain.layers[position:])
            specs = [_with_layout(spec, kernels) for spec in KINDS[described.class_name].arrays(settings, x)]
            x = _output(described.class_name, settings, x, kernels)
        except ValueError as error:
            raise LayerError(described.own_name, described.class_name, str(error)) from None
        layers.append(Planned(described, settings, specs))
    return layers


def assemble(
    chain: Chain,
    hand_out: Callable[[list[Planned]], Iterable[Sequence[Array]]],
    keras_version: str = "3",
    kernels: Layout = CONV2D_KERNEL,
) -> Network:
    """Makes the network of a chain, with the arrays that `hand_out` returns for each of the planned layers.

    Raises a ValueError if a layer can't be converted, or an array isn't its own; the message names it.
    """
    planned = plan(chain, keras_version, kernels)
    layers = []
    for (described, settings, specs), arrays in zip(planned, hand_out(planned), strict=True):
        for spec, array in zip(specs, arrays, strict=True):
            if array.shape != spec.shape:
                raise ValueError(f"{array.name[:100]}: expected shape {spec.shape}. Received: {array.shape}")
            if not array.dtype.is_floating_point and spec.name != "count":
                raise ValueError(f"{array.name[:100]}: expected floating-point numbers. Received: whole ones")
        weights = [Weight(spec.name, array, spec.layout) for spec, array in zip(specs, arrays, strict=True)]
        layers.append(Layer(described.class_name, described.name, settings, weights, described.trainable))
    return Network(chain.name, chain.input_shape, layers, kernels)


def _check_kind(class_name: str, x: Features) -> None:
    if class_name == "Lambda":
        raise ValueError("code in the file, which is never run")
    if class_name not in KINDS:
        raise ValueError("a kind of layer that can't be converted")
    if len(x.shape) not in KINDS[class_name].ranks:
        raise ValueError(f"it can't be converted on an input of shape {(None, *x.shape)}")


def _order_of_flatten(following: Iterable[str]) -> str:
    """Chooses PyTorch's order if a Dense comes next to meet it, so that it costs nothing; Keras's if the output is seen."""
    meets = next((name for name in following if name not in KINDS or not KINDS[name].any_order), None)
    return "channels_first" if meets == "Dense" else "channels_last"


def _output(class_name: str, settings: Settings, x: Features, kernels: Layout) -> Features:
    shape = KINDS[class_name].output(settings, x.shape)
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"an output of shape {(None, *shape)} can't be converted")
    if any(size is not None and size < 1 for size in shape):
        raise ValueError(f"nothing is left of an input of shape {(None, *x.shape)}")
    _check_shape(tuple(size or 1 for size in shape))
    if class_name == "Flatten" and len(x.shape) == 3:
        height, width, _ = x.shape
        moves = settings["order"] == "channels_first" and kernels is not THEANO_KERNEL
        return Features(shape, (height, width) if moves and height and width else None)
    return Features(shape, x.flattened if KINDS[class_name].any_order else None)


def _check_shape(shape: Shape) -> None:
    """Raises a ValueError for an array whose size is open, or beyond any memory."""
    if None in shape:
        raise ValueError(f"an array of shape {shape}: it needs images of a fixed size")
    if math.prod(size or 0 for size in shape) > LARGEST:
        raise ValueError(f"an array of shape {shape} is larger than any memory")


def _with_layout(spec: Spec, kernels: Layout) -> Spec:
    """Gives a convolution's kernel the layout of the file's kernels; leaves other arrays as they are."""
    if spec.layout is CONV2D_KERNEL:
        height, width, channels, filters = spec.shape
        shape = (filters, channels, height, width) if kernels is THEANO_KERNEL else spec.shape
        spec = spec._replace(shape=shape, layout=kernels)
    _check_shape(spec.shape)
    return spec
