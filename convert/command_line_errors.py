"""Helpers for command lines: a parser whose errors are one line, exit statuses, and signals."""

import argparse
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import Any, NoReturn

from .errors import UsageError, message_of, one_line
from .progress import silenced


@contextmanager
def _ignoring_closed_stderr() -> Iterator[None]:
    """Discards messages if standard error was closed before Python started: it is None then, and `print` takes standard output."""
    if sys.stderr is not None:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, and shows examples under `--help`."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    @_ignoring_closed_stderr()
    def parse_args(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            with _noticing_lost_output():  # of --help and --version
                return super().parse_args(*arguments, **keywords)
        except OSError as error:
            self.exit(1, "" if isinstance(error, BrokenPipeError) else f"error: {message_of(error)}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file)  # argparse's own would ignore errors

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if "required: " in message and "required: -" not in message:  # not only options, which are listed last
            for option, value in pairwise(self.given):
                action = self._option_string_actions.get(option)
                if action and action.nargs == "?" and not value.startswith("-"):
                    message += f"; {option} took {value!r} as its value, put {option} at the end"
        self.exit(2, f"error: {message}\n")


class Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from .version import installed_version

        print(f"torchvgg {installed_version()}")
        parser.exit()


@_ignoring_closed_stderr()
def status_of(action: Callable[[], object], source: object, quiet: bool = False) -> int:
    """Runs a command and returns its exit status. An error is one line on standard error.

    `source` is what the command reads, to be named where memory runs out. If `quiet`, no warnings or progress are shown.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without arrows gets question marks
    try:
        with (
            _handling(signal.SIGTERM, _clear_up_and_end),
            warnings.catch_warnings(),
            silenced(quiet),
            _noticing_lost_output(),
        ):
            warnings.showwarning = lambda message, *_, **__: print(
                f"warning: {one_line(str(message))}", file=sys.stderr
            )
            if quiet:
                warnings.simplefilter("ignore")
            action()
    except BrokenPipeError:  # the reader has gone, as with `| head`
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {_reason(error, source)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets SIGINT end the process at once inside, where nothing is to be cleared up.

    An import of PyTorch may swallow a KeyboardInterrupt, and leave a module half-made.
    """

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, b"error: interrupted\n")
        os._exit(130)

    with _handling(signal.SIGINT, end):
        yield


def _reason(error: Exception, source: object) -> str:
    """Says what went wrong: with the user's files or machine, or else in torchvgg."""
    if isinstance(error, MemoryError):
        return f"{source}: more than there is memory for"
    # A RuntimeError is for the user if it is PyTorch's want of memory, or ours, of a process or a cluster that failed.
    is_outside = isinstance(error, RuntimeError) and ("memory" in str(error) or error.__cause__ is not None)
    if is_outside or isinstance(error, ValueError | OSError | ImportError | Warning):  # `-W error` raises warnings
        return message_of(error)
    if os.environ.get("TORCHVGG_DEBUG"):
        traceback.print_exception(error)
    what = one_line(f"{type(error).__name__}: {error}")
    return f"a mistake in torchvgg ({what}), not in your file; TORCHVGG_DEBUG=1 shows the traceback, please report it"


def _clear_up_and_end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # and so unfinished files are removed


class _Output:
    """Stands for standard output; its errors say that they are of that."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> Any:
        return self._try(self.stream.write, text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[..., Any], *arguments: str) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # or Python would try again at its end
            raise type(error)(f"standard output can't be written to ({error.strerror})") from None


@contextmanager
def _noticing_lost_output() -> Iterator[None]:
    """Raises an OSError if what is printed can't be written: standard output is closed, or its disk is full."""
    # Closed before Python started, it is None; what refuses to be written to stands for it.
    stream = sys.stdout or open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115
    with redirect_stdout(_Output(stream)):
        try:
            yield
        finally:
            sys.stdout.flush()


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, object], NoReturn]) -> Iterator[None]:
    """Handles a signal inside, unless it is ignored; in another thread than the main one signals don't arrive."""
    before = signal.getsignal(number)
    if before in (signal.SIG_IGN, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
