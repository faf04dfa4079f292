"""Every way of saving of old versions of Keras: `data/make_old_keras.py` made the files, each under the real version."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from torchvgg import load_model
from torchvgg.convert import convert

from ...helpers.keras_models import relative_error
from .test_formats import keras2_images

FOLDERS = sorted((Path(__file__).parents[2] / "data" / "old_keras").iterdir())
TOLERANCE = 1e-5  # see test_vgg_parity

# By the file or folder of the weights, what the architecture may be.
SAVINGS: list[tuple[str, str | None]] = [
    ("model.h5", None),
    ("saved_model", None),
    *(("weights.h5", architecture) for architecture in ("model.json", "model.yaml", "model.h5", "saved_model")),
    *((f"checkpoint{part}", "model.json") for part in ("", "/weights", "/weights.index", "/checkpoint")),
]
CASES = [
    pytest.param(folder, weights, architecture, id=f"{folder.name}-{weights}-{architecture}")
    for folder in FOLDERS
    for weights, architecture in SAVINGS
    if (folder / (weights + ".index" * (weights == "checkpoint/weights"))).exists()
    and (architecture is None or (folder / architecture).exists())
]


def test_there_are_versions() -> None:
    assert len(FOLDERS) == 6
    assert len(CASES) == 45


@pytest.mark.parametrize(("folder", "weights", "architecture"), CASES)
def test_every_saving_of_every_version(folder: Path, weights: str, architecture: str | None, tmp_path: Path) -> None:
    expected = torch.from_numpy(np.load(folder / "answers.npy"))
    described = folder / architecture if architecture else None
    report = convert(folder / weights, tmp_path / "model.safetensors", architecture=described)
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    for model in (load_model(folder / weights, architecture=described), load_model(tmp_path / "model.safetensors")):
        assert relative_error(model(keras2_images() / 255).detach(), expected) <= TOLERANCE
    assert not model.block1_conv1.weight.requires_grad  # frozen
    assert model.block2_conv1.weight.requires_grad


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_architecture_as_a_dict(folder: Path) -> None:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    expected = torch.from_numpy(np.load(folder / "answers.npy"))
    for given in (found, found["config"]):
        model = load_model(folder / "weights.h5", architecture=given)
        assert relative_error(model(keras2_images() / 255).detach(), expected) <= TOLERANCE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recurrent_layers_of_every_version(folder: Path) -> None:
    words = torch.tensor([[3.0, 1, 4, 1, 0, 0], [2, 0, 3, 4, 1, 2]])
    expected = torch.from_numpy(np.load(folder / "sentence.npy"))
    assert relative_error(load_model(folder / "sentence.h5")(words).detach(), expected) <= TOLERANCE


@pytest.mark.parametrize(
    "folder",
    [folder for folder in FOLDERS if "tf" in folder.name or "tensor" in folder.name],
    ids=lambda folder: folder.name,
)
def test_operations_of_every_tensorflow(folder: Path) -> None:
    model = load_model(folder / "operations.h5")
    assert next(iter(model.children()))._get_name() == "PreprocessInput"
    for own, other in zip(model(keras2_images()), np.load(folder / "operations.npz").values(), strict=True):
        assert relative_error(own.detach(), torch.from_numpy(other)) <= TOLERANCE


def test_a_checkpoint_that_is_damaged(tmp_path: Path) -> None:
    folder = FOLDERS[-1]
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    data, index = tmp_path / "checkpoint/weights.data-00000-of-00001", tmp_path / "checkpoint/weights.index"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.data-00000-of-00001: damaged \(its CRC-32C is wrong\)"):
        load_model(tmp_path / "checkpoint", architecture=folder / "model.json")
    data.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"weights\.data-00000-of-00001: it ends before"):
        load_model(tmp_path / "checkpoint", architecture=folder / "model.json")
    data.unlink()
    with pytest.raises(ValueError, match=r"weights\.data-00000-of-00001 isn't beside weights\.index"):
        load_model(index, architecture=folder / "model.json")
    content = bytearray(index.read_bytes())
    content[20] ^= 1
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r"a damaged .index \(its CRC-32C is wrong\)"):
        load_model(index, architecture=folder / "model.json")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Keras itself takes them, where the shapes are the same."""
    layers = keras.layers
    for name, own in (
        ("batch", layers.BatchNormalization(scale=False, center=False)),
        ("layer", layers.LayerNormalization()),
    ):
        own.name = "own"
        keras.Sequential([keras.Input((4,)), own]).save(tmp_path / f"{name}.h5")
    with pytest.raises(ValueError, match=r"'own' .*expected the arrays weight .*Received: .*moving_mean.*one model's"):
        load_model(tmp_path / "batch.h5", architecture=tmp_path / "layer.h5")
