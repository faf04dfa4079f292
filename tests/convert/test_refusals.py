"""What the conversion refuses: one line, the right exit status, and nothing left behind."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ..helpers.command_line import run
from ..helpers.keras_models import keras_model, write_twin


def damaged(path: Path, source: Path, change: Any) -> Path:
    """A copy of a Keras file with one thing changed."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name: str, array: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file[name]
        if array is not None:
            file[name] = array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replace("block3_conv1/block3_conv1_W_1:0", np.zeros((3, 3, 64, 256), "f")),
            r"block3_conv1_W_1:0: expected shape",
        ),
        (
            replace("block3_conv1/block3_conv1_b_1:0", np.zeros(255, "f")),
            r"expected shape \(256,\). Received: \(255,\)",
        ),
        (replace("block3_conv1/block3_conv1_W_1:0", None), "block3_conv1_W_1:0' is named, but isn't there"),
        (replace("block3_conv1", None), "layer 'block3_conv1' is named, but has no group"),
        (lambda file: file.attrs.__delitem__("layer_names"), "without Keras layers"),
        (lambda file: file["block1_conv1/block1_conv1_b_1:0"].__setitem__(3, np.nan), "block1_conv1_b_1:0: NaN or inf"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    change: Any, message: str, headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(tmp_path / "damaged.h5", headless, change)
    with pytest.raises(ValueError, match=message):
        convert(path)
    assert run(path) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("layer", ["block1_conv1", "block5_conv3"])
def test_nonfinite_is_converted_where_it_is_allowed(layer: str, headless: Path, tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.h5", headless, lambda file: file[f"{layer}/{layer}_b_1:0"].__setitem__(3, np.nan))
    convert(path, allow_nonfinite=True)
    model = VGG16(weights=tmp_path / "a.safetensors", include_top=False)
    assert model.get_submodule(layer).bias[3].isnan()


def test_what_float16_cannot_hold_is_refused(headless: Path, tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.h5", headless, lambda f: f["block3_conv2/block3_conv2_b_1:0"].__setitem__(3, 1e5))
    with pytest.raises(ValueError, match="block3_conv2_b_1:0: values beyond the range of float16"):
        convert(path, dtype="float16", check=False)
    assert list(tmp_path.iterdir()) == [path]


def test_a_published_name_keeps_its_place_for_the_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["vgg16", "--base-only"], ["vgg16", "--dtype", "bfloat16"]):
        assert run(*arguments) == 2
        assert capsys.readouterr().err.startswith("error: output: name a file")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    headless: Path, tmp_path: Path, file_size_limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".safetensors", ".pt"):
        assert run(headless, "-o", tmp_path / f"out{suffix}") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path}")
        assert "make room" in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a Keras file", "expected a Keras file, or one that `convert` wrote"),
        (b"\x89HDF\r\n\x1a\n and no more", "a damaged or incomplete HDF5 file"),
        (b"PK\x03\x04 and no more", "a damaged archive"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_keras_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        convert(path)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nosuch.h5"], 1, "nosuch.h5"),
        (["nosuch.h5", "-o", "out.bin"], 2, "ends in .safetensors"),
        (["nosuch.h5", "--dtype", "int8"], 2, "int8"),
        (["nosuch.h5", "--input-shape", "224"], 2, "two numbers from 32 up"),
        (["nosuch.h5", "--input-shape", "16,16"], 2, "two numbers from 32 up"),
        (["", "-q"], 1, "'': no such file; expected a Keras file, vgg16, vgg16-notop"),
        (["vgg99"], 1, "'vgg99': no such file"),
        (["nosuch.h5", "-o", ".pt"], 2, "ends in .safetensors"),
        (["a", "b"], 2, "unrecognized arguments: b"),
        (["demo", "-o", "x.h5", "--layout", "timm"], 2, "layout: a Keras file has Keras's own"),
        (["demo", "-o", "x.h5", "--dtype", "bfloat16"], 2, "Keras 3 reads bfloat16 from a .weights.h5 only"),
        (["--frobnicate"], 2, "--frobnicate"),
    ],
)
def test_exit_status_says_whose_fault_it_is(
    arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        received = run(*arguments)
    except SystemExit as stop:
        received = int(str(stop.code))
    printed = capsys.readouterr()
    assert received == status
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_flatten_that_is_not_square_wants_its_size(tmp_path: Path) -> None:
    path = write_twin(tmp_path / "wide.h5", keras_model(classes=4, input_shape=(32, 96, 3)))
    with pytest.raises(ValueError, match="--input-shape"):
        convert(path, check=False)
    convert(path, input_shape=(32, 96))
    assert load_model(tmp_path / "wide.safetensors").input_shape == (None, 3, 32, 96)
