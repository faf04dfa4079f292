"""What a command line needs: a parser, and an end in one line and a status whatever goes wrong."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .errors import message_of, one_line


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, and shows examples under `--help`."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def status_of(action: Callable[[], object], source: object) -> int:
    """Calls `action`; returns the exit status. What goes wrong is one line on standard error.

    Args:
        action: the command.
        source: what it reads, to be named where memory runs out.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without arrows gets question marks
    try:
        with _ended_tidily(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            action()
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"error: {source}: more than there is memory for", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {one_line(str(message))}", file=sys.stderr)


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """Lets a process that is told to end clear away what it hasn't finished."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where signals don't arrive
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
