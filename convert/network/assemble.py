"""."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..array import Array
from ..layout import CONV2D_KERNEL, THEANO_KERNEL, Layout
from .architecture import Chain, Described
from .arrays import Config, Features, Shape, Spec
from .graph import LayerError
from .kinds import ANY_ORDER, KINDS
from .network import Layer, Network, Weight
from .settings import settings

Wanted = tuple[Described, list[Spec]]  # a layer, and the arrays that it wants, in Keras's order


def assemble(
    chain: Chain,
    hand_out: Callable[[list[Wanted]], Iterable[Sequence[Array]]],
    keras_version: str = "3",
    kernels: Layout = CONV2D_KERNEL,
) -> Network:
    """The network of a chain.

    Args:
        chain: the layers.
        hand_out: returns each layer's arrays, in the order in which it is told of them.
        keras_version: whose defaults and names the chain's configurations follow.
        kernels: how the convolutions' arrays are laid out.

    Raises:
        ValueError: a layer can't be converted, or an array isn't its own; the message names it.
    """
    x = Features(chain.input_shape)
    wanted: list[Wanted] = []
    configs = []
    for position, described in enumerate(chain.layers):
        following = [later.class_name for later in chain.layers[position + 1 :]]
        try:
            config = _config(described, x, following, keras_version)
            specs = [_with_layout(spec, kernels) for spec in KINDS[described.class_name].arrays(config, x)]
            x = _output(described, config, x, kernels)
        except ValueError as error:
            raise LayerError(described.own_name, described.class_name, str(error)) from None
        wanted.append((described, specs))
        configs.append(config)
    layers = []
    for (described, specs), config, arrays in zip(wanted, configs, hand_out(wanted), strict=True):
        for spec, array in zip(specs, arrays, strict=True):
            if array.shape != spec.shape:
                raise ValueError(f"{array.name[:100]}: expected shape {spec.shape}. Received: {array.shape}")
            if not array.dtype.is_floating_point and spec.name != "count":
                raise ValueError(f"{array.name[:100]}: expected floating-point numbers. Received: whole ones")
        weights = [Weight(spec.name, array, spec.layout) for spec, array in zip(specs, arrays, strict=True)]
        layers.append(Layer(described.class_name, described.name, config, weights, described.trainable))
    return Network(chain.name, chain.input_shape, layers, kernels)


def _config(described: Described, x: Features, following: list[str], keras_version: str) -> Config:
    class_name = described.class_name
    if class_name == "Lambda":
        raise ValueError("code in the file, which is never run")
    if class_name not in KINDS:
        raise ValueError("a kind of layer that can't be converted")
    if len(x.shape) not in KINDS[class_name].ranks:
        raise ValueError(f"it can't be converted on an input of shape {(None, *x.shape)}")
    config = settings(class_name, described.config, x.shape, keras_version)
    if class_name == "Flatten":
        config["order"] = _order_of_flatten(following)
    return config


def _order_of_flatten(following: list[str]) -> str:
    """PyTorch's order where a Dense comes next to meet it, so that it costs nothing; Keras's where its output is seen."""
    meets = next((class_name for class_name in following if class_name not in ANY_ORDER), None)
    return "channels_first" if meets == "Dense" else "channels_last"


def _output(described: Described, config: Config, x: Features, kernels: Layout) -> Features:
    shape: Shape = KINDS[described.class_name].output(config, x.shape)
    if len(shape) not in (1, 3):
        raise ValueError(f"an output of shape {(None, *shape)} can't be converted")
    if any(size is not None and size < 1 for size in shape):
        raise ValueError(f"nothing is left of an input of shape {(None, *x.shape)}")
    if described.class_name == "Flatten" and len(x.shape) == 3:
        height, width, _ = x.shape
        moves = config["order"] == "channels_first" and kernels is not THEANO_KERNEL
        return Features(shape, (height, width) if moves and height and width else None)
    return Features(shape, x.flattened if described.class_name in ANY_ORDER else None)


def _with_layout(spec: Spec, kernels: Layout) -> Spec:
    """A convolution's kernel in the layout of a file's kernels; other arrays as they are."""
    if len(spec.shape) != 4:
        return spec
    height, width, channels, filters = spec.shape
    return Spec(spec.name, (filters, channels, height, width) if kernels is THEANO_KERNEL else spec.shape, kernels)
