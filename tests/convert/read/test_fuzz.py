"""Files with random damage, always the same ones: each is read as it should be, or refused in one line."""

import random
from pathlib import Path

import pytest

from torchvgg import load_model
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.hostile import KERAS2, processor_time

MUTATIONS, BATCHES = 300, 10


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
