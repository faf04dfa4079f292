"""What a model does with an input that isn't meant for it: an error that says so, or the right answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchvgg import VGG16, decode_predictions, load_model, preprocess_input
from torchvgg.layers.convolutional import Conv2D
from torchvgg.layers.core import Dense
from torchvgg.layers.normalization import BatchNormalization
from torchvgg.layers.pooling import AveragePooling2D, MaxPooling2D

from ..helpers.keras_models import keras_model, write_twin

KERAS2 = Path(__file__).parents[1].joinpath("data") / "keras2"


@pytest.fixture(scope="module")
def model() -> VGG16:
    torch.manual_seed(0)
    return VGG16(weights=None, include_top=False, pooling="avg").eval()


X = torch.rand(1, 3, 40, 33)
NO_INPUTS: list[tuple[Any, str]] = [
    (X.int(), "expected a floating-point tensor; call preprocess_input first. Received: torch.int32"),
    (X.byte(), "expected a floating-point tensor.*torch.uint8"),
    (X.bool(), "expected a floating-point tensor.*torch.bool"),
    (X.to(torch.complex64), "expected a floating-point tensor.*torch.complex64"),
    (X.double(), "expected a tensor like the weights, torch.float32 on cpu. Received: torch.float64 on cpu"),
    (X.half(), "expected a tensor like the weights, torch.float32 on cpu. Received: torch.float16 on cpu"),
    (X.bfloat16(), "torch.bfloat16 on cpu"),
    (X.to("meta"), "Received: torch.float32 on meta"),
    (X.to_sparse(), "expected a dense torch.Tensor. Received: torch.sparse_coo"),
    (X.numpy(), "expected a dense torch.Tensor. Received: ndarray"),
    (None, "expected a dense torch.Tensor. Received: NoneType"),
    (X[..., :31], r"\(N, 3, 32 or more, 32 or more\). Received: \(1, 3, 40, 31\)"),
    (X[..., :0], r"\(N, 3, 32 or more, 32 or more\). Received: \(1, 3, 40, 0\)"),
    (X[0], "lacks the batch axis"),
    (X[:, :1], r"Received: \(1, 1, 40, 33\)"),
]


@pytest.mark.parametrize(("x", "message"), NO_INPUTS)
def test_what_is_no_input_is_refused(model: VGG16, x: Any, message: str) -> None:
    for call in (model, lambda x: model.extract(x, ["block1_conv1"])):
        with pytest.raises(ValueError, match=message):
            call(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_type_wants_that_type(dtype: torch.dtype) -> None:
    model = VGG16(weights=None, include_top=False, pooling="max").to(dtype).eval()
    with torch.no_grad():
        assert model(X.to(dtype)).dtype == dtype
        for other in {torch.float16, torch.float32, torch.float64} - {dtype}:
            with pytest.raises(ValueError, match=f"weights, {dtype} on cpu. Received: {other}"):
                model(X.to(other))


def test_autocast_takes_what_it_casts(model: VGG16) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for x in (X, X.bfloat16()):
            assert model(x).dtype == torch.bfloat16


def test_weights_that_are_nowhere_compute_nothing() -> None:
    """PyTorch 2.13 lets a convolution with weights on "meta" return what lies in memory."""
    nowhere = VGG16(weights=None, include_top=False).to("meta")
    with pytest.raises(ValueError, match=r"torch.float32 on meta. Received: torch.float32 on cpu"):
        nowhere(X)
    with pytest.raises(ValueError, match=r"torch.float32 on meta. Received: torch.float32 on cpu"):
        Dense(3, 2).to("meta")(X[0, :, 0])
    assert nowhere(X.to("meta")).shape == (1, 512, 1, 1)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_comes_out_as_none(number: float) -> None:
    """Where Keras has NaN or infinity, and nowhere else."""
    reference = keras_model(include_top=False)
    model = VGG16(weights=None, include_top=False).eval()
    tensors = [torch.from_numpy(np.array(weight)) for weight in reference.get_weights()]
    with torch.no_grad():
        for parameter, tensor in zip(model.parameters(), tensors, strict=True):
            parameter.copy_(tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor)
        x = 100 * torch.randn(2, 3, 448, 32)  # most places of the second image see nothing of it
        x[0, 1, 5, 7] = x[1, 2, 440, 30] = number
        received = model(x)
    expected = reference(x.permute(0, 2, 3, 1).numpy(), training=False).detach().numpy().transpose(0, 3, 1, 2)
    assert np.array_equal(received.isfinite().numpy(), np.isfinite(expected))
    assert np.isnan(received.numpy()).any()
    assert received.isfinite().any()


@pytest.mark.parametrize("file", ["trained.h5", "functional.h5", "flat.h5"])
def test_nan_and_empty_batches_go_through_heads(file: str) -> None:
    model = load_model(KERAS2 / file)
    _, *image = model.input_shape
    x = torch.rand(2, *[size or 32 for size in image])
    with torch.no_grad():
        full, empty, nan = model(x), model(x[:0]), model(torch.stack([x[0], x[1] * torch.nan]))
    assert empty.shape == (0, *full.shape[1:])
    assert torch.allclose(nan[0], full[0])
    assert nan[1].isnan().all()


def test_an_empty_batch_has_no_moments() -> None:
    layer = BatchNormalization(3)
    with pytest.raises(ValueError, match=r"at least one image in training. Received shape: \(0, 3, 8, 8\)"):
        layer(torch.zeros(0, 3, 8, 8))
    assert layer.running_mean.isfinite().all()
    assert layer.eval()(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("layer", [MaxPooling2D, AveragePooling2D, lambda size, **more: Conv2D(3, 2, size, **more)])
def test_maps_that_are_too_small_for_a_window(layer: Callable[..., nn.Module], padding: str) -> None:
    """An open model's images may be too small for what is deep in it."""
    if padding == "same":
        assert layer(5, padding=padding)(torch.rand(1, 3, 4, 4)).isfinite().all()
        return
    with pytest.raises(RuntimeError, match=r"too small|can't be greater than actual input size"):
        layer(5, padding=padding)(torch.rand(1, 3, 4, 4))


