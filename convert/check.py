"""The check of a conversion: every tensor of the written file against its source, and the output of each layer of the finished
model against a channels-last computation from the Keras arrays, the `reference` of the layer's kind.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .layout import THEANO_KERNEL, TURNED_KERNEL, images_to_keras, images_to_torch
from .network.graph import unused_after
from .network.kinds import KINDS, Settings, Shape
from .network.kinds.activations import activate
from .network.network import Layer, Network

Build = Callable[[Mapping[str, Any], Mapping[str, Tensor]], Any]  # makes the model of an architecture and its tensors

# The largest difference of any layer, relative to the layer's largest value. A wrong layout differs by about 1;
# float32 differs by 1e-6, and what the shorter types differ by is their rounding of the weights.
BOUNDS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

OPEN_SIZE = (64, 96)  # the image that is tried where any size goes in
MOST_WORK = 10**11  # multiplications: some seconds of two cores
STEP = 10**6  # multiplications that take as long as one step in Python
MOST_NUMBERS = 2**24  # of one layer's map, over all the places of a window: 64 channels of 512×512

# These activations make small differences no larger. The others may be steep, softmax above all: they are compared by
# themselves, on the model's own scores, and so are the layers whose kind `is_steep`.
GENTLE = ("linear", "relu")


@torch.no_grad()
def check_conversion(network: Network, written: dict[str, Tensor], dtype: str, build: Build) -> tuple[float, str]:
    """Checks the tensors of a written file against the arrays they were made from.

    Returns:
        The largest relative error of any layer, and that layer's name.

    Raises:
        ValueError: a tensor isn't its source's, or a layer's error is beyond the bound of `dtype`.
    """
    check_tensors(network, written, dtype)
    worst, largest = "", -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the inputs aren't the pixels that a preprocess_input in the model expects
        errors = list(layer_errors(network, build(network.architecture(), written), example_inputs(network)))
    for name, error in errors:
        if not error <= BOUNDS[dtype]:
            raise ValueError(
                f"the check failed: the relative error at {name} is {error:.1e}, expected at most {BOUNDS[dtype]:.0e}"
            )
        if error > largest:
            worst, largest = name, error
    return largest, worst


def example_inputs(network: Network) -> dict[str, Tensor]:
    """Makes an input of each kind that a network takes: an image in ±128, about what preprocess_input returns, or tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = min(
        (layer.settings["input_dim"] for layer in network.layers if layer.class_name == "Embedding"), default=0
    )
    inputs = {}
    for name, shape in _example_shapes(network).items():
        x = torch.empty(1, *(size or 0 for size in shape)).uniform_(-128, 128, generator=generator)
        inputs[name] = x.abs().floor() % tokens if tokens and len(shape) < 3 else x
    return inputs


def _example_shapes(network: Network) -> dict[str, Shape]:
    """Returns the shapes of the inputs, with sizes instead of open ones."""
    return {
        name: (*(n or size for n, size in zip(shape[-3:], OPEN_SIZE, strict=False)), *shape[2:])
        if len(shape) == 3
        else tuple(size or OPEN_SIZE[0] for size in shape)
        for name, shape in network.inputs.items()
    }


def check_work(network: Network) -> None:
    """Raises a ValueError if the check would take more time or memory than a conversion may: any file declares any size."""
    shapes: dict[str, Shape] = _example_shapes(network)
    layers = {layer.name: layer for layer in network.layers}
    work = 0
    for node in network.nodes:
        layer, kind = layers[node.layer], KINDS[layers[node.layer].class_name]
        arguments: Any = [shapes[name] for name in node.inputs]
        before = arguments[0]
        shape = shapes[node.name] = kind.output(layer.settings, *arguments[: kind.inputs[1]])
        is_lookup = layer.class_name == "Embedding"  # it takes rows, and multiplies nothing
        kernels = [weight.shape for weight in layer.weights if len(weight.shape) in (2, 3, 4) and not is_lookup]
        places = math.prod(size or 0 for size in shape[:-1])
        numbers = places * max(*(kernel[0] for kernel in kernels), *(size or 0 for size in shape[-1:]), 1, 1)
        steps = kind.steps(layer.settings, before)
        work += max(max(places, steps) * sum(map(math.prod, kernels)), numbers * steps, STEP * steps)
        if work > MOST_WORK or max(numbers, _padded(layer.settings, before)) * steps > MOST_NUMBERS:
            received = "×".join(str(size) for size in next(iter(_example_shapes(network).values()))[:2])
            raise ValueError(
                f"{layer.name}: images of {received} are too large to be checked here; --no-check leaves the check out"
            )


