"""Kernels that Keras 3 stores in parts: adapters (LoRA), numbers of eight bits (int8)."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ...helpers.heads import L, base, chain, flattened_layers, with_random_weights
from ...helpers.keras_models import keras_model, relative_error

TOLERANCE = 2e-5


def built() -> Any:
    """Layers of all kinds that have such kernels, some of them in a model within."""
    front = [L.Conv2D(5, 3, name="images"), L.Reshape((5, 1)), L.Conv1D(4, 2), L.Flatten(), L.Dense(7, "relu")]
    inner = keras.Sequential([L.Dense(6, "relu"), L.BatchNormalization(), L.Dense(6, name="last")], name="inner")
    ends = [L.Rescaling(3.0), L.ReLU(max_value=9), L.Embedding(10, 4), L.Flatten(), L.Dense(3)]
    return with_random_weights(chain(base(96, 96), *front, inner, *ends))


def adapted(theirs: Any) -> Any:
    random = np.random.default_rng(0)
    for number, layer in enumerate(flattened_layers(theirs)):
        if hasattr(layer, "enable_lora") and layer.name not in ("block2_conv1", "last"):
            layer.enable_lora(2, lora_alpha=1 if number % 3 else None)
            b = layer.lora_embeddings_b if isinstance(layer, L.Embedding) else layer.lora_kernel_b
            b.assign(random.normal(0, 0.3, b.shape))
    return theirs


def dequantized(layer: Any) -> Tensor:
    """The kernel, as Keras computes it, in PyTorch's layout."""
    if isinstance(layer, L.Embedding):
        return layer._embeddings.value.float() / layer.embeddings_scale.value[:, None]
    return (layer._kernel.value.float() / layer.kernel_scale.value).T


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("frozen", [False, True])
def test_adapters_are_merged(suffix: str, frozen: bool, tmp_path: Path) -> None:
    theirs = adapted(built())
    kinds = {type(layer).__name__ for layer in flattened_layers(theirs) if getattr(layer, "lora_enabled", False)}
    assert kinds == {"Conv1D", "Conv2D", "Dense", "Embedding"}
    theirs.trainable = not frozen
    theirs.save(path := tmp_path / f"model{suffix}")
    x = torch.rand(2, 96, 96, 3) * 255
    expected, base_features = theirs(x), theirs.layers[0](x)
    ours = load_model(path)
    assert relative_error(ours(x.permute(0, 3, 1, 2)).detach(), expected.detach()) <= TOLERANCE
    features = ours.extract(x.permute(0, 3, 1, 2), ["block5_pool"])["block5_pool"]
    assert relative_error(features.permute(0, 2, 3, 1).detach(), base_features.detach()) <= TOLERANCE
    assert convert(path).max_relative_error <= TOLERANCE


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("with_adapters", [False, True])
def test_int8_is_dequantized(suffix: str, with_adapters: bool, tmp_path: Path) -> None:
    """Keras rounds the inputs of such layers too, to 1 in 127; the float network is what is compared."""
    theirs = built()
    theirs.quantize("int8")
    if with_adapters:
        adapted(theirs)
    theirs.save(path := tmp_path / f"model{suffix}")
    # What is saved in a .keras are whole numbers again, the adapters among them.
    saved = flattened_layers(keras.saving.load_model(path) if suffix == ".keras" else theirs)
    ours = load_model(path)
    whole = 0
    for layer in saved:
        if layer.quantization_mode == "int8":
            expected, whole = dequantized(layer), whole + 1
            if layer.lora_enabled and suffix == ".h5":
                letters = "embeddings" if isinstance(layer, L.Embedding) else "kernel"
                a, b = (getattr(layer, f"lora_{letters}_{letter}").value for letter in "ab")
                delta = layer.lora_alpha / layer.lora_rank * (a @ b)
                expected = expected + (delta if letters == "embeddings" else delta.T)
            received = ours.get_submodule(layer.name).weight.detach()
            torch.testing.assert_close(received, expected.detach(), rtol=0, atol=1e-6 if with_adapters else 0)
    assert whole == 5
    assert convert(path).max_relative_error <= TOLERANCE


@pytest.mark.parametrize("mode", ["float8", "int4"])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_other_ways_are_refused(mode: str, suffix: str, tmp_path: Path) -> None:
    theirs = chain(base(32, 32), L.Flatten(), L.Dense(4, name="head"))
    theirs.quantize(mode)
    theirs.save(path := tmp_path / f"model{suffix}")
    with pytest.raises(ValueError, match=rf"layer 'head' \(Dense\): quantized as {mode}.*; only int8 can be converted"):
        load_model(path)


def test_weights_alone(tmp_path: Path) -> None:
    """An adapted model's `.weights.h5` is as any other; of a quantized one the top is whole numbers."""
    theirs = keras_model(input_shape=(32, 32, 3), classes=7, include_top=True)
    theirs.get_layer("block3_conv2").enable_lora(2, b_initializer="normal")
    theirs.quantize("int8")
    theirs.save_weights(path := tmp_path / "x.weights.h5")
    theirs.save(whole := tmp_path / "x.h5")
    ours = VGG16(weights=path, input_shape=(3, 32, 32), classes=7)
    for layer in (layer for layer in theirs.layers if layer.weights):
        own = ours.get_submodule(layer.name).weight.detach()
        if isinstance(layer, L.Dense):
            assert torch.equal(own, dequantized(layer))
        else:
            assert relative_error(own, keras.ops.convert_to_tensor(layer.kernel).permute(3, 2, 0, 1).detach()) <= 1e-6
    base_only = VGG16(weights=whole, include_top=False)
    assert relative_error(base_only.block3_conv2.weight.detach(), ours.block3_conv2.weight.detach()) <= 1e-6
