"""`preprocess_input`, `decode_predictions` and the labels, against Keras's."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from torchvgg import decode_predictions, optimize_for_inference, preprocess_input
from torchvgg.imagenet import labels
from torchvgg.layers import PreprocessInput
from torchvgg.model import Model

from ..helpers.photos import photo

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
        (np.zeros((224, 224, 4)), "channels_last", r"Received shape: \(224, 224, 4\)$"),
        ([[[0.0]]], "channels_first", "Received: list"),
        (Image.new("RGB", (8, 8)), "channels_first", r"Received: Image; .* np.array\(image\), .*channels_last"),
    ],
)
def test_preprocess_input_refuses(x: Any, data_format: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess_input(x, data_format=data_format)


def pixels() -> torch.Tensor:
    return torch.from_numpy(np.asarray(photo("coffee.png", (64, 48)))).permute(2, 0, 1).float()[None].repeat(3, 1, 1, 1)


def with_edges_overshot() -> torch.Tensor:
    """As bicubic resizing leaves them."""
    return torch.nn.functional.interpolate(pixels() // 128 * 255, scale_factor=3.3, mode="bicubic")


SCALED = r"Received: images in \[0, 1\], as torchvision's ToTensor\(\) makes them; call preprocess_input\(255 \* x\)"
TWICE = "Received: images with negative values, as if they had been preprocessed already"
RANGES: dict[str, tuple[Callable[[], Any], str | None]] = {
    "ToTensor": (lambda: pixels() / 255, SCALED),
    "half": (lambda: (pixels() / 255).half(), SCALED),
    "of an array": (lambda: (pixels() / 255).numpy(), SCALED),
    "one image": (lambda: pixels()[0] / 255, SCALED),
    "of one pixel": (lambda: torch.full((3, 1, 1), 0.5), SCALED),
    "with gradients": (lambda: (pixels() / 255).requires_grad_(), SCALED),
    "preprocessed": (lambda: preprocess_input(pixels()), TWICE),
    "preprocessed array": (lambda: preprocess_input(pixels().numpy()), TWICE),
    "signed": (lambda: pixels() / 127.5 - 1, TWICE),
    "standardized": (lambda: (pixels() / 255 - 0.45) / 0.23, TWICE),
    "pixels": (pixels, None),
    "edges overshot": (with_edges_overshot, None),
    "black": (lambda: torch.zeros(2, 3, 8, 8), None),
    "dark": (lambda: (pixels() > 200).float(), None),  # 0 and 1 of 255
    "dark at first": (lambda: torch.cat([pixels().repeat(3, 1, 1, 1) / 255, pixels()]), None),
    "integers": (lambda: pixels().byte() // 128, None),
    "boolean": (lambda: pixels() > 200, None),
    "none": (lambda: torch.zeros(0, 3, 8, 8), None),
    "not numbers": (lambda: torch.full((1, 3, 8, 8), float("nan")), None),
    "meta": (lambda: torch.empty(1, 3, 8, 8, device="meta"), None),
}


@pytest.mark.parametrize("case", RANGES)
def test_images_in_another_range_are_told(case: str) -> None:
    make, message = RANGES[case]
    x = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preprocess_input(x)
    assert len(caught) == (message is not None)
    if message:
        with pytest.warns(UserWarning, match=message) as seen:
            preprocess_input(x)
        assert seen[0].filename == __file__


def test_they_are_told_once_for_a_line_of_code() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            preprocess_input(torch.rand(1, 3, 8, 8))
    assert len(caught) == 1
    model = Model({"preprocess_input": PreprocessInput()}, (3, 8, 8), "model")
    for own in (model, optimize_for_inference(model)):  # the line is the user's, however deep the layer
        with pytest.warns(UserWarning, match=SCALED) as seen:
            own(torch.rand(1, 3, 8, 8))
        assert seen[0].filename == __file__


class Preprocess(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return preprocess_input(x)


MEAN = torch.tensor([103.939, 116.779, 123.68]).reshape(3, 1, 1)
TRANSFORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "torch.compile": lambda x: torch.compile(preprocess_input, fullgraph=True, backend="eager")(x),
    "torch.export": lambda x: torch.export.export(Preprocess(), (x,)).module()(x),
    "torch.export, strict": lambda x: torch.export.export(Preprocess(), (x,), strict=True).module()(x),
    "torch.jit.trace": lambda x: torch.jit.trace(Preprocess(), x)(x),
    "torch.vmap": lambda x: torch.vmap(preprocess_input)(x[:, None])[:, 0],
    "torch.func.jvp": lambda x: torch.func.jvp(lambda y: preprocess_input(255 * y) / 255, (x,), (x,))[1] - MEAN / 255,
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "error::UserWarning",
    "ignore:.*get_attr.? Node",  # PyTorch 2.6's own, of the constants
)
def test_transforms_neither_warn_nor_break(name: str) -> None:
    x = torch.rand(2, 3, 16, 16)
    received = TRANSFORMS[name](x)
    assert "aten::min" not in str(torch.jit.trace(Preprocess(), x).graph)
    torch.testing.assert_close(received, x.flip(1) - (MEAN / 255 if "jvp" in name else MEAN))


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
