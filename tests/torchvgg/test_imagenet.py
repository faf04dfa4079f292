"""`preprocess_input`, `decode_predictions` and the labels, against Keras's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from torchvgg import decode_predictions, preprocess_input
from torchvgg.imagenet import labels

CLASS_INDEX_MD5 = "c2c37ea517e94d9795004a39431a14cb"  # of Keras's imagenet_class_index.json


def keras_class_index() -> str:
    return json.dumps({str(number): list(label) for number, label in enumerate(labels())})


def test_labels_render_to_keras_file() -> None:
    assert hashlib.md5(keras_class_index().encode()).hexdigest() == CLASS_INDEX_MD5


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("kind", ["ndarray", "tensor"])
def test_preprocess_input_is_keras(dtype: str, shape: tuple[int, ...], data_format: str, kind: str) -> None:
    x = np.random.default_rng(0).uniform(0, 255, shape).astype(dtype)
    if data_format == "channels_last":
        x = np.moveaxis(x, -3, -1)
    expected = keras.applications.vgg16.preprocess_input(x.copy(), data_format=data_format)
    given: Any = torch.from_numpy(x.copy()) if kind == "tensor" else x.copy()
    received = preprocess_input(given, data_format=data_format)
    np.testing.assert_array_equal(np.asarray(given), x, "the input was changed")
    assert str(received.dtype).removeprefix("torch.") == (dtype if dtype.startswith("float") else "float32")
    # One subtraction a number: the same to the last digit, but for float64, where Keras's own mean is float64 too.
    np.testing.assert_array_equal(np.asarray(received), expected)


@pytest.mark.parametrize(
    ("x", "data_format", "message"),
    [
        (np.zeros((224, 224, 3)), "channels_first", r"Received shape: \(224, 224, 3\).*data_format='channels_last'"),
        (torch.zeros(1, 3, 8, 8), "channels_last", r"Received shape: \(1, 3, 8, 8\).*data_format='channels_first'"),
        (torch.zeros(8, 8), "channels_first", r"3-D or 4-D. Received shape: \(8, 8\)"),
        (torch.zeros(3, 8, 8), "channels_lost", "Received: 'channels_lost'"),
        ([[[0.0]]], "channels_first", "Received: list"),
    ],
)
def test_preprocess_input_refuses(x: Any, data_format: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess_input(x, data_format=data_format)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_decode_predictions_is_keras(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        keras.src.applications.imagenet_utils, "CLASS_INDEX", json.loads(keras_class_index())
    )  # which Keras would download
    preds = np.random.default_rng(0).random((3, 1000), np.float32)
    preds[1, 10:20] = 2  # a tie
    for top in (1, 5):
        expected = keras.applications.vgg16.decode_predictions(preds, top=top)
        assert decode_predictions(kind(preds), top=top) == expected


def test_decode_predictions_takes_what_a_model_returns() -> None:
    preds = torch.zeros(1, 1000, dtype=torch.bfloat16, requires_grad=True)
    (best,) = decode_predictions(preds + torch.eye(1000)[281], top=1)
    assert best == [("n02123045", "tabby", 1.0)]


@pytest.mark.parametrize("shape", [(1000,), (1, 999), (1, 1000, 1)])
def test_decode_predictions_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected predictions of shape \(N, 1000\)"):
        decode_predictions(torch.zeros(shape))
