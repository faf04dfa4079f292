"""On Windows, simulated on Linux: what people do every day works, and leaves nothing behind."""

import json
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import torch

from torchvgg import VGG16
from torchvgg.convert import convert, published

from .helpers.hostile import BIAS, KERAS2, KERNEL, put
from .helpers.photos import write_photos
from .helpers.server import FILENAME, Server
from .helpers.simulated_windows import IN_USE, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "folder").mkdir()
    return folder


def ran(code: str, folder: Path, *arguments: object) -> str:
    """What a script prints that ends well, with nothing on standard error and nothing left in the temporary folder."""
    done = run(code, folder, *arguments)
    assert done.stderr == ""
    assert done.returncode == 0
    assert list((folder / "temporary").iterdir()) == []
    return done.stdout


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"temporary"}


COMMANDS = """
import json, sys
from torchvgg.command_line import main
for arguments in json.loads(sys.argv[1]):
    if status := main(arguments):
        sys.exit(status)
"""


def ran_commands(folder: Path, *commands: str) -> list[str]:
    """The lines that the commands print, run one after the other in one process."""
    return ran(COMMANDS, folder, json.dumps([command.split() for command in commands])).splitlines()


def test_tests_can_be_collected(folder: Path) -> None:
    ran("import tests.conftest", folder)


def test_conversions_and_each_way_back(topped: Path, folder: Path) -> None:
    (folder / "my.h5").write_bytes(topped.read_bytes())
    (left := folder / "temporary" / "torchvgg-left").mkdir(parents=True)  # by a process that was killed; it is cleared
    for name in ("claim", "half"):
        (left / name).touch()
    outputs = ("out.safetensors", "out.pt", "back.h5", "back.weights.h5")
    forth = "convert my.h5 --input-shape 32,32 --activation softmax -o"
    ran_commands(folder, *(f"{forth} {output}" for output in outputs), f"{forth} out.pt --force")
    assert contents(folder) == {"my.h5", *outputs}
    expected = keras.applications.VGG16(weights=folder / "my.h5", classes=4, input_shape=(32, 32, 3))
    for output in ("back.h5", "back.weights.h5"):
        again = keras.applications.VGG16(weights=folder / output, classes=4, input_shape=(32, 32, 3))
        for array, same in zip(expected.get_weights(), again.get_weights(), strict=True):
            assert np.array_equal(array, same)
    models = [VGG16(weights=folder / name, classes=4, input_shape=(3, 32, 32)) for name in ("my.h5", *outputs[:2])]
    for tensors in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.equal(tensors[0], tensor) for tensor in tensors)


def test_a_compressed_file_leaves_nothing(folder: Path) -> None:
    """Its arrays are unpacked into a temporary file, and mapped from there."""
    with h5py.File(KERAS2 / "trained.h5") as source, h5py.File(folder / "packed.h5", "w") as target:
        target.attrs.update(source.attrs)
        source.copy("model_weights", target)
        for name in (KERNEL, BIAS):
            put(name, data=source[name][()], compression="gzip")(target)
    ran_commands(folder, "convert packed.h5 -o out.safetensors", "summary packed.h5")
    assert contents(folder) == {"packed.h5", "out.safetensors"}


IN_USE_HERE = """
from torchvgg import load_model, save_model
from torchvgg.convert.command_line import main
model = load_model("out.safetensors")
save_model(model, "saved.safetensors")
main(["trained.h5", "-o", "out.safetensors", "--force"])
try:
    save_model(model, "out.safetensors")
except OSError as error:
    print(error)
"""


def test_an_output_that_is_in_use_is_one_line(folder: Path) -> None:
    (folder / "trained.h5").write_bytes((KERAS2 / "trained.h5").read_bytes())
    convert(folder / "trained.h5", folder / "out.safetensors", check=False)
    before = (folder / "out.safetensors").read_bytes()
    done = run(IN_USE_HERE, folder)
    reason = f"{folder}/out.safetensors: can't be replaced ({IN_USE}); close what uses it, such as a program with a model loaded from it"
    assert done.returncode == 0
    assert done.stdout == f"{reason}, or name another output\n"
    assert done.stderr == f"error: {done.stdout}"
    assert contents(folder) == {"trained.h5", "out.safetensors", "saved.safetensors"}
    assert list((folder / "temporary").iterdir()) == []
    assert (folder / "out.safetensors").read_bytes() == before


