"""Files with random damage, always the same ones: each is read as it should be, or refused in one line."""

import random
import shutil
from pathlib import Path

import pytest

from torchvgg import load_model
from torchvgg.convert import convert
from torchvgg.convert.read import hdf5_process, tensor_bundle

from ...helpers.command_line import run
from ...helpers.hostile import KERAS2, processor_time

pytestmark = pytest.mark.slow

MUTATIONS, BATCHES = 300, 10


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in which the HDF5 library loops ends after five seconds here, not a minute."""
    monkeypatch.setattr(hdf5_process, "SECONDS", 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small file of every kind that is read."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in (".safetensors", ".pt"):
        convert(KERAS2 / "trained.h5", folder / f"ours{suffix}")
    others = sorted(KERAS2.with_name("onnx").glob("*.onnx"))
    return [*sorted(KERAS2.glob("*.h5")), *sorted(KERAS2.glob("*.keras")), *others, *sorted(folder.iterdir())]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, replaced, taken out or put in, moved or doubled, or the end cut off."""
    new = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place, length = chance.randrange(len(new)), chance.randrange(1, 64)
        kind = chance.random()
        if kind < 0.4:
            new[place] ^= 1 << chance.randrange(8)
        elif kind < 0.65:
            new[place] = chance.choice((0, 1, 127, 128, 255))
        elif kind < 0.75:
            del new[place : place + length]
        elif kind < 0.85:
            new[place:place] = chance.randbytes(length)
        elif kind < 0.95:
            source = chance.randrange(len(new))
            new[place : place + length] = new[source : source + length]
        else:
            del new[place + 1 :]
    return bytes(new)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_mutated_files_are_read_or_refused_in_one_line(
    batch: int, whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(batch)
    for number in range(MUTATIONS // BATCHES):
        source = chance.choice(whole)
        path = tmp_path / f"{number}{source.suffix}"
        path.write_bytes(mutated(source.read_bytes(), chance))
        started = processor_time()
        status = run(path, "-o", tmp_path / "out.safetensors", "--force", "-q")
        _, error = capsys.readouterr()
        assert processor_time() - started < 10
        assert (status, error[:7], error.count("\n")) in ((0, "", 0), (1, "error: ", 1)), (batch, number, error)
        assert status == 0 or path.name in error
        assert "a mistake in torchvgg" not in error
        if status == 0:
            assert load_model(path) if source.suffix != ".pt" else True
        path.unlink()
        assert list(tmp_path.iterdir()) in ([], [tmp_path / "out.safetensors"])


OLD = KERAS2.with_name("old_keras")
PARTS = [  # a version, what it saved, and the file that is damaged
    ("tf_keras-2.21.0", "saved_model", "keras_metadata.pb"),
    ("tf_keras-2.21.0", "saved_model", "variables/variables.index"),
    ("tensorflow-2.4.0", "saved_model", "saved_model.pb"),
    ("tensorflow-2.0.0", "checkpoint", "weights.index"),
    ("tensorflow-1.15.0", "checkpoint", "weights.data-00001-of-00002"),
    ("tensorflow-2.4.0", "checkpoint", "checkpoint"),
    ("keras-1.2.2", "weights.h5", "model.json"),
    ("tensorflow-2.4.0", "weights.h5", "model.yaml"),
]


@pytest.mark.parametrize("is_checked", [True, False], ids=["checked", "with_right_checksums"])
def test_mutated_folders_are_read_or_refused_in_one_line(
    is_checked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TensorFlow writes, and architectures; also as if each checksum were right, to get behind it."""
    if not is_checked:
        monkeypatch.setattr(tensor_bundle, "masked", lambda crc: Everything())
    chance = random.Random(0)
    for number in range(MUTATIONS // 5):
        version, what, name = PARTS[number % len(PARTS)]
        folder = tmp_path / f"{number}"
        shutil.copytree(OLD / version, folder)
        damaged = folder / name if what == "weights.h5" else folder / what / name
        damaged.write_bytes(mutated(damaged.read_bytes(), chance))
        started = processor_time()
        described = {"weights.h5": [folder / name], "checkpoint": [folder / "model.json"]}.get(what, [])
        options = [option for path in described for option in ("--architecture", path)]
        status = run(folder / what, *options, "-o", folder / "out.safetensors", "-q")
        _, error = capsys.readouterr()
        assert processor_time() - started < 10
        assert (status, error[:7], error.count("\n")) in ((0, "", 0), (1, "error: ", 1)), (number, name, error)
        assert "a mistake in torchvgg" not in error
        shutil.rmtree(folder)


class Everything:
    """Is equal to anything."""

    def __ne__(self, other: object) -> bool:
        return False
