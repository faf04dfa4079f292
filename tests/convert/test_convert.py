"""The conversion: what it writes and reports, and the check that goes with it."""

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from torchvgg import VGG16, load_model
from torchvgg.convert import check, convert, default_output
from torchvgg.convert.demo import write_demo
from torchvgg.convert.layout import DENSE_KERNEL
from torchvgg.convert.network import from_file
from torchvgg.convert.network.from_file import open_source
from torchvgg.loading import build

from ..helpers.command_line import run
from ..helpers.keras_models import keras_model, write_twin


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


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".h5"])
def test_others_may_read_what_is_written(suffix: str, headless: Path, tmp_path: Path) -> None:
    (plain := tmp_path / "plain").touch()
    convert(headless, tmp_path / f"out{suffix}", check=False)
    assert (tmp_path / f"out{suffix}").stat().st_mode == plain.stat().st_mode


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
    names = {"format", "source", "source_size", "keras_version", "torchvgg_version"}
    assert metadata.keys() == names | {"architecture"}
    assert metadata["format"] == "pt"
    assert metadata["source"] == "headless.h5"
    assert metadata["source_size"] == str(headless.stat().st_size)
    assert metadata["keras_version"] == "1"
    convert(headless, tmp_path / "out.safetensors", check=False, layout="timm", force=True)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {key: metadata[key] for key in names} | {"layout": "timm"}


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
        "activation",
        "assumed",
    ]
    assert (printed["activation"], printed["assumed"]) == (None, "")
    assert printed["max_relative_error"] is None
    assert printed["params"] == 14_714_688


def test_what_had_to_be_assumed_is_said(topped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assumed = "no architecture: taken for Keras's own top, with softmax at its end (--activation none or classifier_activation=None gives logits)"
    assert run(topped, "-o", tmp_path / "out.pt", "--no-check") == 0
    printed = capsys.readouterr()
    assert f"{assumed} and images of 32×32 (--input-shape)" in printed.out
    assert printed.err == ""  # a `.pt` says nothing of the model
    output = tmp_path / "out.safetensors"
    assert run(topped, "-o", output, "--no-check", "--input-shape", "32,32") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"warning: {topped}: the file has {assumed}")
    assert printed.err.count("\n") == 1
    assert run(topped, "-o", output, "--no-check", "--force", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert run(topped, "-o", output, "--no-check", "--force", "--json", "--activation", "none") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["activation"], "softmax" in found["assumed"]) == ("linear", False)
    with pytest.warns(UserWarning, match="taken for Keras's own top, with softmax"):
        load_model(topped)


def test_a_single_output_is_taken_for_a_sigmoids(tmp_path: Path) -> None:
    """A softmax would make 1 of any number."""
    model = VGG16(weights=None, classes=1, input_shape=(3, 32, 32), classifier_activation="sigmoid").eval()
    torch.save(model.state_dict(), tmp_path / "binary.pt")
    convert(tmp_path / "binary.pt", tmp_path / "binary.weights.h5", input_shape=(32, 32))
    x = torch.randn(2, 3, 32, 32)
    for name in ("binary.pt", "binary.weights.h5"):
        with pytest.warns(UserWarning, match="with sigmoid at its end"), torch.no_grad():
            assert torch.equal(load_model(tmp_path / name)(x), model(x))


