"""KerasHub's VGGs, as KerasHub wrote them (see make_keras_hub.py): presets, which are folders, and whole models."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchvgg import VGG16, load_model
from torchvgg.convert import convert
from torchvgg.convert.network.architecture_json import read_entry
from torchvgg.layers.shared import channels_last

from ...helpers.keras_models import keras_model, relative_error

FOLDER = Path(__file__).parents[2] / "data" / "keras_hub"
WRITTEN = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".npy")
TOLERANCE = 2e-5
HEAD = {"flatten": ["flatten", "fc1", "output_dropout", "fc2"], "average": ["fc1", "output_dropout", "fc2", "pooler"]}


@pytest.mark.parametrize("name", WRITTEN)
def test_outputs_are_keras_hubs(name: str, tmp_path: Path) -> None:
    numbers = (np.arange(2 * 32 * 48 * 3).reshape(2, 32, 48, 3) * 37 % 256 / 64 - 2).astype(np.float32)
    x, stem = torch.from_numpy(numbers).permute(0, 3, 1, 2), name.partition(".")[0]
    ours = load_model(FOLDER / name)
    names = [child for child, _ in ours.named_children()]
    assert names[:5] == ["block1_conv1", "block1_pool", "block2_conv1", "block2_conv2", "block2_pool"]
    if stem in HEAD:
        assert names[5:] == [*HEAD[stem], "predictions"]
    expected = torch.from_numpy(np.load(FOLDER / f"{stem}.npy"))
    assert relative_error(channels_last(ours(x).detach()), expected) <= TOLERANCE
    assert convert(FOLDER / name, output := tmp_path / "x.safetensors").max_relative_error <= TOLERANCE
    assert torch.equal(load_model(output)(x), ours(x))


def test_a_preset_of_vgg16_is_a_vgg16(tmp_path: Path) -> None:
    theirs = keras_model(include_top=False)
    shutil.copytree(FOLDER / "backbone", preset := tmp_path / "vgg_16")
    theirs.save_weights(preset / "model.weights.h5")  # KerasHub lays them out as Keras does
    change(
        preset / "config.json", stackwise_num_repeats=[2, 2, 3, 3, 3], stackwise_num_filters=[64, 128, 256, 512, 512]
    )
    loaded, weights = load_model(preset), VGG16(weights=preset, include_top=False)
    assert isinstance(loaded, VGG16)
    for ours in (loaded, weights):
        for layer in (layer for layer in theirs.layers if layer.weights):
            kernel = torch.from_numpy(layer.get_weights()[0]).permute(3, 2, 0, 1)
            assert torch.equal(ours.get_submodule(layer.name).weight, kernel)


def change(path: Path, **settings: Any) -> None:
    content = json.loads(path.read_text())
    content["config"] |= settings
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("config.json", {"stackwise_num_repeats": [1, 10**9]}, "are no numbers of convolutions"),
        ("config.json", {"stackwise_num_repeats": [1, "2"]}, "are no numbers of convolutions"),
        (
            "config.json",
            {"stackwise_num_repeats": [1]},
            "expected a number of convolutions and of filters for each block",
        ),
        ("config.json", {"stackwise_num_filters": [3, None]}, "filters=None is no such setting"),
        (
            "config.json",
            {"stackwise_num_filters": [3, 5]},
            "layer 'block2_conv1' .Conv2D.: expected the arrays|expected shape",
        ),
        ("config.json", {"image_shape": 3}, "image_shape: expected height, width and channels"),
        ("task.json", {"backbone": None}, "expected a backbone and a pooling out of avg, max, flatten"),
        ("task.json", {"pooling": ["avg"]}, "expected a backbone and a pooling out of avg, max, flatten"),
        ("task.json", {"pooling": "avg"}, "expected"),
        ("task.json", {"num_classes": None}, "layer 'predictions' .Dense.: units=None is no such setting"),
    ],
)
def test_other_settings_are_refused(name: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / ("flatten" if name == "task.json" else "backbone"), preset := tmp_path / "preset")
    change(preset / name, **settings)
    with pytest.raises(ValueError, match=message):
        load_model(preset)


def test_a_few_bytes_are_no_million_layers() -> None:
    backbone = {"class_name": "VGGBackbone", "config": {"stackwise_num_repeats": [9], "stackwise_num_filters": [1]}}
    inner = {"class_name": "Sequential", "config": {"layers": [backbone] * 1000}}
    with pytest.raises(ValueError, match=r"20,000 VGGBackbones; a network of up to 20 can be converted"):
        read_entry({"class_name": "Sequential", "config": {"layers": [inner] * 20}})
