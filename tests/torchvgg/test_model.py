"""The model against Keras's own numbers: names, shapes, parameters, summaries, refusals. Full size, on the meta device."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import nn

from torchvgg import VGG16, VGG19, vgg16, vgg19

ROOT = Path(__file__).parents[2]
NETWORKS: dict[str, Any] = {"vgg16": VGG16, "vgg19": VGG19}
REFERENCE = json.loads(Path(__file__).parents[1].joinpath("data").joinpath("keras_layers.json").read_text("utf-8"))[
    "models"
]


def meta(network: str = "vgg16", **arguments: Any) -> Any:
    with torch.device("meta"):
        return NETWORKS[network](**{"weights": None} | arguments)


def channels_first(shape: list[int | None]) -> tuple[int | None, ...]:
    return (shape[0], shape[-1], *shape[1:-1])


def label(model: dict[str, Any]) -> str:
    return f"{model['network']} {model['arguments']}"


def table_rows(lines: list[str]) -> list[list[str]]:
    """The texts of a summary's rows, those that are wrapped put together again."""
    rows: list[list[str]] = [["", "", ""]]
    for line in lines:
        if line.startswith("├"):
            rows.append(["", "", ""])
        elif line.startswith("│"):
            rows[-1] = [
                f"{old} {new.strip()}".strip() for old, new in zip(rows[-1], line.split("│")[1:-1], strict=True)
            ]
    return rows


