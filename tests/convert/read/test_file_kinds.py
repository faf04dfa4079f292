"""What is known and isn't read is called what it is, with the way to a file that is."""

import gzip
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ...helpers.command_line import run

DATA = Path(__file__).parents[2] / "data"
AGAIN = r"load it in the Keras that wrote it, and model.save\('x.keras'\)"


@pytest.fixture(scope="module")
def small() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(DATA / "keras2" / "flat.h5", "model/flat.h5")


def image(path: Path, model: keras.Model) -> None:
    Image.new("RGB", (30, 30)).save(path)


def zipped_text(path: Path, model: keras.Model, name: str = "word/document.xml") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "<document/>")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(DATA / "keras2" / "flat.h5", "flat.h5")


def linked(name: str) -> Callable[[Path, keras.Model], object]:
    """A file or folder of `data/tensorflow`, which `make_tensorflow.py` made."""

    def copy(path: Path, model: keras.Model) -> None:
        source = DATA / "tensorflow" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)

    return copy


KINDS: dict[str, tuple[Callable[[Path, keras.Model], object], str]] = {
    "model.json": (
        lambda path, model: path.write_text(model.to_json()),
        r"an architecture without weights, .*load_model\('x.weights.h5', architecture=path\)",
    ),
    "model.yaml": (
        lambda path, model: shutil.copyfile(DATA / "old_keras/keras-2.2.4/model.yaml", path),
        "an architecture without weights",
    ),
    "model.pkl": (lambda path, model: path.write_bytes(pickle.dumps(model)), rf"a pickle.* of a Keras model: {AGAIN}"),
    "arrays.npz": (lambda path, model: np.savez(path, *model.get_weights()), r"NumPy arrays \(.npz\).*set_weights"),
    "array.npy": (lambda path, model: np.save(path, model.get_weights()[0]), r"NumPy arrays \(.npy\).*set_weights"),
    "model.tflite": (linked("model.tflite"), rf"a TensorFlow Lite model .*{AGAIN}"),
    "frozen.pb": (linked("frozen.pb"), rf"a frozen graph of TensorFlow .*{AGAIN}"),
    "saved_model.pb": (linked("exported/saved_model.pb"), "saved_model.pb alone, .*take the folder that it lies in"),
    "exported": (linked("exported"), rf"a SavedModel that Keras hasn't written, or model.export\(…\).*{AGAIN}"),
    "saver": (linked("saver"), rf"a checkpoint without Keras's layers, as TensorFlow 1 writes it; {AGAIN}"),
    "sharded.weights.json": (
        lambda path, model: model.save_weights(path, max_shard_size=1e-5),
        r"the index of weights in several files, .*model.save_weights\('x.weights.h5'\)",
    ),
    "tfjs.json": (
        lambda path, model: path.write_text('{"format": "layers-model", "modelTopology": {}}'),
        "a model of TensorFlow.js",
    ),
    "model.h5.gz": (lambda path, model: path.write_bytes(gzip.compress(b"x")), r"a packed file \(gzip, .*unpack it"),
    "model.tar": (lambda path, model: tarred(path), "a packed file .*unpack it"),
    "model.zip": (lambda path, model: packed(path), "a zip around 'model/flat.h5'; unpack it"),
    "model.pt.zip": (lambda path, model: zipped_text(path, model, "model.pt"), "a zip around 'model.pt'; unpack it"),
    "pointer.h5": (
        lambda path, model: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
        "a pointer of Git LFS, not the file, .*git lfs pull",
    ),
    "page.h5": (lambda path, model: path.write_text("<!DOCTYPE html><html></html>"), "a web page, not the file"),
    "login.h5": (lambda path, model: path.write_text("\n\n<!-- v2 -->\n<html></html>"), "a web page, not the file"),
    "denied.keras": (lambda path, model: path.write_text("<?xml version='1.0'?><Error/>"), "a web page, not the file"),
    "failed.h5": (
        lambda path, model: path.write_text('{"error": "not found"}'),
        "JSON or another text without a model",
    ),
    "empty.h5": (lambda path, model: path.write_bytes(b""), "an empty file"),
    "zeros.h5": (lambda path, model: path.write_bytes(bytes(5000)), "zeros where a file begins, .*download the file"),
    "notes.txt": (lambda path, model: path.write_text("notes – on VGG\n"), "a text, .*expected a Keras file"),
    "notes.pdf": (lambda path, model: path.write_bytes(b"%PDF-1.5\n\xe2"), "a PDF, .*name the file of a model"),
    **{
        f"photo.{kind}": (image, "an image, .*name the file of a model")
        for kind in ("jpg", "png", "gif", "bmp", "webp", "tiff")
    },
    "empty.zip": (lambda path, model: zipfile.ZipFile(path, "w").close(), "an empty zip"),
    "notes.docx": (zipped_text, "a zip without a model; expected a Keras file.* Received: one of 'word/document.xml'"),
    "noise.bin": (
        lambda path, model: path.write_bytes(bytes(range(255, -1, -1)) * 16),
        "expected a Keras file.*another kind of file",
    ),
    "folder": (lambda path, model: path.mkdir(), r"a folder without a model: expected saved_model.pb"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_named(name: str, small: keras.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = KINDS[name]
    make(path := tmp_path / name, small)
    for read in (load_model, lambda path: VGG16(weights=path, include_top=False), convert):
        with pytest.raises(ValueError, match=message) as raised:
            read(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)
    assert run(path) == 1
    assert capsys.readouterr().err == f"error: {raised.value}\n"


def test_a_folder_with_what_a_keras_file_has(small: keras.Model, tmp_path: Path) -> None:
    keras.saving.save_model(small, tmp_path / "model", zipped=False)
    report = convert(tmp_path / "model")
    assert report.format == ".keras"
    assert report.output == str(tmp_path / "model.safetensors")
    x = torch.rand(3, 8)
    for path in (tmp_path / "model", tmp_path / "model.safetensors"):
        assert torch.allclose(load_model(path)(x), small(x), atol=1e-6)


def test_a_checkpoint_serves_a_vgg_without_its_architecture(tmp_path: Path) -> None:
    """Its layers come by their places: the shapes say that these are none of a VGG's."""
    folder = DATA / "old_keras" / "tf_keras-2.21.0"
    for name in ("checkpoint", "saved_model"):
        with pytest.raises(ValueError, match=r"expected the 13 convolutions of VGG16|no whole VGG16 or VGG19 in it"):
            VGG16(weights=folder / name, include_top=False)
