"""The proof that comes with a conversion: every tensor against its source, and what comes out of the finished model
against a computation that shares no code with it. That computation is channels-last, straight from the Keras arrays, and
knows convolutions only as nine shifted matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .network import Layer, Network
from .writer import read_back

# The largest difference of any layer, relative to the layer's largest value. A wrong layout differs by about 1;
# float32 differs by 1e-6, and what the shorter types differ by is their rounding of the weights.
BOUNDS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

COMPARED = (None, "linear", "relu")  # activations that are part of what is compared

OPEN_SIZE = (64, 96)  # the image that is tried where any size goes in


@torch.no_grad()
def check_output(network: Network, path: Path, dtype: str) -> tuple[float, str]:
    """Checks the written file against the arrays it was made from.

    Returns:
        The largest relative error of any layer, and that layer's name.

    Raises:
        ValueError: a tensor isn't its source's, or a layer's error is beyond the bound of `dtype`.
    """
    check_tensors(network, path, dtype)
    height, width, channels = network.input_shape
    image = torch.empty(1, height or OPEN_SIZE[0], width or OPEN_SIZE[1], channels)
    image.uniform_(-128, 128, generator=torch.Generator().manual_seed(0))  # about what preprocess_input returns
    computed = finished_model_outputs(path, network, image)
    worst, largest = "", -1.0
    for name, expected in reference_outputs(network, image):
        error = relative_error(computed[name], expected)
        if not error <= BOUNDS[dtype]:
            raise ValueError(
                f"the check failed: the relative error at {name} is {error:.1e}, expected at most {BOUNDS[dtype]:.0e}"
            )
        if error > largest:
            worst, largest = name, error
    return largest, worst


def check_tensors(network: Network, path: Path, dtype: str) -> None:
    """Raises a ValueError unless each tensor of the file, laid out as Keras does, is its source bit for bit."""
    written = read_back(path)
    for key, weight in network.weights():
        source = weight.array.read().to(getattr(torch, dtype))
        if not _same_bits(weight.layout.to_keras(written.pop(key)), source):
            raise ValueError(f"the check failed: {key} isn't what {weight.array.name} holds")
    if written:
        raise ValueError(f"the check failed: tensors without a source: {', '.join(written)}")


def reference_outputs(network: Network, image: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each layer's name and output, channels-last, for a channels-last `image`; the last activation is left off.

    A Flatten's is put into PyTorch's order, to be compared; the Dense after it gets Keras's.
    """
    x = image
    for layer in network.layers:
        before, x = x, _reference(layer, x, network.theano)
        yield layer.name, before.movedim(-1, 1).flatten(1) if layer.class_name == "Flatten" else x


def finished_model_outputs(path: Path, network: Network, image: Tensor) -> dict[str, Tensor]:
    """The outputs of the model that a user gets from the file, channels-last; the last activation is left off.

    Softmax and its like turn differences of large scores into much larger ones of probabilities, so it is the scores that
    compare.
    """
    from torchvgg.loading import build  # the one place where the conversion meets the model

    model = build(network.architecture(), read_back(path))
    for layer in network.layers:
        if layer.config.get("activation") not in COMPARED:
            model.get_submodule(layer.name).activation = torch.nn.Identity()
    outputs = model.extract(image.permute(0, 3, 1, 2), [layer.name for layer in network.layers])
    return {name: output.movedim(1, -1) for name, output in outputs.items()}


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest absolute value expected.

    Values that aren't finite where they are expected (NaN is no number, be it the same) don't count; elsewhere they are
    an infinite error, and so is another number of values.
    """
    finite = expected.isfinite()
    computed = computed.reshape(-1)
    if computed.numel() != expected.numel() or not torch.equal(computed.isfinite(), finite.reshape(-1)):
        return float("inf")
    computed, expected = computed[finite.reshape(-1)], expected[finite]
    if not expected.numel():
        return 0.0
    return float((computed - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _reference(layer: Layer, x: Tensor, theano: bool) -> Tensor:
    match layer.class_name:
        case "Conv2D":
            kernel, bias = _arrays(layer)
            if theano:
                kernel = kernel.flip(2, 3).permute(2, 3, 1, 0)
            return _activate(_convolve(x, kernel) + bias, layer.config)
        case "Dense":
            kernel, bias = _arrays(layer)
            # A long row of products is added up in parts, in float64, lest the reference be the less exact of the two.
            parts = zip(x.split(1024, dim=-1), kernel.split(1024), strict=True)
            total = sum((a.double() @ b.double() for a, b in parts), start=bias.double())
            return _activate(total.float(), layer.config)
        case "MaxPooling2D":
            n, h, w, c = x.shape
            return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).amax((2, 4))
        case "GlobalAveragePooling2D":
            return x.mean((1, 2))
        case "GlobalMaxPooling2D":
            return x.amax((1, 2))
        case "Flatten":
            return (x.movedim(-1, 1) if theano else x).flatten(1)
        case other:
            raise ValueError(f"{layer.name}: no reference for a layer of type {other}")


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """A 3×3 convolution, zero-padded: the sum of nine matrix products, one for each shift of the image."""
    n, h, w, _ = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = x.new_zeros(n * h * w, kernel.shape[3])
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + h, j : j + w].reshape(n * h * w, -1)
            total.addmm_(shifted, kernel[i, j])
    return total.reshape(n, h, w, -1)


def _activate(x: Tensor, config: dict[str, Any]) -> Tensor:
    return x.clamp_min(0) if config.get("activation") == "relu" else x


def _arrays(layer: Layer) -> list[Tensor]:
    return [weight.array.read().float() for weight in layer.weights]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality that holds for NaN too, and tells -0.0 from 0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))