@pytest.mark.parametrize("name", ["logits.pt", "logits.safetensors", "logits.weights.h5"])
def test_logits_stay_logits(name: str, tmp_path: Path) -> None:
    """A model that was trained with `classifier_activation=None`, saved as tensors alone."""
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32), classifier_activation=None).eval()
    torch.save(model.state_dict(), tmp_path / "logits.pt")
    if name != "logits.pt":
        convert(tmp_path / "logits.pt", tmp_path / name, layout="torchvgg", activation="none")
    if name == "logits.safetensors":  # which holds the architecture
        with pytest.raises(ValueError, match="activation: the file says which it is; drop the option"):
            convert(tmp_path / name, tmp_path / "out.safetensors", activation="none")
        arguments: dict[str, Any] = {}
    else:
        arguments = {"activation": "none", "input_shape": (32, 32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = convert(tmp_path / name, tmp_path / "out.safetensors", **arguments)
    assert (report.activation, report.assumed) == ("linear", "")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out.safetensors")(x), model(x))
    with pytest.raises(ValueError, match=r"activation: (there is no top|the file says)"):
        convert(tmp_path / name, tmp_path / "base.safetensors", base_only=True, activation="softmax")
    with pytest.raises(ValueError, match=r"activation: expected one of softmax, none\. Received: 'relu'"):
        convert(tmp_path / name, tmp_path / "base.safetensors", activation="relu")


def test_quiet(headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(headless, "-o", tmp_path / "out.pt", "-q", "--no-check") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a/my.h5", "a/my.safetensors"), ("my.weights.h5", "my.safetensors"), ("my.v2.keras", "my.v2.safetensors")],
)
def test_default_output(source: str, expected: str) -> None:
    assert default_output(Path(source)) == Path(expected)


def test_default_output_of_what_has_no_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, and what the names of a checkpoint's files begin with, may have dots in their names."""
    (tmp_path / "model.v2").mkdir()
    (tmp_path / "w.0.85.index").touch()
    monkeypatch.chdir(tmp_path / "model.v2")
    for source, name in (
        ("../model.v2/", "model.v2"),
        (".", "model.v2"),
        ("../w.0.85", "w.0.85"),
        ("../w.0.85.index", "w.0.85"),
    ):
        assert default_output(Path(source)).resolve() == tmp_path / f"{name}.safetensors"


def test_an_output_that_exists_is_kept_unless_forced(headless: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        convert(headless, output)
    assert output.read_text() == "mine"
    convert(headless, output, force=True, check=False)
    assert len(load_file(output)) == 26
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("where", ["everywhere", "in one layer"])
def test_an_output_that_is_no_number_fails_the_check(where: str) -> None:
    expected = torch.rand(2, 3)
    computed = torch.full_like(expected, torch.nan) if where == "everywhere" else expected.clone()
    computed[1, 1] = torch.nan
    assert check.relative_error(computed, expected) == float("inf")
    assert check.relative_error(computed, computed) == 0
    assert check.relative_error(expected + 0.5, expected) == pytest.approx(0.5 / float(expected.max()))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            KeyError("x"),
            "a mistake in torchvgg (KeyError: 'x'), not in your file; TORCHVGG_DEBUG=1 shows the traceback",
        ),
        (RuntimeError("shapes\ndiffer"), "a mistake in torchvgg (RuntimeError: shapes differ), not in your file"),
        (ValueError("its layers"), "{path}: its layers"),
        (RuntimeError("can't allocate memory"), "can't allocate memory"),
        (MemoryError(), "{path}: more than there is memory for"),
        (UserWarning("raised by python -W error"), "raised by python -W error"),
    ],
)
def test_a_mistake_in_torchvgg_is_not_the_files_fault(
    error: Exception,
    line: str,
    headless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(from_file, "_check_order", fail)
    assert run(headless, "-o", tmp_path / "out.pt") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {line.format(path=headless)}")
    assert message.count("\n") == 1
    monkeypatch.setenv("TORCHVGG_DEBUG", "1")
    assert run(headless, "-o", tmp_path / "out.pt") == 1
    assert capsys.readouterr().err.startswith("Traceback") == ("mistake" in line)
    with pytest.raises(type(error)) as caught:
        VGG16(weights=headless, include_top=False)
    assert error in (caught.value, caught.value.__cause__)


def test_base_only_leaves_the_top_out(topped: Path, tmp_path: Path) -> None:
    report = convert(topped, tmp_path / "base.safetensors", base_only=True)
    assert report.params == 14_714_688


def test_check_notices_a_swapped_tensor(headless: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.safetensors"
    convert(headless, written)
    tensors = load_file(written)
    tensors["block5_conv1.weight"], tensors["block5_conv2.weight"] = (
        tensors["block5_conv2.weight"],
        tensors["block5_conv1.weight"],
    )
    with (
        open_source(headless, None, base_only=False) as source,
        pytest.raises(ValueError, match=r"block5_conv1.weight isn't what"),
    ):
        check.check_conversion(source.network, tensors, "float32", build)


def test_check_notices_a_wrong_layout(tmp_path: Path) -> None:
    """The port that most others are: fc1 transposed, its rows left in Keras's order. The tensors agree, the outputs don't."""
    path = write_twin(tmp_path / "wide.h5", keras_model(classes=4, input_shape=(32, 96, 3)))
    with open_source(path, (32, 96), base_only=False) as source:
        network = source.network
        for layer in network.layers:
            if layer.name == "fc1":
                layer.weights[0] = dataclasses.replace(layer.weights[0], layout=DENSE_KERNEL)
        written = {key: weight.tensor() for key, weight in network.weights()}
        with pytest.raises(ValueError, match="the relative error at fc1 is"):
            check.check_conversion(network, written, "float32", build)


def test_a_conversion_takes_little_memory(tmp_path: Path) -> None:
    """What isn't the files' own pages stays under 100 MB, where the model has 553."""
    code = """
import sys, threading
from pathlib import Path
import h5py, torch
from torchvgg.convert import convert, demo
from torchvgg.convert.network import from_file
from torchvgg.convert.write import write_checked

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000

def watch():
    while not done.wait(0.005):
        found.append(anonymous())

path = sys.argv[1]
before, done, found = anonymous(), threading.Event(), []
(watcher := threading.Thread(target=watch)).start()
for suffix in (".safetensors", ".pt"):
    convert(path, Path(path).with_suffix(suffix), check=False)
done.set(); watcher.join()
print(max(found) - before, len(found))
"""
    command = [sys.executable, "-c", code, str(write_demo(tmp_path))]
    printed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    most, samples = map(float, printed.split())
    assert most < 100
    assert samples > 50


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_model_without_weights(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.MaxPooling2D()])
    model.save(tmp_path / "model.keras")
    report = convert(tmp_path / "model.keras", output := tmp_path / f"out{suffix}")
    assert (report.params, report.max_relative_error) == (0, 0)
    assert report.to_text().startswith("0 arrays, 0 parameters")
    assert (load_file(output) if suffix == ".safetensors" else torch.load(output)) == {}


@pytest.mark.parametrize("kind", ["u1", "i2", "<u4", ">i8"])
def test_whole_numbers_of_any_type(kind: str, tmp_path: Path) -> None:
    """How many images a Normalization has seen counts for nothing, whatever it is kept in."""
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Normalization(name="normalization")])
    model.layers[0].adapt(np.random.default_rng(0).random((4, 32, 32, 3)))
    model.save(source := tmp_path / "model.h5")
    with h5py.File(source, "a") as file:
        names: list[str] = []
        file.visit(lambda name: names.append(name) if name.endswith("count") else None)
        del file[names[0]]
        file[names[0]] = np.array(100, kind)
    for suffix in (".safetensors", ".pt"):
        convert(source, output := tmp_path / f"out{suffix}")
        tensors = load_file(output) if suffix == ".safetensors" else torch.load(output)
        assert tensors["normalization.count"] == 100
    assert torch.equal(load_model(tmp_path / "out.safetensors").normalization.mean, tensors["normalization.mean"])


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