@pytest.mark.parametrize("reference", REFERENCE, ids=label)
def test_every_layer_has_keras_name_type_shape_and_number_of_parameters(reference: dict[str, Any]) -> None:
    model = meta(reference["network"], **reference["arguments"])
    lines: list[str] = []
    model.summary(data_format="channels_last", print_fn=lines.append)
    cells = table_rows(lines)
    expected = [
        [
            f"{'input_layer' if layer['type'] == 'InputLayer' else layer['name']} ({layer['type']})",
            str(tuple(layer["output_shape"])),
            f"{layer['params']:,}",
        ]
        for layer in reference["layers"]
    ]
    assert cells == expected
    assert [name for name, _ in model.named_children()] == [layer["name"] for layer in reference["layers"][1:]]
    assert model.input_shape == channels_first(reference["input_shape"])
    assert model.output_shape == channels_first(reference["output_shape"])
    assert model.count_params() == reference["params"]


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("vgg16", {}),
        ("vgg16", {"include_top": False}),
        ("vgg16", {"include_top": False, "input_shape": (100, 100, 3)}),
        ("vgg16", {"include_top": False, "input_shape": (400, 400, 3), "pooling": "avg"}),
        ("vgg19", {"classes": 7, "input_shape": (64, 96, 3)}),
    ],
)
def test_summary_is_keras_line_for_line(
    network: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # Keras breaks its lines to fit the terminal
    keras.backend.clear_session()  # else its second input layer is input_layer_1
    theirs: list[str] = []
    getattr(keras.applications, network.upper())(weights=None, **arguments).summary(
        print_fn=lambda text, line_break=False: theirs.extend(text.splitlines())
    )
    ours: list[str] = []
    meta(network, **arguments).summary(data_format="channels_last", print_fn=ours.append)
    assert ours == [line for line in theirs if line]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_summary_where_the_frame_cannot_be_printed_is_keras_too(encoding: str) -> None:
    code = """
import keras, torch
from torchvgg import VGG16
keras.applications.VGG16(weights=None, include_top=False).summary()
with torch.device("meta"):
    VGG16(weights=None, include_top=False, name="vgg16").summary("channels_last")
"""
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=os.environ | environment, capture_output=True, encoding=encoding, check=True)
    lines = [line for line in printed.stdout.splitlines() if line]
    assert len(lines) > 40
    assert lines[len(lines) // 2 :] == lines[: len(lines) // 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_shapes_of_a_model_of_another_type(dtype: torch.dtype) -> None:
    model = VGG16(weights=None, include_top=False, pooling="avg").to(dtype)
    assert model.output_shape == (None, 512)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert f"({14714688 * dtype.itemsize / 2**20:.2f} MB)" in lines[-3]


def test_summary_is_channels_first_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    meta(include_top=False).summary()
    printed = capsys.readouterr().out
    assert "(None, 3, None, None)" in printed
    assert "(None, 64, None, None)" in printed
    assert "Total params: 14,714,688 (56.13 MB)" in printed


def test_summary_counts_frozen_parameters() -> None:
    model = meta(include_top=False)
    model.block1_conv1.requires_grad_(False)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert lines[-2:] == [" Trainable params: 14,712,896 (56.13 MB)", " Non-trainable params: 1,792 (7.00 KB)"]


def test_parameters_are_pytorchs_and_nothing_else_is_in_the_state_dict() -> None:
    shapes = {key: tuple(value.shape) for key, value in meta().state_dict().items()}
    assert len(shapes) == 32
    assert shapes["block1_conv1.weight"] == (64, 3, 3, 3)
    assert shapes["block5_conv3.bias"] == (512,)
    assert shapes["fc1.weight"] == (4096, 25088)
    assert shapes["predictions.weight"] == (1000, 4096)


@pytest.mark.parametrize(
    ("input_shape", "expected"),
    [
        ((3, 100, 64), (None, 3, 100, 64)),
        ((100, 64, 3), (None, 3, 100, 64)),
        ((None, None, 1), (None, 1, None, None)),
        ((1, None, 64), (None, 1, None, 64)),
        ([64, 64, 3], (None, 3, 64, 64)),
        ((5, 64, 64), (None, 5, 64, 64)),
        ((64, 64, 4), (None, 4, 64, 64)),
        ((None, 64, 31), (None, 31, None, 64)),
        ((64, 64, 32), (None, 64, 64, 32)),
    ],
)
def test_input_shape_in_either_order(input_shape: Any, expected: tuple[int | None, ...]) -> None:
    assert meta(include_top=False, input_shape=input_shape).input_shape == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagnet"}, r"weights: expected None .*, 'imagenet', or the path.*Received: 'imagnet'"),
        ({"weights": 5}, "weights: expected None"),
        ({"weights": "None"}, "weights: expected None .*Received: 'None'"),
        *(
            ({"include_top": x}, rf"include_top: expected True or False. Received: {x!r}")
            for x in ("False", "", 1, None)
        ),
        ({"adapt_input": "True"}, "adapt_input: expected True or False. Received: 'True'"),
        ({"weights": "imagenet", "classes": 10}, "classes: expected 1000.*Received: 10"),
        ({"weights": "imagenet", "input_shape": (100, 100, 3)}, r"expected \(3, 224, 224\).*Received: \(100, 100, 3\)"),
        (
            {"weights": "imagenet", "include_top": False, "input_shape": (1, 64, 64)},
            "3 channels.*adapt_input=True.*Received",
        ),
        ({"weights": "imagenet", "input_shape": (1, 64, 64), "adapt_input": True}, r"expected \(1, 224, 224\)"),
        ({"weights": "imagenet", "classifier_activation": "relu"}, "expected 'softmax' or None.*Received: 'relu'"),
        ({"weights": __file__, "classifier_activation": "sigmoid"}, "expected 'softmax' or None.*Received: 'sigmoid'"),
        ({"include_top": False, "input_shape": (31, 64, 3)}, r"32 or more.*Received: \(31, 64, 3\)"),
        ({"include_top": False, "input_shape": (3, 64, 31)}, r"32 or more.*Received: \(3, 64, 31\)"),
        ({"input_shape": (None, None, 3)}, r"fixed height and width.*Received: \(None, None, 3\)"),
        ({"input_shape": (3, 224, None)}, "fixed height and width"),
        ({"input_shape": (224, 224)}, r"three numbers.*Received: \(224, 224\)"),
        ({"input_shape": 224}, "three numbers.*Received: 224"),
        ({"input_shape": (3, "a", 64)}, "whole numbers.*Received"),
        ({"input_shape": (None, 64, 64)}, "whole numbers.*Received"),
        ({"classifier_activation": "softmaxx"}, "unknown activation.*Received: 'softmaxx'"),
        ({"classes": 0}, "classes: expected a number from 1 up. Received: 0"),
        ({"classes": True}, "classes: expected a number from 1 up. Received: True"),
        ({"classifier_activation": [1]}, r"unknown activation.*Received: \[1\]"),
        ({"classes": 2.5}, "classes: expected a number from 1 up. Received: 2.5"),
        ({"include_top": False, "pooling": "mean"}, "pooling: expected None, 'avg' or 'max'. Received: 'mean'"),
        ({"pooling": "mean"}, "pooling: expected None, 'avg' or 'max'"),
    ],
)
def test_what_keras_refuses_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta(**arguments)


