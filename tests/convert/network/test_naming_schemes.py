"""The way home from torchvision and timm: `state_dict`s told by their names, in files of any kind."""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchvgg import VGG16, VGG19, load_model
from torchvgg.convert import convert
from torchvgg.convert.network.naming_schemes import recognise

from ...helpers.command_line import run
from ...helpers.keras_models import NETWORKS, relative_error
from ...helpers.torchvision_models import DEEP, torchvision_features

OURS: dict[str, Any] = {"vgg16": VGG16, "vgg19": VGG19}
SHAPES = json.loads((Path(__file__).parents[2] / "data" / "naming_schemes.json").read_text())
PREFIXES = ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "_orig_mod.module.model."]
WARNING = r"torchvision's or timm's own .*\(0.485, 0.456, 0.406\).*\(0.229, 0.224, 0.225\).* not preprocess_input"


def meta_tensors(shapes: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("known", SHAPES)
def test_whole_models_are_told_by_their_names(known: str, prefix: str) -> None:
    scheme, network = known.split()
    found = recognise({f"{prefix}{key}": x for key, x in meta_tensors(SHAPES[known]).items()})
    assert (found.naming_scheme, found.head) == (scheme, {})
    with torch.device("meta"):
        expected = OURS[network](weights=None).state_dict()
    assert {key: x.shape for key, x in found.tensors.items()} == {key: x.shape for key, x in expected.items()}


def features(network: str = "vgg16") -> dict[str, Any]:
    with torch.device("meta"):
        shapes = {f"features.{key}": list(x.shape) for key, x in torchvision_features(network).state_dict().items()}
    return {key: shape or [1] for key, shape in shapes.items()}


def dense(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


LAST_TWO = dense("classifier.3", 4096, 4096) | dense("classifier.6", 4096, 10)
TIMM = {key: shape for key, shape in SHAPES["timm vgg16"].items() if not key.startswith("features")}
HEADS: list[tuple[dict[str, Any], bool]] = [  # what stands beside the convolutions, and whether it is the standard top
    ({}, True),
    (dense("classifier.0", 25088, 4096) | LAST_TWO, True),
    (TIMM | dense("head.fc", 4096, 10), True),
    (dense("classifier.0", 25088, 256) | dense("classifier.3", 256, 10), False),
    (dense("classifier.0", 25088, 4096), False),
    (dense("classifier.0", 25088, 4096) | LAST_TWO | dense("classifier.8", 10, 10), False),
    (dense("classifier.0", 25088, 4096) | {"classifier.6.0.weight": [10, 4096]}, False),
    (dense("classifier.0", 512, 4096) | LAST_TWO, False),
    (dense("classifier.0", 25088, 1024) | dense("classifier.3", 1024, 4096) | dense("classifier.6", 4096, 10), False),
    (dense("fc", 512, 10), False),
    ({key: shape for key, shape in TIMM.items() if "head" not in key}, False),
    ({key: shape for key, shape in TIMM.items() if "bias" not in key}, False),
    (TIMM | dense("head.fc", 4096, 10) | {"pre_logits.fc1.weight": [4096, 25088]}, False),
    (TIMM | {"head.fc.bias": []}, False),
]


@pytest.mark.parametrize(("head", "is_standard"), HEADS)
def test_heads(head: dict[str, Any], is_standard: bool) -> None:
    found = recognise(meta_tensors(features() | head))
    assert found.head.keys() == ({} if is_standard else head).keys()
    assert found.naming_scheme == ("timm" if is_standard and "head.fc.bias" in head else "torchvision")
    assert len(found.tensors) == 26 + (len(head) if is_standard else 0)


@pytest.mark.parametrize("network", [f"{name}{end}" for name in DEEP for end in ("", "_bn")])
def test_other_vggs_are_named(network: str) -> None:
    tensors = meta_tensors(features(network))
    if network in OURS:
        assert len(recognise(tensors).tensors) == len(tensors)
        return
    with pytest.raises(ValueError, match=rf"timm's {network}, and torchvgg has only VGG16 and VGG19"):
        recognise(tensors)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"features.1.weight": [64]}, "features.1.weight: of no layer of vgg16"),
        ({"features.0.extra": [64]}, "features.0.extra: of no layer of vgg16"),
    ],
)
def test_layers_between_the_convolutions_are_refused(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recognise(meta_tensors(features() | others))


NO_VGG: list[dict[str, Any]] = [
    {},
    {"features.0.weight": [64, 3, 3, 3]},
    {key.replace("features", "backbone"): shape for key, shape in features().items()},
    {f"features.{10**300}.weight": [64, 3, 3, 3]},
    {key: shape for key, shape in features().items() if "28" not in key},
    features() | {f"module.{key}": shape for key, shape in features().items()},
]


@pytest.mark.parametrize("shapes", NO_VGG)
def test_what_is_no_vgg_stays_as_it_is(shapes: dict[str, Any]) -> None:
    tensors = meta_tensors(shapes)
    assert recognise(tensors) == (tensors, {}, "torchvgg")


@pytest.fixture(scope="module")
def base() -> nn.Sequential:
    torch.manual_seed(1)
    return torchvision_features("vgg16").requires_grad_(False)


def checkpoint(tensors: dict[str, Tensor], key: str) -> dict[str, Any]:
    """What training scripts save: torchvision's and timm's have the options of their command line beside."""
    weights = [nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(weights)
    weights[0].grad = torch.ones(3)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    rest = {"epoch": 3, "best": np.float64(0.7), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    return rest | {key: tensors, "args": argparse.Namespace(lr=0.1, folder=Path("x"), names={"a", "b"})}


def old(saved: Any, path: Path) -> None:
    torch.save(saved, path, _use_new_zipfile_serialization=False)


FILES: list[tuple[str, Callable[..., Any], Callable[[dict[str, Tensor]], Any]]] = [
    ("x.pth", torch.save, lambda tensors: tensors),
    ("x.safetensors", save_file, lambda tensors: {f"model.{key}": x for key, x in tensors.items()}),
    ("old.pth", old, lambda tensors: checkpoint(tensors, "model")),
    *(("x.pth", torch.save, lambda tensors, key=key: checkpoint(tensors, key)) for key in ("state_dict", "model_state_dict", "model")),
    ("x.pt", torch.save, lambda tensors: {"state_dict": {f"module.{key}": x for key, x in tensors.items()}}),
]  # fmt: skip


@pytest.mark.parametrize("names", ["features", "ours"])
@pytest.mark.parametrize(("name", "save", "wrap"), FILES, ids=[str(number) for number in range(len(FILES))])
def test_files_and_checkpoints(
    name: str, save: Callable[..., Any], wrap: Callable[..., Any], names: str, base: nn.Sequential, tmp_path: Path
) -> None:
    tensors = {f"features.{key}": x for key, x in base.state_dict().items()} | {"classifier.0.bias": torch.ones(3)}
    if names == "ours":
        tensors = dict(zip(VGG16(weights=None, include_top=False).state_dict(), tensors.values(), strict=False))
    save(wrap(tensors), tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = VGG16(weights=tmp_path / name, include_top=False)
    assert len(caught) == (1 if names == "features" else 0)
    assert all(warning.filename == __file__ for warning in caught)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), base(x))


def test_a_base_goes_home_to_keras(base: nn.Sequential, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({f"module.features.{key}": x for key, x in base.state_dict().items()}, tmp_path / "x.pth")
    assert run(tmp_path / "x.pth", "-o", tmp_path / "x.weights.h5", "--json") == 0
    out, error = capsys.readouterr()
    assert json.loads(out)["max_relative_error"] <= 1e-5
    assert error.count("\n") == 1
    assert "own ImageNet weights" in error
    home = NETWORKS["vgg16"](weights=tmp_path / "x.weights.h5", include_top=False)
    x = torch.randn(1, 3, 32, 32)
    assert relative_error(base(x), home(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) <= 1e-5


@pytest.mark.filterwarnings("ignore:.*no architecture")
def test_the_warning_goes_with_the_weights(base: nn.Sequential, tmp_path: Path) -> None:
    """A `.safetensors` of ours says whether its weights are Keras's, whatever its names are."""
    torch.save({f"features.{key}": x for key, x in base.state_dict().items()}, tmp_path / "theirs.pth")
    torch.save(VGG16(weights=None, include_top=False).state_dict(), tmp_path / "ours.pth")
    for source, layout in (("theirs", "torchvgg"), ("theirs", "timm"), ("ours", "torchvgg"), ("ours", "timm")):
        path = tmp_path / f"{source}-{layout}.safetensors"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            convert(tmp_path / f"{source}.pth", path, layout=layout, check=False)
            VGG16(weights=path, include_top=False)
            if layout == "torchvgg":
                load_model(path)
        theirs = [str(warning.message) for warning in caught if "own ImageNet weights" in str(warning.message)]
        assert len(theirs) == (0 if source == "ours" else 3 if layout == "torchvgg" else 2)
        with safe_open(path, "pt") as file:
            assert file.metadata().get("preprocessing") == (None if source == "ours" else "unknown")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            nn.Sequential(nn.Linear(25088, 4), nn.ReLU(), nn.Linear(4, 2)),
            r"another head .*classifier.0.weight \(4, 25088\), ",
        ),
        (nn.Sequential(), "the file has no top|the base"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*own ImageNet weights")
def test_another_head(
    head: nn.Sequential, message: str, base: nn.Sequential, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.ModuleDict({"features": base, "classifier": head})
    torch.save(model.state_dict(), path := tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x.pth: .*{message}.*include_top=False"):
        VGG16(weights=path)
    assert len(VGG16(weights=path, include_top=False).state_dict()) == 26
    if len(head):
        assert run(path, "-q") == 1
        assert capsys.readouterr().err.count("--base-only") == 1
        assert run(path, "-q", "--base-only", "--no-check") == 0
        assert len(load_file(tmp_path / "x.safetensors")) == 26


@pytest.mark.filterwarnings("ignore:.*own ImageNet weights")
def test_a_whole_model_with_its_top(tmp_path: Path) -> None:
    """timm's dense layers are convolutions; the numbers are few, since a whole model takes half a gigabyte."""
    shapes = SHAPES["timm vgg16"] | dense("head.fc", 4096, 7)
    tensors = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    row = tensors["pre_logits.fc1.weight"][5].copy_(torch.arange(25088).reshape(512, 7, 7) / 4096)
    tensors["head.fc.bias"] += torch.arange(7)
    torch.save({"state_dict": tensors}, path := tmp_path / "x.pth")
    model = VGG16(weights=path, classes=7, classifier_activation=None)
    assert torch.equal(model.fc1.weight[5], row.flatten().float())
    assert model.fc1.weight.count_nonzero() == row.count_nonzero()
    assert model(torch.zeros(1, 3, 224, 224)).tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    for arguments, message in (
        ({"classes": 7}, r"224×224.*Received: 320×320"),
        ({}, r"predictions.weight: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            VGG16(weights=path, **arguments, input_shape=(3, 320, 320) if arguments else None)
    path.unlink()
