"""Real Keras models with random weights, the files they write, and twins of files that today's Keras no longer writes."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import torch
from torch import Tensor

NETWORKS = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def keras_model(network: str = "vgg16", seed: int = 0, **arguments: Any) -> Any:
    """Keras's own model with He-scaled kernels and biases that aren't zero: every layer's output has the same scale."""
    model = NETWORKS[network](weights=None, **arguments)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = (tuple(weight.shape) for weight in layer.weights)
            scale = np.sqrt(2 / np.prod(kernel[:-1]))
            if layer.name == "predictions":
                scale /= 100  # scores of about 1, lest softmax saturate
            layer.set_weights([random.normal(0, scale, kernel), random.normal(0, 0.1, bias)])
    return model


def keras_outputs(model: Any, x: Tensor) -> dict[str, Tensor]:
    """The output of each of a Keras model's layers, channels-first, for a channels-first `x`."""
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    every = keras.Model(model.input, [layer.output for layer in layers])
    outputs = every(x.permute(0, 2, 3, 1))
    return {layer.name: output.movedim(-1, 1) for layer, output in zip(layers, outputs, strict=True)}


def arrays_of(model: Any) -> Arrays:
    """Each layer's name, kernel and bias, as Keras lays them out."""
    return {layer.name: tuple(layer.get_weights()) for layer in model.layers if layer.weights}


def write_twin(path: Path, model: Any, theano: bool = False) -> Path:
    """Writes the twin of the published file: Keras 1's structure, with its names; or of its Theano-ordered sister.

    Theano's kernels are `(out, in, kh, kw)` and turned round, and its flatten was channels-first.
    """
    arrays = arrays_of(model)
    with h5py.File(path, "w") as file:
        names = ["input_1", *(layer.name for layer in model.layers[1:])]
        file.attrs["layer_names"] = [name.encode() for name in names]
        before = model.input_shape
        for layer, name in zip(model.layers, names, strict=True):
            group = file.create_group(name)
            weights = arrays.get(name, ())
            weight_names = [f"{name}_{part}_1:0".encode() for part in "Wb"][: len(weights)]
            group.attrs["weight_names"] = weight_names
            for weight_name, array in zip(weight_names, weights, strict=True):
                group[weight_name.decode()] = to_theano(array, before) if theano else array
            if type(layer).__name__ != "InputLayer":
                before = layer.output.shape if name != "flatten" else before
    return path


def to_theano(array: np.ndarray, before: tuple[int, ...]) -> np.ndarray:
    """A Keras array as the Theano-ordered files hold it; `before` is the shape that goes into a Flatten."""
    if array.ndim == 4:
        return array[::-1, ::-1].transpose(3, 2, 0, 1)
    if array.ndim == 2 and len(before) == 4:
        _, height, width, channels = before
        return array.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return array


def relative_error(received: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value expected."""
    assert received.shape == expected.shape
    return float((received - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def images(*shape: int) -> Tensor:
    """Random images in the range that `preprocess_input` returns, `(N, C, H, W)`."""
    return torch.empty(shape).uniform_(-128, 128)
