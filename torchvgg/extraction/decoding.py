"""Batches of images from files, read by worker processes while the model computes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..images import read_pixels


class Decoded(NamedTuple):
    """A batch of images: all their paths; the pixels of the good ones, `(n, H, W, C)`; for each what was wrong, or ""."""

    paths: list[str]
    pixels: np.ndarray
    errors: list[str]


class Decoder(NamedTuple):
    """Reads a batch of image files. What is wrong with one is a text in its place."""

    size: tuple[int, int]
    color_mode: str
    exif: bool
    folder: str  # that relative paths start from

    def __call__(self, paths: list[str]) -> Decoded:
        pixels, errors = [], []
        for path in (os.path.join(self.folder, path) for path in paths):  # noqa: PTH118
            try:
                pixels.append(read_pixels(path, self.size, self.color_mode, exif=self.exif))
                errors.append("")
            except (ValueError, OSError) as error:
                text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                errors.append(" ".join(text.removeprefix(f"{path}: ").split()))
            except MemoryError:
                errors.append("more than there is memory for")
        names = [as_text(path) for path in paths]
        return Decoded(names, np.stack(pixels) if pixels else np.empty((0, *self.size, 0), np.uint8), errors)


def as_text(path: str) -> str:
    """A path as a file of rows holds it: bytes that aren't UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


class _Files(Dataset[Decoded]):
    def __init__(self, batches: Sequence[list[str]], decoder: Decoder) -> None:
        self.batches, self.decoder = batches, decoder

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Decoded:
        return self.decoder(self.batches[number])


def decoded(batches: Sequence[list[str]], decoder: Decoder, workers: int | None) -> Iterator[Decoded]:
    """The batches in their order, read by worker processes while what is yielded is worked on."""
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    loader = DataLoader(
        _Files(batches, decoder),
        batch_size=None,
        num_workers=min(workers, len(batches)),
        collate_fn=_as_it_is,  # arrays go through a pipe: tensors would need shared memory, of which containers have little
        worker_init_fn=_end_with_parent,
    )
    yield from loader


@contextmanager
def explained_loss() -> Iterator[None]:
    """What PyTorch raises wherever the program is when a worker was killed, in words of ours."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError("a process that decodes images was killed; run the same again to go on") from error


def _end_with_parent(_: int) -> None:
    """Ends a worker with its parent, though that be killed: PyTorch's would wait for ever for its pipe to be read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all: the parent sees to it
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(batch: Any) -> Any:
    return batch
