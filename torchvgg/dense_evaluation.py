"""Dense evaluation: a classifier of images of one size as a fully convolutional network for larger ones.

Simonyan and Zisserman, 2014, section 3.2 (arXiv 1409.1556).
"""

import copy
from typing import Any

import torch
from torch import nn

from .activations import ACTIVATIONS, linear, relu_in_place
from .layers import activations, convolutional, core, normalization, pooling, preprocessing, regularization, reshaping
from .model import Model, check_is_model

# What these compute for a number depends on that number alone.
ELEMENTWISE = (
    *(activations.Activation, activations.ReLU, activations.LeakyReLU, activations.ELU, activations.ThresholdedReLU),
    *(regularization.Dropout, regularization.AlphaDropout, regularization.GaussianDropout),
    *(regularization.GaussianNoise, nn.ReLU, nn.Dropout, nn.Identity),
)
# For a place, on the channels of that place; in a vector the features are the channels.
CHANNELWISE = (
    *(normalization.BatchNormalization, normalization.LayerNormalization, normalization.UnitNormalization),
    activations.Softmax,
)
# On a window of places, which moves with the image.
LOCAL = (
    *(convolutional.Conv2D, convolutional.DepthwiseConv2D, convolutional.SeparableConv2D, reshaping.ZeroPadding2D),
    *(pooling.MaxPooling2D, pooling.AveragePooling2D, regularization.SpatialDropout2D, core.Dense, nn.Linear),
    *(preprocessing.PreprocessInput, preprocessing.Rescaling, preprocessing.Normalization),
)
POOLINGS = {
    pooling.GlobalAveragePooling2D: pooling.AveragePooling2D,
    pooling.GlobalMaxPooling2D: pooling.MaxPooling2D,
}
_MIXING = [ACTIVATIONS[name] for name in ("glu", "softmax", "log_softmax", "sparsemax")]  # over the channels


class FullyConvolutional(Model):
    """The fully convolutional twin of a classifier, made by `dense`: images `(N, C, H, W)` → maps `(N, classes, H', W')`.

    `head_layers` are the names of the layers that the classifier's head became, `window` is the `(height, width)` of the
    part of the base's last maps that each output looks at, `(7, 7)` for VGG16.
    """

    head_layers: tuple[str, ...] = ()
    window: tuple[int, int] = (1, 1)


def dense(model: Model) -> FullyConvolutional:
    """Returns the fully convolutional twin of a classifier, which takes images of its size or larger and scores every place.

    The first Dense after the Flatten becomes a convolution with a kernel of the flattened maps' size (`fc1` of VGG16 one of
    7×7), the others become 1×1 convolutions, and a global pooling becomes a pooling of that size with stride 1; layers keep
    their names. For VGG16 and VGG19, images `(N, 3, H, W)` from 224×224 up become `(N, classes, H // 32 - 6, W // 32 - 6)`,
    with the softmax, if there is one, over the channels. The mean over the places is the paper's score of the whole image.

    For an image of the model's size, the output is the model's. For larger ones, the head is the model's at each place: it
    sees the base's maps of the whole image through a window of 7×7. These maps aren't those of the 224×224 window cut out of
    the image: at its borders a cut-out has zeros where the image goes on, and what they change reaches into most of its maps
    (a place of VGG16's last maps sees 212×212 pixels).

    Args:
        model: a VGG16 or VGG19 with the top, or another chain from `load_model` of a fixed size: convolutions and
            poolings, a Flatten or a global pooling, then dense layers, with activations, normalizations and dropout.

    Returns:
        The twin, in the model's mode. Its tensors share the model's memory: what trains or loads one changes the other, while
        freezing, the mode, and a cast or move of one leave the other as it was.

    Raises:
        ValueError: the model isn't such a chain, or a layer would compute something else on a larger image.
    """
    check_is_model(model)
    channels, height, width = _shape_of_images(model)
    shapes = model.input_shapes | model._output_shapes()
    memo: dict[int, Any] = {id(buffer): buffer.detach() for buffer in model.buffers()}
    memo |= {id(weight): nn.Parameter(weight.detach(), weight.requires_grad) for weight in model.parameters()}
    base: dict[str, nn.Module] = {}
    head: dict[str, nn.Module] = {}
    window: tuple[int, int] | None = None  # of the last maps, once they were flattened or pooled
    kernel: tuple[int, int] = (1, 1)  # of the next dense layer: flattened features are a window of maps
    for node in model.nodes:
        layer: Any = model.get_submodule(node.layer)
        before = shapes[node.inputs[0]]
        if window is None and type(layer) in (reshaping.Flatten, *POOLINGS):
            window = kernel = before[2], before[3]  # type: ignore[assignment]  # fixed, as the image is
        if type(layer) in POOLINGS:
            head[node.name] = POOLINGS[type(layer)](kernel, 1)
            kernel = (1, 1)
        elif window and type(layer) in (core.Dense, nn.Linear) and _is_known(layer):
            head[node.name] = _convolution(layer, kernel, memo)
            kernel = (1, 1)
        elif type(layer) is reshaping.Flatten and layer.order == "channels_first":
            continue  # the convolution after it takes maps
        elif not _is_same_on_windows(layer, in_head=window is not None, is_flattened=kernel != (1, 1)):
            raise ValueError(
                f"dense: {node.name} ({type(layer).__name__}) isn't the same on each window of a larger image; expected "
                "convolutions and poolings, a Flatten or global pooling, then Dense layers, activations and normalizations"
            )
        else:
            (base if window is None else head)[node.name] = copy.deepcopy(layer, memo)
    if not window or not head or kernel != (1, 1):
        raise ValueError(f"dense: expected a model that ends in dense layers. Received: one that ends in {node.name}")
    twin = FullyConvolutional(base | head, (channels, None, None), model.name)
    twin.min_size = height, width
    twin.head_layers, twin.window = tuple(head), window
    twin.training = model.training  # the layers have their own
    return twin