def _padded(settings: Settings, shape: Shape) -> int:
    """Counts the numbers of a map with the padding that its layer may put around it."""
    if len(shape) != 3:
        return 0
    size = settings.get("kernel_size") or settings.get("pool_size") or (1, 1)
    spans = [length * step for length, step in zip(size, settings.get("dilation_rate", (1, 1)), strict=True)]
    return math.prod((length or 0) + span for length, span in zip(shape[:2], spans, strict=True)) * max(
        shape[2] or 0, settings.get("filters", 0)
    )


def check_tensors(network: Network, written: dict[str, Tensor], dtype: str) -> None:
    """Raises a ValueError unless each tensor, in Keras's layout, is its source bit for bit."""
    left = dict(written)
    for key, weight in network.weights():
        tensor = left.pop(key, torch.empty(0))
        for units in weight.parts():
            source = weight.array.read(units)
            source = source.to(getattr(torch, dtype)) if source.is_floating_point() else source
            if tensor.shape != weight.shape or not _same_bits(weight.layout.to_keras(tensor[units]), source):
                raise ValueError(f"the check failed: {key} isn't what {weight.array.name} holds")
    if left:
        raise ValueError(f"the check failed: tensors without a source: {', '.join(left)}")


def layer_errors(network: Network, model: Any, inputs: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yields each call's name and the relative error of the module's output, for channels-last `inputs`.

    The two computations are independent, but for steep activations, which get the model's own scores.
    """
    expected = dict(inputs)
    received = {name: images_to_torch(x) for name, x in inputs.items()}
    # The channels-first shape of features that PyTorch flattened in its own order.
    flattened: dict[str, torch.Size | None] = {}
    layers = {layer.name: layer for layer in network.layers}
    modules = dict(zip(layers, model.children(), strict=True))
    for node, unused in zip(network.nodes, unused_after(network.nodes, ()), strict=True):
        layer, module, kind = layers[node.layer], modules[node.layer], KINDS[layers[node.layer].class_name]
        given = [received[name] for name in node.inputs]
        order = flattened.get(node.inputs[0])
        source = (
            [_in_keras_order(x, order) for x in given] if kind.is_steep else [expected[name] for name in node.inputs]
        )
        if layer.class_name == "Flatten":
            if network.kernels is THEANO_KERNEL:
                source = [x.movedim(-1, 1) for x in source]  # as Theano flattens, and PyTorch
            elif layer.settings["order"] == "channels_first" and given[0].dim() == 4:
                order = given[0].shape[1:]
        elif not kind.any_order:
            order = None
        result = kind.reference(layer.settings, _arrays(layer), *source)
        activation = "linear" if kind.activates_within else layer.settings.get("activation", "linear")
        if activation not in GENTLE and not kind.is_steep:
            scores = _in_keras_order(_without_activation(module, *given), order)
            yield node.name, relative_error(scores, result)
            result = scores
        expected[node.name] = activate(activation, result)
        received[node.name] = module(*given)
        flattened[node.name] = order
        yield node.name, relative_error(_in_keras_order(received[node.name], order), expected[node.name])
        for name in unused:
            del expected[name], received[name]


def _without_activation(module: Any, *inputs: Tensor) -> Tensor:
    activation, module.activation = module.activation, torch.nn.Identity()
    scores: Tensor = module(*inputs)
    del module.activation
    module.activation = activation
    return scores


def _in_keras_order(x: Tensor, flattened: torch.Size | None) -> Tensor:
    """Moves the channels to the end, also within features that were `flattened` from that shape."""
    if flattened:
        return x.unflatten(1, flattened).movedim(1, -1).flatten(1)
    return images_to_keras(x)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """Returns the largest absolute difference over the largest absolute value expected.

    Values that aren't finite don't count where that is expected; elsewhere they are an infinite error, and so is another
    number of values.
    """
    if computed.numel() != expected.numel():
        return float("inf")
    computed, expected = computed.reshape(-1).float(), expected.reshape(-1).float()
    finite = expected.isfinite()
    if not torch.equal(computed.isfinite(), finite):
        return float("inf")
    if not expected.numel():
        return 0.0
    largest = expected.where(finite, 0).abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((computed - expected).where(finite, 0).abs_().max() / largest)


def _arrays(layer: Layer) -> list[Tensor]:
    """Reads a layer's arrays in the layout of Keras on TensorFlow, as float32."""
    arrays = []
    for weight in layer.weights:
        array = weight.array.read().float()
        if weight.layout is THEANO_KERNEL:
            array = array.flip(2, 3).permute(2, 3, 1, 0)
        arrays.append(array.flip(0, 1) if weight.layout is TURNED_KERNEL else array)
    return arrays


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Compares bits: NaN equals itself, and -0.0 isn't 0.0."""
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))
