"""What is said on standard error while work goes on: on a terminal, in a notebook, and of long downloads in a pipe too."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LONG = 10.0  # seconds; a download that takes longer is reported in a pipe too
_is_quiet = ContextVar("is_quiet", default=False)


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Shows no progress inside, if `quiet`."""
    token = _is_quiet.set(quiet)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def is_shown() -> bool:
    """Tells whether somebody watches: standard error is a terminal, or a notebook's."""
    if _is_quiet.get() or sys.stderr is None:  # it is closed, or Windows runs the program without a console
        return False
    return sys.stderr.isatty() or type(sys.stderr).__module__ == "ipykernel.iostream"


def note(text: str) -> None:
    """Prints a line on standard error, if somebody watches."""
    if is_shown():
        print(text, file=sys.stderr, flush=True)


class DownloadProgress:
    """Shows how much has come of a download; in a pipe a line for each tenth, once it has taken long.

    Args:
        label: what is fetched.
        total: its bytes, if they are known.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total = label, total
        self.started, self.shown = time.monotonic(), -1
        self.is_shown = is_shown()
        self.is_noted = not (_is_quiet.get() or self.is_shown or sys.stderr is None)

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_shown and self.shown >= 0:
            print(file=sys.stderr)

    def update(self, done: int) -> None:
        """Says that `done` bytes are there."""
        steps = (1000 if self.is_shown else 10) * done // (self.total or 1_000_000_000)  # a notebook keeps every update
        is_due = self.is_shown or (self.is_noted and time.monotonic() - self.started > LONG)
        if is_due and steps != self.shown:
            self.shown = steps
            share = f"{done / self.total:4.0%} of {self.total / 1e6:.0f} MB" if self.total else f"{done / 1e6:.0f} MB"
            line = f"{self.label}  {share}"
            print(*(("\r", line) if self.is_shown else (line, "\n")), sep="", end="", file=sys.stderr, flush=True)
