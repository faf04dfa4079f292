"""`extract_features`: the rows are what Keras computes, whatever happens on the way."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from torchvgg import VGG16, extract_features, load_image, load_model, preprocess_input
from torchvgg.extraction.extractor import features_of
from torchvgg.layers import Dense, Flatten
from torchvgg.model import Model

from ...helpers.command_line import heed
from ...helpers.features import SIZE, table
from ...helpers.graphs import GRAPHS
from ...helpers.heads import with_random_weights
from ...helpers.keras_models import relative_error
from ...helpers.photos import write_photos


def keras_predict(theirs: Any, layer: str, paths: list[str], pooling: str | None) -> np.ndarray:
    output = theirs.get_layer(layer).output
    if len(output.shape) == 4:
        pool = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
        output = (pool[pooling] if pooling else keras.layers.Flatten)()(output)
    images = [keras.utils.img_to_array(keras.utils.load_img(path, target_size=(SIZE, SIZE))) for path in paths]
    x = keras.applications.vgg16.preprocess_input(np.stack(images))
    return np.asarray(keras.Model(theirs.input, output).predict(x, verbose=0))


@pytest.mark.parametrize(
    ("layer", "pooling", "suffix"),
    [
        ("block5_pool", "avg", ".parquet"),
        ("block3_conv2", "max", ".npz"),
        ("block4_pool", None, ".parquet"),
        ("fc2", "avg", ".npz"),
        ("flatten", None, ".parquet"),
    ],
)
def test_rows_are_what_keras_computes(
    layer: str, pooling: str | None, suffix: str, theirs: Any, model: Any, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"features{suffix}"
    done = extract_features(model, str(photos), output, layer=layer, pooling=pooling, batch_size=4, workers=1)
    paths, vectors, errors = table(output)
    assert paths == sorted(str(path) for path in photos.iterdir())
    bad = [bool(error) for error in errors]
    assert [Path(path).name for path, is_bad in zip(paths, bad, strict=True) if is_bad] == ["004b.jpg", "011b.png"]
    good = [path for path, is_bad in zip(paths, bad, strict=True) if not is_bad]
    expected = keras_predict(theirs, layer, good, pooling)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[~np.array(bad)], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.isnan(vectors[bad]).all()
    assert "truncated" in errors[5]
    assert errors[13] == "can't be read as an image (it isn't one that Pillow knows)"
    assert (done.images, done.bad, done.done_before, done.size) == (21, 2, 0, expected.shape[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_vector_that_is_not_finite_is_an_error(suffix: str, tmp_path: Path) -> None:
    """Of that image alone: the same weights are too large for a bright one."""
    model = Model({"flatten": Flatten(), "dense": Dense(192, 2)}, (3, 8, 8), "large").eval()
    model.dense.requires_grad_(False).weight.copy_(torch.tensor([[1.0], [1e38]]).expand(2, 192))
    for name, grey in (("a.png", 255), ("b.png", 0), ("c.png", 255)):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(tmp_path / name)
    (tmp_path / "b2.png").write_text("no image")
    output = tmp_path / f"features{suffix}"
    done = extract_features(model, tmp_path, output, layer="dense", preprocessing="none", workers=0)
    _, vectors, errors = table(output)
    assert (done.images, done.bad) == (4, 3)
    assert (
        errors[::3]
        == ["the model's output has NaN or infinity in it; its weights are damaged, or too large for half precision"]
        * 2
    )
    assert (errors[1], errors[2][:21]) == ("", "can't be read as an i")
    np.testing.assert_array_equal(vectors, [[np.nan] * 2, [0] * 2, [np.nan] * 2, [np.nan] * 2])


@torch.no_grad()
def test_rows_of_images_read_otherwise(model: Any, photos: Path, tmp_path: Path) -> None:
    """With every setting, and of a size of one's own where that is open."""
    arguments: dict[str, Any] = {"interpolation": "bilinear", "exif": True}
    extract_features(model, photos / "000.jpg", tmp_path / "a.npz", resize=80, preprocessing="signed", **arguments)
    x = load_image(photos / "000.jpg", 80, crop=SIZE, **arguments) / 127.5 - 1
    expected = model.extract(x, ["block5_pool"])["block5_pool"].mean((2, 3))
    np.testing.assert_allclose(table(tmp_path / "a.npz")[1], expected, rtol=0, atol=1e-5 * float(expected.max()))
    base = VGG16(weights=None, include_top=False).eval()
    reading: dict[str, Any] = {"keep_aspect_ratio": True}
    extract_features(base, [photos / "000.jpg"], tmp_path / "b.npz", pooling=None, resize=(32, 64), **reading)
    x = preprocess_input(load_image(photos / "000.jpg", (32, 64), **reading))
    expected = base(x).permute(0, 2, 3, 1).flatten(1)
    assert expected.shape == (1, 2 * 512)
    np.testing.assert_allclose(table(tmp_path / "b.npz")[1], expected, rtol=0, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("workers", [0, 3])
def test_the_number_of_workers_changes_nothing(workers: int, model: Any, photos: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    extract_features(model, str(photos), one, batch_size=5, workers=1)
    extract_features(model, str(photos), other, batch_size=5, workers=workers)
    for a, b in zip(table(one), table(other), strict=True):
        np.testing.assert_array_equal(a, b)


COMMAND = """
import os, sys, time
from torchvgg.extraction import features
from torchvgg.command_line import main

class Waiting(features.Extractor):
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        while self.calls > 2 and not os.path.exists(sys.argv[-1]):
            time.sleep(0.01)
        return super().__call__(batch)

features.Extractor = Waiting
sys.exit(main(sys.argv[1:-1]))
"""


def start(photos: Path, *arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, which waits after two batches until `go_on`."""
    command = [sys.executable, "-c", COMMAND, "extract", *map(str, (photos, *arguments)), f"{arguments[1]}.go"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def go_on(output: Path) -> None:
    Path(f"{output}.go").touch()


def wait_for_parts(folder: Path, suffix: str, number: int) -> None:
    for _ in range(1200):
        if len(list(folder.glob(f"*{suffix}"))) >= number:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{folder} has {list(folder.glob('*'))}")


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_after_a_kill_it_goes_on_where_it_was(
    suffix: str, weights: Path, model: Any, photos: Path, tmp_path: Path
) -> None:
    output, parts = tmp_path / f"killed{suffix}", tmp_path / f"killed{suffix}.parts"
    arguments = ("-o", output, "--weights", weights, "--batch-size", 4, "--workers", 1)
    process = start(photos, *arguments)
    wait_for_parts(parts, suffix, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    (parts / f"half{suffix}").write_bytes(b"PAR1 half of a part")  # as a writer that was killed may leave it
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob(f"*{suffix}")}
    go_on(output)
    process = start(photos, *arguments)
    printed, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    before = 4 * (len(kept) - 1)
    assert printed.splitlines()[0] == f"21 images, 2 of them bad, 512 numbers each → {output}"
    assert printed.splitlines()[1].startswith(f"{21 - before} in ")
    assert printed.splitlines()[1].endswith(f"{before} were done before")
    assert not parts.exists()
    whole = tmp_path / f"whole{suffix}"
    extract_features(model, str(photos), whole, batch_size=4)
    for a, b in zip(table(output), table(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("number", "status", "message"), [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_signals_end_it_in_one_line(
    number: int, status: int, message: str, weights: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "f.npz"
    process = start(photos, "-o", output, "--weights", weights, "--batch-size", 2, "--workers", 1)
    wait_for_parts(tmp_path / "f.npz.parts", ".npz", 1)
    process.send_signal(number)
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed, error) == (status, "", message)
    assert not output.exists()
    assert (tmp_path / "f.npz.parts").is_dir()


def test_a_signal_to_all_its_processes_ends_it_in_no_line(weights: Path, photos: Path, tmp_path: Path) -> None:
    """As a container or `timeout` ends a group; a worker that died of it would be a line more, or a traceback."""
    process = start(photos, "-o", tmp_path / "f.npz", "--weights", weights, "--batch-size", 2, "--workers", 2)
    wait_for_parts(tmp_path / "f.npz.parts", ".npz", 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    for number in (*map(int, children), process.pid):  # the workers first
        os.kill(number, signal.SIGTERM)
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed, error) == (143, "", "")


def test_a_worker_that_is_killed_is_one_line(weights: Path, photos: Path, tmp_path: Path) -> None:
    process = start(photos, "-o", tmp_path / "f.npz", "--weights", weights, "--batch-size", 1, "--workers", 1)
    wait_for_parts(tmp_path / "f.npz.parts", ".npz", 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    go_on(tmp_path / "f.npz")
    printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert error == "error: a process that decodes images was killed; run the same command again to resume\n"


def test_two_at_once(weights: Path, photos: Path, tmp_path: Path) -> None:
    """The second is refused, and disturbs nothing."""
    process = start(photos, "-o", tmp_path / "f.npz", "--weights", weights, "--workers", 1, "--batch-size", 2)
    wait_for_parts(tmp_path / "f.npz.parts", ".npz", 1)
    with pytest.raises(OSError, match=r"f\.npz: another extraction is writing it"):
        extract_features(load_model(weights), str(photos), tmp_path / "f.npz", batch_size=3)
    go_on(tmp_path / "f.npz")
    printed, error = process.communicate(timeout=60)
    bad = f"2 of 21 images are bad; {tmp_path}/f.npz has the error for each\n"
    assert (process.returncode, error) == (0, bad)
    assert "21 images" in printed
    assert len(table(tmp_path / "f.npz")[0]) == 21


def test_names_of_every_kind(model: Any, tmp_path: Path) -> None:
    """Bytes that aren't UTF-8, a line's end, a name twice."""
    folder = os.fsencode(tmp_path / "photos")
    (content,) = (path.read_bytes() for path in write_photos(tmp_path / "photos", 1))
    for name in (b"caf\xe9.jpg", "naïve 猫.jpg".encode(), b"two\nlines.jpg"):
        with open(os.path.join(folder, name), "wb") as stream:  # noqa: PTH118  # bytes
            stream.write(content)
    for suffix in (".parquet", ".npz"):
        output = tmp_path / f"f{suffix}"
        extract_features(model, [str(tmp_path / "photos"), str(tmp_path / "photos" / "000.jpg")], output)
        paths, vectors, errors = table(output)
        assert sorted(Path(path).name for path in paths) == [
            "000.jpg",
            "caf\\udce9.jpg",
            "naïve 猫.jpg",
            "two\nlines.jpg",
        ]
        assert errors == [""] * 4
        np.testing.assert_allclose(vectors, vectors[[0, 0, 0, 0]], rtol=0, atol=1e-6 * np.abs(vectors).max())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"output": "f.csv"},
            ValueError,
            r"output: expected a name that ends in \.parquet.*\.npz\. Received: .*f\.csv",
        ),
        ({"layer": "block6_pool"}, ValueError, "unknown layers: expected names out of block1_conv1, "),
        ({"pooling": "mean"}, ValueError, "pooling: expected None, 'avg' or 'max'. Received: 'mean'"),
        ({"batch_size": 0}, ValueError, "batch_size: expected a number from 1 up. Received: 0"),
        (
            {"preprocessing": "torch"},
            ValueError,
            "preprocessing: expected one of vgg, unit, signed, torchvision, none. Received: 'torch'",
        ),
        ({"half": True}, ValueError, "half: there is no GPU here"),
        ({"ray": True, "output": "f.npz"}, ValueError, r"output: with Ray, expected a name that ends in \.parquet"),
        ({"images": []}, ValueError, "expected at least one image. Received: none"),
        ({"output": "/sys/f.npz"}, OSError, "/sys/f.npz.parts"),
    ],
)
def test_what_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str, model: Any, photos: Path, tmp_path: Path
) -> None:
    settings = {"images": [str(photos)], "output": "f.npz"} | arguments
    settings["output"] = tmp_path / settings["output"]
    if torch.cuda.is_available():
        settings.pop("half", None)
    with pytest.raises(error, match=message):
        extract_features(model, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_bar_where_there_is_a_terminal(weights: Path, photos: Path, tmp_path: Path) -> None:
    """With the rate and the time left, on standard error; in a pseudo-terminal of its own."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "torchvgg", "extract", photos, "-o", tmp_path / "f.npz", "--weights", weights]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 10_000)
        except OSError:  # the other end is closed
            break
    process.communicate(timeout=60)
    os.close(leader)
    assert b"21/21" in shown
    assert b"images/s" in shown


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_another_type_is_left_as_it_was(dtype: torch.dtype, photos: Path, tmp_path: Path) -> None:
    """It is computed in float32; its own tensors and its mode stay."""
    model = VGG16(weights=None, include_top=False).train()
    extract_features(model, str(photos / "000.jpg"), tmp_path / "float32.npz", layer="block2_pool")
    before = {name: (tensor, tensor.clone()) for name, tensor in model.to(dtype).state_dict(keep_vars=True).items()}
    extract_features(model, str(photos / "000.jpg"), tmp_path / "other.npz", layer="block2_pool")
    (_, expected, _), (_, received, _) = table(tmp_path / "float32.npz"), table(tmp_path / "other.npz")
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2  # what the weights lost
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert tensor.dtype == dtype
        assert torch.equal(tensor, before[name][1])
        assert tensor.requires_grad
    assert all(module.training for module in model.modules())


def test_all_images_bad(model: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no")
    done = extract_features(model, str(tmp_path / "a.jpg"), tmp_path / "f.parquet")
    assert (done.images, done.bad) == (1, 1)
    (_, vectors, errors) = table(tmp_path / "f.parquet")
    assert vectors.shape == (1, 0)
    assert errors[0].startswith("can't be read as an image")


@torch.no_grad()
@pytest.mark.parametrize("layer", ["block2_conv2", "flatten_1", "add", "dense"])
def test_vectors_of_a_graph(layer: str, tmp_path: Path) -> None:
    """Only what leads to the layer is computed; where a layer of a branch is flattened, it is in Keras's order."""
    theirs = with_random_weights(GRAPHS["flattened_twice_and_added"]())
    names = {type(each).__name__.lower(): each.name for each in theirs.layers}
    names |= {"flatten_1": names["flatten"], "block2_conv2": "block2_conv2"}
    theirs.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    x = torch.rand(2, 3, 64, 64)
    expected = model.extract(x, [names[layer]])[names[layer]]
    expected = expected.mean((2, 3)) if expected.dim() == 4 else expected
    features = features_of(model, names[layer], "avg")
    assert (len(features.nodes) < len(model.nodes)) == (layer != "dense")
    assert relative_error(features(x), expected) <= 1e-6
    GRAPHS["two_inputs"]().save(tmp_path / "two.keras")
    two = load_model(tmp_path / "two.keras")
    with pytest.raises(ValueError, match=r"expected a model of images alone\. Received: one with inputs of"):
        features_of(two, "block1_conv1", None)
