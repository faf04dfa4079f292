"""From a file to a model: `weights=path` and `load_model`, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from torchvgg import VGG16, VGG19, load_model, optimize_for_inference
from torchvgg.convert import convert
from torchvgg.extraction.extractor import features_of
from torchvgg.loading import build

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
    with pytest.raises(ValueError, match=r"path: .* Received: OrderedDict; a state_dict goes into a model"):
        load_model(VGG16(weights=None, include_top=False).state_dict())
    with pytest.raises(ValueError, match=r"bare.safetensors: expected the tensors of a VGG16 or VGG19"):
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


NAMES = {  # a layer's name in a file, and in a model, where it may be an attribute already
    **dict.fromkeys(("known", "values", "items", "keys", "pop", "update", "clear", "layers", "features", "1"), ""),
    **dict.fromkeys(("name", "type", "forward", "training", "summary", "extract", "input_shape", "output_shape"), "_"),
    **dict.fromkeys(("float", "eval", "train", "add_module", "_modules", "__class__", "min_size"), "_"),
}


@pytest.mark.parametrize(("name", "suffix"), NAMES.items())
def test_a_name_in_use_gets_an_underscore(name: str, suffix: str) -> None:
    """The next layer is called what a name in use becomes, so that it has to become something else."""
    names = [name, f"{name}_", "pool"]
    convolution = {"filters": 32, "kernel_size": [3, 3], "padding": "same"}
    architecture = {
        "name": "odd",
        "input_shape": [3, 32, 40],
        "layers": [
            {"class_name": "Conv2D", "name": names[0], "config": convolution | {"activation": "relu"}},
            {"class_name": "Conv2D", "name": names[1], "config": convolution, "trainable": False},
            {"class_name": "GlobalAveragePooling2D", "name": names[2], "config": {}},
        ],
    }
    shapes = {"weight": (32, 3, 3, 3), "bias": (32,)}, {"weight": (32, 32, 3, 3), "bias": (32,)}
    tensors = {
        f"{layer}.{key}": torch.randn(shape)
        for layer, own in zip(names, shapes, strict=False)
        for key, shape in own.items()
    }
    model = build(architecture, tensors)
    first, second, last = [child for child, _ in model.named_children()]
    assert first == name + suffix
    assert second == f"{name}_{suffix}"
    assert last == "pool"
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, False, False]
    x = images(2, 3, 32, 40)
    with torch.no_grad():
        expected = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1).relu()
        deeper = F.conv2d(expected, tensors[f"{name}_.weight"], tensors[f"{name}_.bias"], padding=1)
        for each in (model, optimize_for_inference(model, native=False)):
            outputs = each.extract(x, [first, second])
            assert list(outputs) == [first, second]
            assert relative_error(outputs[first], expected) <= 1e-5
            assert relative_error(outputs[second], deeper) <= 1e-5
            assert relative_error(each(x), deeper.mean((2, 3))) <= 1e-4
        for pooling, vectors in (("avg", deeper.mean((2, 3))), (None, deeper.permute(0, 2, 3, 1).flatten(1))):
            assert relative_error(features_of(model, second, pooling)(x), vectors) <= 1e-4
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert any(line.startswith(f"│ {first} (Conv2D)") for line in lines)


def test_the_base_of_tensors_with_a_head_of_their_own(tmp_path: Path) -> None:
    """What the refusal of such a file advises works."""
    model = VGG16(weights=None, include_top=False)
    path = tmp_path / "trained.pt"
    torch.save(model.state_dict() | {"head.weight": torch.ones(3, 512)}, path)
    with pytest.raises(ValueError, match=r"head.weight; the vgg16 in it can be converted alone: --base-only$"):
        convert(path, check=False)
    convert(path, base_only=True, check=False)
    ours = VGG16(weights=path.with_suffix(".safetensors"), include_top=False)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_tensors_between_the_convolutions(save: Any, tmp_path: Path) -> None:
    """As of a VGG16 with batch normalization: the convolutions alone would give other numbers."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in VGG16(weights=None, include_top=False).state_dict().items():
        tensors[key] = tensor
        if key.endswith("bias"):
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensors[key.replace("conv", "bn").replace("bias", name)] = torch.ones_like(tensor)
    save(tensors, path := tmp_path / "normalized.pt")
    with pytest.raises(ValueError, match=r"block._bn1/.*: a layer that no VGG has, it seems between the convolutions"):
        convert(path, tmp_path / "base.safetensors", base_only=True)


def test_published_models_by_name(topped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHVGG_HOME", str(tmp_path))
    convert(topped, tmp_path / "vgg16.safetensors", check=False)
    model = load_model("vgg16")
    assert isinstance(model, VGG16)
    assert not model.training
    logits = load_model("vgg16", classifier_activation=None)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(logits(x).softmax(1), model(x)) <= 1e-6
    with pytest.raises(FileNotFoundError, match="vgg17: no such file; expected one, or vgg16 or vgg19"):
        load_model("vgg17")
