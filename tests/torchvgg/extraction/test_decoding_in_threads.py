"""Decoding where processes are spawned, as on Windows and macOS, or may not be: in threads, in order, not too far ahead."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchvgg.extraction.decoding import decode_batches

from ...helpers.photos import write_photos

SCRIPT = """
import multiprocessing, sys
multiprocessing.set_start_method(sys.argv[1])
from torchvgg import VGG16, extract_features
model = VGG16(weights=None, include_top=False)
print(extract_features(model, "photos", "f.npz", layer="block1_pool", batch_size=1, workers=2).images)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_main_guard(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path / "photos", 3)
    (script := tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    command = [sys.executable, str(script), method]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_batches_come_in_order_and_not_too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    started: list[int] = []

    def decode(batch: int) -> Any:
        started.append(batch)
        if batch == 50:
            raise MemoryError
        return batch

    received = decode_batches(range(100), decode, 2)
    assert next(received) == 0
    assert len(started) <= 5
    with pytest.raises(MemoryError):
        assert [*received]
    started.clear()
    received = decode_batches(range(100), decode, 2)
    assert [next(received) for _ in range(10)] == [*range(10)]
    received.close()
    assert len(started) <= 14


def _decode(number: int) -> list[Any]:
    return [*decode_batches(range(number), float, 2)]


def test_in_a_daemonic_process() -> None:
    """A pool's processes may have no children."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_decode, (3,)).get(timeout=60) == [0, 1, 2]