@pytest.mark.parametrize(
    ("arguments", "x", "message"),
    [
        (
            {},
            torch.zeros(1, 3, 225, 224),
            r"expected a tensor of shape \(N, 3, 224, 224\). Received: \(1, 3, 225, 224\)",
        ),
        ({}, torch.zeros(1, 224, 224, 3), "looks channels-last"),
        ({}, torch.zeros(3, 224, 224), "lacks the batch axis"),
        ({}, torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "floating-point.*Received: torch.uint8"),
        ({"include_top": False}, torch.zeros(1, 3, 31, 64), r"\(N, 3, 32 or more, 32 or more\)"),
        ({"include_top": False}, torch.zeros(1, 1, 64, 64), r"Received: \(1, 1, 64, 64\)"),
        ({"include_top": False}, torch.zeros(1, 64, 64, 3), "looks channels-last"),
        ({"include_top": False, "input_shape": (None, 64, 3)}, torch.zeros(1, 3, 64, 65), r"\(N, 3, 32 or more, 64\)"),
    ],
)
def test_a_tensor_of_another_shape_is_refused(arguments: dict[str, Any], x: torch.Tensor, message: str) -> None:
    model = meta(**arguments)
    with pytest.raises(ValueError, match=message):
        model(x)
    with pytest.raises(ValueError, match=message):
        model.extract(x, ["block1_conv1"])


@pytest.mark.parametrize(
    "first", [nn.Conv2d(1, 64, 3, padding=1), nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 64, 3, padding=1))]
)
def test_the_input_follows_the_first_layer(first: nn.Module) -> None:
    model = VGG16(weights=None, include_top=False).eval()
    model.block1_conv1 = first
    assert model.input_shape == (None, 1, None, None)
    assert model.output_shape == (None, 512, None, None)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert "(None, 1, None, None)" in "".join(lines)
    assert model(torch.rand(1, 1, 32, 32)).shape == (1, 512, 1, 1)
    with pytest.raises(ValueError, match=r"\(N, 1, 32 or more, 32 or more\). Received: \(1, 3, 32, 32\)"):
        model(torch.rand(1, 3, 32, 32))


def test_a_first_layer_without_channels_leaves_the_input() -> None:
    model = meta(include_top=False)
    model.block1_conv1 = nn.Identity()
    assert model.input_shape == (None, 3, None, None)


def test_initialisation_is_keras() -> None:
    model = VGG16(weights=None, include_top=False)
    for convolution in (model.block1_conv1, model.block4_conv1):
        assert isinstance(convolution, nn.Conv2d)
        filters, channels = convolution.weight.shape[:2]
        limit = math.sqrt(6 / (9 * (filters + channels)))  # Glorot uniform
        assert convolution.weight.abs().max() <= limit
        assert convolution.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
        assert convolution.bias is not None
        assert convolution.bias.abs().max() == 0


def test_extract_returns_the_layers_in_order_and_goes_no_deeper() -> None:
    model = VGG16(weights=None, include_top=False)
    deeper: list[str] = []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda *_, name=name: deeper.append(name))
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    outputs = model.extract(x, ["block2_pool", "block1_conv2"])
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "block1_conv2": (1, 64, 32, 32),
        "block2_pool": (1, 128, 8, 8),
    }
    assert list(outputs) == ["block1_conv2", "block2_pool"]
    assert deeper[-1] == "block2_pool"
    outputs["block2_pool"].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_with_weights_no_random_number_is_drawn(tmp_path: Path) -> None:
    torch.save(VGG16(weights=None, include_top=False).state_dict(), tmp_path / "a.pt")
    before = torch.get_rng_state()
    VGG16(weights=tmp_path / "a.pt", include_top=False)
    assert torch.equal(torch.get_rng_state(), before)
    VGG16(weights=None, include_top=False)
    assert not torch.equal(torch.get_rng_state(), before)


def test_extract_of_an_unknown_layer_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"out of block1_conv1, .*, block5_pool. Received: \['fc1'\]"):
        meta(include_top=False).extract(torch.zeros(1, 3, 32, 32), ["fc1", "block1_conv1"])


def test_swapped_arguments_are_told_in_a_line() -> None:
    with pytest.raises(ValueError, match=r"^expected a dense torch.Tensor. Received: str$"):
        meta(include_top=False).extract(["block1_conv1"], torch.zeros(1, 3, 32, 32))


def test_modules_offer_what_keras_modules_offer() -> None:
    assert vgg16.VGG16 is VGG16
    assert vgg19.VGG19 is VGG19
    assert callable(vgg16.preprocess_input)
    assert callable(vgg19.decode_predictions)