FASTER = """
import sys
from pathlib import Path
from torchvgg import VGG16, load_model
from torchvgg.convert import published
from torchvgg.convert.write import write_checked
published.FILES["vgg16-notop"] = published.FILES["vgg16-notop"]._replace(md5=sys.argv[1])
write, models = write_checked.write_safetensors, []

def write_and_be_overtaken(network, path, *rest):
    write(network, path, *rest)
    target = published.converted_path("vgg16-notop")
    target.write_bytes(path.read_bytes())
    models.append(load_model(target))

write_checked.write_safetensors = write_and_be_overtaken
VGG16(include_top=False)
assert len(models) == 1
"""


def test_another_process_converted_faster_and_uses_the_file(server: Server, folder: Path) -> None:
    ran(FASTER, folder, published.FILES["vgg16-notop"].md5)
    assert contents(Path(os.environ["TORCHVGG_HOME"])) == {FILENAME, "vgg16-notop.safetensors"}


PUBLISHED = """
import sys
from torchvgg import VGG16
from torchvgg.convert import published
published.FILES["vgg16-notop"] = published.FILES["vgg16-notop"]._replace(md5=sys.argv[1])
first, second = VGG16(include_top=False), VGG16(include_top=False)
assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))
print(first.summary())
"""


def test_published_weights_are_fetched_and_converted(server: Server, folder: Path) -> None:
    ran(PUBLISHED, folder, published.FILES["vgg16-notop"].md5)
    assert len(server.requests) == 1
    home = Path(os.environ["TORCHVGG_HOME"])
    assert contents(home) == {FILENAME, "vgg16-notop.safetensors"}
    assert contents(folder) == set()


FAST = """
import torch
from torchvgg import VGG16, optimize_for_inference
from torchvgg.convert import convert
model = VGG16(weights=None, include_top=False).eval()
x = torch.randn(1, 3, 64, 64)
with torch.no_grad():
    expected = model(x)
    error = (optimize_for_inference(model)(x) - expected).abs().max() / expected.abs().max()
assert 0 < error < 5e-6
"""


def test_the_fast_path(folder: Path) -> None:
    ran(FAST, folder)


EXTRACT = """
import sys
from torchvgg import extract_features, load_model
for output in ("f.npz", "f.parquet"):
    print(extract_features(load_model(sys.argv[1]), "photos", output, batch_size=2, workers=2, layer="block3_pool").images)
"""


@pytest.fixture(scope="module")
def weights(topped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    convert(topped, path, input_shape=(32, 32), activation="softmax", check=False)
    return path


def test_extractions_of_a_script_without_a_guard(weights: Path, folder: Path) -> None:
    write_photos(folder / "photos", 5)
    assert ran(EXTRACT, folder, weights) == "5\n5\n"
    assert contents(folder) == {"photos", "f.npz", "f.parquet"}


def test_images_are_shown_classified_and_counted(weights: Path, folder: Path) -> None:
    write_photos(folder / "photos" / "1", 1)
    (folder / "labels.txt").write_text("猫\n犬\n鳥\n魚", "utf-8")
    printed = ran_commands(
        folder,
        f"show photos/1/000.jpg --cam 2 -o cam.png --weights {weights}",
        f"predict photos/1/000.jpg --weights {weights} --labels labels.txt",
        f"evaluate photos --weights {weights} --json",
    )
    assert printed[0] == "photos/1/000.jpg"
    assert all(row.endswith("?") for row in printed[1:5])
    assert json.loads(printed[5])["images"] == 1
    assert contents(folder) == {"photos", "cam.png", "labels.txt"}