def test_an_open_model_of_a_file_refuses_what_is_too_small(tmp_path: Path) -> None:
    base = keras_model(include_top=False)
    head = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    head.save(path := tmp_path / "open.keras")
    model = load_model(path)
    assert model.input_shape == (None, 3, None, None)
    assert model(torch.rand(1, 3, 32, 45)).shape == (1, 2)
    for size in ((31, 32), (1, 1)):
        with pytest.raises((ValueError, RuntimeError), match=r"too small|or more"):
            model(torch.rand(1, 3, *size))


def test_preprocessing_and_decoding_refuse_what_they_cannot_take() -> None:
    no_numbers: list[Any] = [X.to(torch.complex64), X.numpy().astype("c8"), X.numpy().astype(object)]
    for x in no_numbers:
        with pytest.raises(ValueError, match="expected real numbers"):
            preprocess_input(x)
    assert preprocess_input(X[:0]).shape == (0, 3, 40, 33)
    assert preprocess_input(X * torch.nan).isnan().all()
    assert decode_predictions(torch.rand(0, 1000)) == []


def right(x: Tensor, path: Path) -> Tensor:
    return VGG16(weights=path, include_top=False)(x)


def test_what_comes_in_another_order_in_memory_is_right(tmp_path: Path) -> None:
    """Slices, steps, flips and channels-last are the same numbers."""
    path = write_twin(tmp_path / "twin.h5", keras_model(include_top=False))
    large = torch.randn(2, 4, 80, 66)
    x = large[1:, :3, ::2, 1::2]
    with torch.no_grad():
        expected = right(x.contiguous(), path)
        for same in (x, x.contiguous(memory_format=torch.channels_last), x.expand(2, -1, -1, -1)[1:]):
            assert torch.allclose(right(same, path), expected, rtol=1e-4, atol=1e-5)
