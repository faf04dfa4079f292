"""The conversion: what it writes, reports and refuses, from Python and from the command line."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from torchvgg import VGG16, VGG19, load_model
from torchvgg.convert import __main__ as command_line
from torchvgg.convert import check, convert, default_output
from torchvgg.convert.keras_file import open_keras_file
from torchvgg.convert.layout import DENSE_KERNEL
from torchvgg.convert.network import network_of

from .keras_models import images, keras_model, keras_outputs, relative_error, write_twin


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of vgg16-notop."""
    return write_twin(tmp_path_factory.mktemp("twins") / "headless.h5", keras_model(include_top=False))


@pytest.fixture(scope="module")
def topped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of vgg16, for small images."""
    return write_twin(tmp_path_factory.mktemp("twins") / "topped.h5", keras_model(classes=4, input_shape=(32, 32, 3)))


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_each_format_and_type_loads(suffix: str, dtype: str, headless: Path, tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    report = convert(headless, output, dtype=dtype)
    assert report.max_relative_error is not None
    assert report.max_relative_error < {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}[dtype]
    tensors = load_file(output) if suffix == ".safetensors" else torch.load(output, weights_only=True)
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    model = VGG16(weights=output, include_top=False)
    with h5py.File(headless) as file:
        kernel = torch.from_numpy(file["block3_conv2/block3_conv2_W_1:0"][()])
    expected = kernel.permute(3, 2, 0, 1).to(getattr(torch, dtype)).float()
    assert torch.equal(model.block3_conv2.weight, expected)


def test_report(headless: Path, tmp_path: Path) -> None:
    report = convert(headless, tmp_path / "out.safetensors")
    assert report.source == str(headless)
    assert report.output == str(tmp_path / "out.safetensors")
    assert report.params == 14_714_688
    assert len(report.layers) == 26
    assert report.layers[2] == {
        "name": "block1_conv2.weight",
        "keras_shape": [3, 3, 64, 64],
        "shape": [64, 64, 3, 3],
    }
    assert report.worst_layer in dict(VGG16(weights=None, include_top=False).named_children())


def test_metadata(headless: Path, tmp_path: Path) -> None:
    convert(headless, tmp_path / "out.safetensors", check=False)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["source"] == "headless.h5"
    assert metadata["source_md5"] == hashlib.md5(headless.read_bytes()).hexdigest()
    assert metadata["keras_version"] == "1"


def test_command_line_prints_rows_and_totals(
    headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(headless, "-o", tmp_path / "out.safetensors") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == [
        "block1_conv1_W_1:0",
        "(3,",
        "3,",
        "3,",
        "64)",
        "→",
        "block1_conv1.weight",
        "(64,",
        "3,",
        "3,",
        "3)",
    ]
    assert lines[26].startswith("26 arrays, 14,714,688 parameters")
    assert "largest relative error of any layer" in lines[27]
    assert str(tmp_path / "out.safetensors") in lines[28]
    assert printed.err == ""


def test_command_line_prints_json(headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(headless, "-o", tmp_path / "out.pt", "--json", "--no-check") == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [
        "source",
        "output",
        "format",
        "keras_version",
        "layers",
        "params",
        "max_relative_error",
        "seconds",
    ]
    assert printed["max_relative_error"] is None
    assert printed["params"] == 14_714_688


def test_quiet(headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(headless, "-o", tmp_path / "out.pt", "-q", "--no-check") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a/my.h5", "a/my.safetensors"), ("my.weights.h5", "my.safetensors"), ("my.v2.keras", "my.v2.safetensors")],
)
def test_default_output(source: str, expected: str) -> None:
    assert default_output(Path(source)) == Path(expected)


def test_an_output_that_exists_is_kept_unless_forced(headless: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        convert(headless, output)
    assert output.read_text() == "mine"
    convert(headless, output, force=True, check=False)
    assert len(load_file(output)) == 26
    assert list(tmp_path.iterdir()) == [output]


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


@pytest.mark.parametrize("where", ["everywhere", "in one layer"])
def test_an_output_that_is_no_number_fails_the_check(where: str) -> None:
    expected = torch.rand(2, 3)
    computed = torch.full_like(expected, torch.nan) if where == "everywhere" else expected.clone()
    computed[1, 1] = torch.nan
    assert check.relative_error(computed, expected) == float("inf")
    assert check.relative_error(computed, computed) == 0
    assert check.relative_error(expected + 0.5, expected) == pytest.approx(0.5 / float(expected.max()))


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


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_head_that_is_not_keras_own_is_refused_by_its_name(suffix: str, tmp_path: Path) -> None:
    base = keras_model(include_top=False, input_shape=(32, 32, 3))
    head = [keras.layers.GlobalAveragePooling2D(name="pooled"), *(keras.layers.Dense(4096) for _ in range(2))]
    keras.Sequential([*base.layers, *head, keras.layers.Dense(3, "sigmoid")]).save(tmp_path / f"mine{suffix}")
    with pytest.raises(ValueError, match=r"layer 'pooled' \(GlobalAveragePooling2D\) is no part of Keras's own VGG"):
        convert(tmp_path / f"mine{suffix}")


def test_a_published_name_keeps_its_place_for_the_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["vgg16", "--base-only"], ["vgg16", "--dtype", "bfloat16"]):
        assert run(*arguments) == 1
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
        (b"not a Keras file", "neither an HDF5 file nor a .keras archive"),
        (b"\x89HDF\r\n\x1a\n and no more", "a damaged or incomplete HDF5 file"),
        (b"PK\x03\x04 and no more", "a damaged archive"),
        (b"", "neither an HDF5 file nor a .keras archive"),
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


def test_base_only_leaves_the_top_out(topped: Path, tmp_path: Path) -> None:
    report = convert(topped, tmp_path / "base.safetensors", base_only=True)
    assert report.params == 14_714_688


def test_a_flatten_that_is_not_square_wants_its_size(tmp_path: Path) -> None:
    path = write_twin(tmp_path / "wide.h5", keras_model(classes=4, input_shape=(32, 96, 3)))
    with pytest.raises(ValueError, match="--input-shape"):
        convert(path, check=False)
    convert(path, input_shape=(32, 96))
    assert load_model(tmp_path / "wide.safetensors").input_shape == (None, 3, 32, 96)


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
        ({"architecture": '{"name": "a", "input_shape": [3, null, null], "layers": []}'}, r"a has no place for a.{b}"),
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


def test_check_notices_a_swapped_tensor(headless: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.safetensors"
    convert(headless, written)
    tensors = load_file(written)
    tensors["block5_conv1.weight"], tensors["block5_conv2.weight"] = (
        tensors["block5_conv2.weight"],
        tensors["block5_conv1.weight"],
    )
    save_file(tensors, written)
    with open_keras_file(headless) as keras_file, pytest.raises(ValueError, match=r"block5_conv1.weight isn't what"):
        check.check_output(network_of(keras_file, None, base_only=False), written, "float32")


def test_check_notices_a_wrong_layout(tmp_path: Path) -> None:
    """The port that most others are: fc1 transposed, its rows left in Keras's order. The tensors agree, the outputs don't."""
    path = write_twin(tmp_path / "wide.h5", keras_model(classes=4, input_shape=(32, 96, 3)))
    with open_keras_file(path) as keras_file:
        network = network_of(keras_file, (32, 96), base_only=False)
        for layer in network.layers:
            if layer.name == "fc1":
                layer.weights[0] = dataclasses.replace(layer.weights[0], layout=DENSE_KERNEL)
        written = tmp_path / "wrong.safetensors"
        save_file({key: weight.tensor().contiguous() for key, weight in network.weights()}, written)
        with pytest.raises(ValueError, match="the relative error at fc1 is"):
            check.check_output(network, written, "float32")


def test_demo_in_a_subprocess(tmp_path: Path) -> None:
    """The README's first command, whole: 138 million numbers, written, converted, checked; and kept where -o says."""
    output = tmp_path / "demo.safetensors"
    command = [sys.executable, "-m", "torchvgg.convert", "demo", "-o", str(output), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["params"] == 138_357_544
    assert report["max_relative_error"] <= 1e-5
    assert report["output"] == str(output)
    assert list(tmp_path.iterdir()) == [output]
    assert VGG16(weights=output).fc1.weight.shape == (4096, 25088)
