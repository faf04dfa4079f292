"""Taking times in turn, and memory in a process of its own."""

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

Row = dict[str, float]
Table = dict[str, Row]


PAUSE = 0.1  # seconds, in which the threads of who ran last stop waiting for more to do


class Scale(NamedTuple):
    """The model that is measured: its images' height and width, its classes; and how many times."""

    size: int = 224
    classes: int = 1000
    rounds: int = 7


def in_turn(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function, called one after the other, again and again. What they return lives until after."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            result = function()
            seconds[name].append(time.perf_counter() - started)
            del result
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> Table:
    """For each its median and its least, in milliseconds."""
    return {
        name: {"ms": 1000 * statistics.median(own), "least": 1000 * min(own)} for name, own in seconds.items() if own
    }


def memory_of(function: Callable[..., Any], *arguments: Any) -> float:
    """MB of anonymous memory that a call takes at its most, in a process of its own; pages of files don't count."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_watched, function, arguments).result()


def _watched(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    import h5py  # noqa: F401  # what is imported isn't counted
    import safetensors.torch  # noqa: F401
    import torch

    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    before, found, done = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function(*arguments)
    finally:
        done.set()
        watcher.join()
    return max(found) - before


def _anonymous() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("RssAnon"))
