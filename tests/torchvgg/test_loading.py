"""From a file to a model: `weights=path` and `load_model`, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchvgg import VGG16, VGG19, load_model
from torchvgg.convert import convert

from ..helpers.keras_models import images, keras_model, keras_outputs, relative_error


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "input_shape": (None, 64, 3)},
        {"classes": 4, "input_shape": (32, 128, 3), "classifier_activation": None},
        {"classes": 2, "input_shape": (32, 32, 3), "classifier_activation": "sigmoid"},
    ],
)
def test_a_whole_model_is_taken_at_its_word(suffix: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """128 × 512 features are a square too: what the configuration says goes before any guess."""
    theirs = keras_model(**arguments)
    theirs.save(tmp_path / f"whole{suffix}")
    report = convert(tmp_path / f"whole{suffix}")
    assert report.max_relative_error is not None
    assert report.max_relative_error <= 1e-5
    for path in (tmp_path / f"whole{suffix}", tmp_path / "whole.safetensors"):
        ours = load_model(path)
        assert isinstance(ours, VGG16)
        height, width, channels = arguments.get("input_shape", (None, None, 3))
        assert ours.input_shape == (None, channels, height, width)
        x = images(2, 3, height or 48, width or 64)
        with torch.no_grad():
            expected = list(keras_outputs(theirs, x).values())[-1]
            assert relative_error(ours(x), expected) <= 1e-5


def test_a_top_serves_a_model_without_it_but_not_the_other_way(topped: Path, headless: Path, tmp_path: Path) -> None:
    converted = tmp_path / "topped.safetensors"
    convert(topped, converted, check=False)
    for path in (topped, converted):
        model = VGG16(weights=path, include_top=False)
        for key, tensor in load_file(converted).items():
            if key.startswith("block"):
                assert torch.equal(model.state_dict()[key], tensor), key
    for path in (headless, tmp_path / "headless.pt"):
        if path.suffix == ".pt":
            convert(headless, path, check=False)
        with pytest.raises(ValueError, match=r"missing for vgg16: fc1.{bias, weight}, .*use include_top=False"):
            VGG16(weights=path)


def test_weights_that_do_not_fit_are_refused(topped: Path, headless: Path) -> None:
    with pytest.raises(ValueError, match=r"predictions.weight: expected shape \(5, 4096\). Received: \(4, 4096\)"):
        VGG16(weights=topped, classes=5, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=r"give 25088 features, the array takes 512"):
        VGG16(weights=topped, classes=4)
    with pytest.raises(ValueError, match=r"missing for vgg19: block3_conv4.{bias, weight}"):
        VGG19(weights=headless, include_top=False)


def test_load_model_returns_the_network_that_the_file_holds(topped: Path, tmp_path: Path) -> None:
    convert(topped, tmp_path / "topped.safetensors", check=False)
    for path in (topped, tmp_path / "topped.safetensors"):
        model = load_model(path)
        assert isinstance(model, VGG16)
        assert not model.training
        assert model.output_shape == (None, 4)


def test_load_model_of_bare_tensors_says_what_to_do(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"without an architecture.*VGG16\(weights=path\)"):
        load_model(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {1: torch.zeros(1)}, {"block1_conv1.weight": 5}])
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="Received: a pickle that isn't a dict of tensors"):
        VGG16(weights=tmp_path / "other.pt", include_top=False)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "x"}, "damaged"),
        ({"architecture": "{}"}, "an architecture that `convert` didn't write"),
        (
            {"architecture": '{"name": "a", "input_shape": [3, null, null], "layers": []}'},
            r"tensors that belong to no layer: a\.b",
        ),
    ],
)
def test_metadata_that_is_not_ours_is_refused(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    save_file({"a.b": torch.zeros(1)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "other.safetensors")


def test_tensors_left_over_are_refused(headless: Path, tmp_path: Path) -> None:
    convert(headless, tmp_path / "a.safetensors", check=False)
    save_file(load_file(tmp_path / "a.safetensors") | {"junk.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b.safetensors: vgg16 has no place for junk.{weight}"):
        VGG16(weights=tmp_path / "b.safetensors", include_top=False)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"block1_conv1.weight": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(ValueError, match="expected a Keras file, or one that `convert` wrote"):
        VGG16(weights=tmp_path / "harmful.pt", include_top=False)
    assert not (tmp_path / "executed").exists()
