"""The way back to Keras, and other projects' names."""

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchvgg import VGG16, VGG19, load_model
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.heads import HEADS, with_random_weights
from ...helpers.keras_models import NETWORKS, images, keras_model, relative_error, write_twin
from ...helpers.torchvision_models import torchvision_twin

OURS: dict[str, Any] = {"vgg16": VGG16, "vgg19": VGG19}
SHAPES = json.loads(
    (Path(__file__).parents[2] / "data" / "naming_schemes.json").read_text()
)  # torchvision 0.29.1, timm 1.0


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("vgg16", {"include_top": False}),
        ("vgg16", {"classes": 4, "input_shape": (32, 32, 3)}),
        ("vgg16", {"classes": 4, "input_shape": (32, 96, 3)}),
        ("vgg19", {"include_top": False}),
        ("vgg19", {"classes": 3, "input_shape": (64, 64, 3)}),
    ],
)
def test_forth_and_back_is_the_same(network: str, arguments: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    theirs = keras_model(network, **arguments)
    theirs.save_weights(tmp_path / "a.weights.h5")
    height, width, _ = arguments.get("input_shape", (None, None, 3))
    convert(tmp_path / "a.weights.h5", input_shape=(height, width) if height else None)
    report = convert(tmp_path / "a.safetensors", tmp_path / f"back{suffix}")
    assert (report.format, report.keras_version) == (".safetensors", "3")
    assert report.max_relative_error is not None
    assert report.max_relative_error <= 1e-5
    again = NETWORKS[network](weights=tmp_path / f"back{suffix}", **arguments)
    for array, same in zip(theirs.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(array, same)
    convert(tmp_path / f"back{suffix}", tmp_path / "forth.safetensors", input_shape=(height, width) if height else None)
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "forth.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["trained.safetensors", "trained.pt"])
def test_a_model_trained_in_pytorch_goes_home(name: str, tmp_path: Path) -> None:
    """A bare `state_dict` is enough: a VGG's names and shapes tell the rest."""
    model = VGG16(weights=None, classes=5, input_shape=(3, 64, 64), classifier_activation=None)
    x, target = torch.rand(2, 3, 64, 64), torch.tensor([0, 3])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()
    (save_file if name.endswith("safetensors") else torch.save)(model.state_dict(), tmp_path / name)
    convert(tmp_path / name, tmp_path / "home.weights.h5")
    home = keras.applications.VGG16(
        weights=tmp_path / "home.weights.h5", classes=5, input_shape=(64, 64, 3), classifier_activation=None
    )
    with torch.no_grad():
        assert relative_error(model(x), home(x.permute(0, 2, 3, 1))) <= 1e-5


def test_the_groups_that_keras_2_looks_for_are_there(headless: Path, tmp_path: Path) -> None:
    """It opens one for every layer, and for the model, whether it has arrays or not (tried with tf-keras 2.21)."""
    convert(headless, tmp_path / "back.weights.h5")
    with h5py.File(tmp_path / "back.weights.h5") as file:
        assert "vars" in file
        assert "layers/input_layer/vars" in file
        assert file["layers/conv2d_12/vars"].attrs["name"] == "block5_conv3"
        assert len(file["layers/max_pooling2d_4/vars"]) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_keras_reads_the_shorter_types(dtype: str, headless: Path, tmp_path: Path) -> None:
    convert(headless, tmp_path / "short.weights.h5", dtype=dtype)
    theirs = keras.applications.VGG16(weights=tmp_path / "short.weights.h5", include_top=False)
    ours = VGG16(weights=headless, include_top=False)
    kernel = torch.as_tensor(theirs.get_layer("block3_conv2").get_weights()[0])
    expected = ours.block3_conv2.weight.detach().to(getattr(torch, dtype)).float()
    assert torch.equal(kernel.permute(3, 2, 0, 1), expected)


def test_theanos_files_go_home_in_keras_own_layout(tmp_path: Path) -> None:
    theirs = keras_model(classes=4, input_shape=(64, 64, 3))
    write_twin(tmp_path / "theano.h5", theirs, theano=True)
    convert(tmp_path / "theano.h5", tmp_path / "modern.h5")
    again = keras.applications.VGG16(weights=tmp_path / "modern.h5", classes=4, input_shape=(64, 64, 3))
    for array, same in zip(theirs.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(array, same)


def test_a_head_in_a_file_of_an_earlier_version_stays_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It doesn't say where the layers lie in Keras."""
    theirs = with_random_weights(HEADS["vgg19_at_full_width"]())
    theirs.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", check=False)
    forget_places(tmp_path / "model.safetensors")
    assert run(tmp_path / "model.safetensors", "-o", tmp_path / "back.h5") == 1
    error = capsys.readouterr().err
    assert "the way back, takes Keras's own VGG16 and VGG19, and layer 'dense" in error
    assert "goes back from a file that says where its layers lie in Keras: convert its own again" in error
    assert run(tmp_path / "model.safetensors", "-o", tmp_path / "back.h5", "--base-only") == 0
    keras.applications.VGG19(weights=tmp_path / "back.h5", include_top=False)


def forget_places(path: Path) -> None:
    """Writes a file as torchvgg did before it noted where layers lie in Keras."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    architecture = json.loads(metadata["architecture"])
    del architecture["class_name"]
    for layer in architecture["layers"]:
        layer.pop("path", None), layer.pop("place", None)
    save_file(load_file(path), path, metadata | {"architecture": json.dumps(architecture)})


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", []), ("path", ["a", 1]), ("path", "a"), ("place", "../a"), ("place", "/a"), ("place", 1)],
)
def test_places_that_are_not_ours_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    layer = {"class_name": "Flatten", "name": "a", "config": {}, key: value}
    architecture = {"name": "a", "class_name": "Sequential", "input_shape": [3, 32, 32], "layers": [layer]}
    save_file({}, tmp_path / "a.safetensors", {"architecture": json.dumps(architecture)})
    with pytest.raises(ValueError, match="an architecture that `convert` didn't write: expected a layer"):
        load_model(tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "vgg16.weights.h5"
    keras_model(classes=1000).save_weights(path)
    return path


@pytest.mark.parametrize("scheme", ["torchvision", "timm"])
def test_other_projects_load_it(scheme: str, full_size: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    report = convert(full_size, output, layout=scheme)
    assert report.max_relative_error is not None
    assert report.max_relative_error <= 1e-5
    tensors = load_file(output)
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == SHAPES[f"{scheme} vgg16"]
    with safe_open(output, "pt") as file:
        assert file.metadata()["layout"] == scheme
    if scheme == "torchvision":
        other = torchvision_twin("vgg16", 1000).eval()
        other.load_state_dict(tensors)
        ours = VGG16(weights=full_size, classifier_activation=None)
        x = images(1, 3, 224, 224)
        with torch.no_grad():
            assert relative_error(other(x), ours(x)) <= 1e-5
    else:
        assert torch.equal(tensors["pre_logits.fc1.weight"].flatten(1), VGG16(weights=full_size).fc1.weight)


def test_naming_schemes_names_of_vgg19_without_its_top(tmp_path: Path) -> None:
    keras_model("vgg19", include_top=False).save_weights(tmp_path / "a.weights.h5")
    for scheme in ("torchvision", "timm"):
        convert(tmp_path / "a.weights.h5", tmp_path / "out.pth", layout=scheme, force=True)
        received = {key: list(tensor.shape) for key, tensor in torch.load(tmp_path / "out.pth").items()}
        expected = {key: shape for key, shape in SHAPES[f"{scheme} vgg19"].items() if key.startswith("features")}
        assert received == expected


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["-o", "out.h5", "--layout", "timm"], "layout: a Keras file has Keras's own. Received: 'timm'", 2),
        (["-o", "out.h5", "--dtype", "bfloat16"], "dtype: Keras 3 reads bfloat16 from a .weights.h5", 2),
        (
            ["-o", "out.pt", "--layout", "timm"],
            "timm's VGG has a top for images of 224×224. Received: one for 32×32",
            1,
        ),
    ],
)
def test_what_does_not_go_together(
    arguments: list[str],
    message: str,
    status: int,
    topped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(topped, *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_of_something_else_is_refused(tmp_path: Path) -> None:
    other: dict[str, Tensor] = {"features.0.weight": torch.zeros(64, 3, 3, 3)}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: expected the tensors of a VGG16 or VGG19, block1_conv1"):
        convert(tmp_path / "other.safetensors", tmp_path / "out.h5")
    model = VGG16(weights=None, include_top=False).state_dict()
    for change, message in (
        ({"junk.weight": torch.zeros(1)}, "tensors that belong to no layer: junk.weight;"),
        ({f"junk{n}": torch.zeros(1) for n in range(10)}, r"no layer: junk0, junk1, junk2, .*, junk8, junk9;"),
        ({f"junk{n}": torch.zeros(1) for n in range(11)}, r"no layer: junk0, junk1, .*, …;"),
        ({"block2_conv1.bias": torch.zeros(5)}, r"block2_conv1.bias: expected shape \(128,\). Received: \(5,\)"),
    ):
        save_file(model | change, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "other.safetensors", tmp_path / "out.h5")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "other.safetensors")


def test_a_flattened_tensor_of_another_shape_is_refused(topped: Path, tmp_path: Path) -> None:
    """Which no change of layout can be tried on."""
    tensors = dict(VGG16(weights=topped, classes=4, input_shape=(32, 32, 3)).state_dict())
    tensors["fc1.weight"] = torch.zeros(4096, 512 * 4 + 1)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"fc1.weight: expected shape \(4096, 2048\). Received: \(4096, 2049\)"):
        convert(tmp_path / "other.safetensors", tmp_path / "out.h5", input_shape=(64, 64))
