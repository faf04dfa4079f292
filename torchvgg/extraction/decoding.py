"""Decoding batches of images in worker processes, or in threads, while the model computes."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from torch.utils.data import DataLoader

from ..image_files import Pipeline

Batch = TypeVar("Batch")


class Decoded(NamedTuple):
    """A batch of images: the paths of all, the pixels of the good ones, `(n, H, W, C)`, an error for each, or "", and how to preprocess them."""

    paths: list[str]
    pixels: np.ndarray
    errors: list[str]
    preprocessing: str


@dataclass(frozen=True)
class Decoder:
    """Reads a batch of image files; a bad file becomes an error message in its place."""

    pipeline: Pipeline
    folder: str  # that relative paths start from

    def __call__(self, paths: list[str]) -> Decoded:
        pixels, errors = [], []
        for path in (os.path.join(self.folder, path) for path in paths):  # noqa: PTH118
            try:
                pixels.append(self.pipeline.read(path))
                errors.append("")
            except (ValueError, OSError) as error:
                text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                errors.append(" ".join(text.removeprefix(f"{path}: ").split()))
            except MemoryError:
                errors.append("not enough memory")
        names = [escaped(path) for path in paths]
        stacked = np.stack(pixels) if pixels else np.empty((0, 0, 0, 0), np.uint8)
        return Decoded(names, stacked, errors, self.pipeline.preprocessing)


def escaped(path: str) -> str:
    """Escapes the bytes of a path that aren't UTF-8, so that it can be stored as text."""
    return path.encode("utf-8", "backslashreplace").decode()


def usable_cores() -> int:
    """Counts the cores that this process may run on: in a container, or a cluster's job, often not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_batches(
    batches: Sequence[Batch], decoder: Callable[[Batch], Decoded], workers: int | None
) -> Iterator[Decoded]:
    """Yields the batches in order, decoded ahead by workers (None: one per core, at most 8)."""
    workers = min(8, usable_cores()) if workers is None else workers
    workers = min(workers, len(batches))
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if workers and (method != "fork" or multiprocessing.current_process().daemon):
        yield from _decode_in_threads(batches, decoder, workers)
        return
    yield from DataLoader(
        batches,  # type: ignore[arg-type]  # any sequence will do
        batch_size=None,
        num_workers=workers,
        collate_fn=decoder,  # type: ignore[arg-type]  # arrays go through a pipe; tensors would need shared memory, which is small in containers
        worker_init_fn=_exit_with_parent,
    )


def _decode_in_threads(
    batches: Sequence[Batch], decoder: Callable[[Batch], Decoded], workers: int
) -> Iterator[Decoded]:
    """Decodes where processes aren't forked: new ones would import PyTorch, and run the user's script again if it has no main guard.

    Also in a daemonic process, as a `multiprocessing.Pool`'s are: it may not have children.

    Pillow's decoders run side by side in threads as well. Only a crash of one would end the program.
    """
    pool, left = ThreadPoolExecutor(workers), iter(batches)
    try:
        ahead = deque(pool.submit(decoder, batch) for batch in islice(left, 2 * workers))
        while ahead:
            decoded = ahead.popleft().result()
            ahead.extend(pool.submit(decoder, batch) for batch in islice(left, 1))
            yield decoded
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def explained_worker_death(advice: str = "run the same command again to resume") -> Iterator[None]:
    """Rewords the error that PyTorch raises, wherever the program is, when a worker was killed."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(f"a process that decodes images was killed; {advice}") from error


def _exit_with_parent(_: int) -> None:
    """Exits when the parent dies, even if it was killed; PyTorch's worker would wait forever to write to its pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to a group, it reaches the parent, which stops its workers
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
