"""The report names the arrays as the file that was written does."""

from pathlib import Path

import h5py
import pytest
from safetensors.torch import load_file

from torchvgg.convert import convert


@pytest.mark.parametrize("layout", ["torchvgg", "torchvision", "timm"])
def test_names_and_shapes_are_those_of_the_file(layout: str, headless: Path, tmp_path: Path) -> None:
    report = convert(headless, path := tmp_path / "out.safetensors", layout=layout, check=False)
    written = {name: list(tensor.shape) for name, tensor in load_file(path).items()}
    assert {row["name"]: row["shape"] for row in report.layers} == written
    first, name = report.to_text().splitlines()[0], report.layers[0]["name"]
    assert first.split("  ")[0] == "block1_conv1_W_1:0"
    assert name == ("block1_conv1.weight" if layout == "torchvgg" else "features.0.weight")
    assert first.split()[1:] == f"(3, 3, 3, 64) → {name} (64, 3, 3, 3)".split()


def test_the_way_back_has_keras_names(headless: Path, tmp_path: Path) -> None:
    convert(headless, ours := tmp_path / "ours.safetensors", check=False)
    report = convert(ours, back := tmp_path / "back.h5", check=False)
    with h5py.File(back) as file:
        for row in report.layers:
            layer = row["name"].partition("/")[0]
            assert list(file[f"{layer}/{row['name']}:0"].shape) == row["keras_shape"]
    first = report.to_text().splitlines()[0]
    assert first.split() == [
        "block1_conv1.weight",
        "(64,",
        "3,",
        "3,",
        "3)",
        "→",
        "block1_conv1/kernel",
        "(3,",
        "3,",
        "3,",
        "64)",
    ]
    assert report.layers[0] == {"name": "block1_conv1/kernel", "keras_shape": [3, 3, 3, 64], "shape": [64, 3, 3, 3]}