def _shape_of_images(model: Model) -> tuple[int, int, int]:
    """Returns the `(C, H, W)` of the images of a chain. Raises a ValueError if that is open, or the model isn't a chain."""
    names = [*model.input_shapes, *(node.name for node in model.nodes)]
    is_chain = len({node.layer for node in model.nodes}) == len(model.nodes) == len(names) - 1
    if not is_chain or any(node.inputs != (before,) for before, node in zip(names, model.nodes, strict=False)):
        raise ValueError(
            f"dense: expected a chain of layers. Received: {model.name}, a graph with branches or more inputs"
        )
    if model.outputs != names[-1]:
        raise ValueError(f"dense: expected a model with one output, the last layer's. Received: {model.outputs}")
    shape = model.input_shapes[names[0]][1:]
    if len(shape) != 3 or None in shape:
        raise ValueError(
            "dense: expected a model of images of one size, as VGG16(input_shape=(3, 224, 224), …) makes it. "
            f"Received: one with inputs of {model.input_shape}"
        )
    return shape  # type: ignore[return-value]


def _convolution(layer: nn.Linear, kernel: tuple[int, int], memo: dict[int, Any]) -> convolutional.Conv2D:
    """Makes the convolution that computes a dense layer on windows of maps, with the same tensors."""
    channels, units = layer.in_features // (kernel[0] * kernel[1]), layer.out_features
    with torch.device("meta"):  # its tensors are replaced
        convolution = convolutional.Conv2D(channels, units, kernel)
    weight = layer.weight.detach().unflatten(1, (channels, *kernel))  # features are flattened from (C, H, W)
    convolution.weight = nn.Parameter(weight, layer.weight.requires_grad)
    convolution.bias = memo.get(id(layer.bias))
    convolution.activation = copy.deepcopy(getattr(layer, "activation", linear))
    return convolution.train(layer.training)


def _is_same_on_windows(layer: nn.Module, in_head: bool, is_flattened: bool) -> bool:
    """Tells whether a layer computes on a larger image what it computes on each window; in the head a window is one place.

    `is_flattened` says that the layer's features are a window of maps, whose channels are mixed with its places.
    """
    kinds = (*ELEMENTWISE, *(() if is_flattened else CHANNELWISE), *(() if in_head else LOCAL))
    is_over_channels = getattr(layer, "axis", -1) in (-1, [-1], (-1,))
    is_over_places = isinstance(layer, preprocessing.Normalization) and layer.mean.dim() > 1
    mixes = is_flattened and getattr(layer, "activation", None) in _MIXING
    return type(layer) in kinds and _is_known(layer) and is_over_channels and not is_over_places and not mixes


def _is_known(layer: nn.Module) -> bool:
    """Tells whether a layer's activation, if it has one, computes each number, or the channels of each place, by itself."""
    activation = getattr(layer, "activation", linear)
    return activation in (linear, relu_in_place, *ACTIVATIONS.values()) or type(activation) in ELEMENTWISE
