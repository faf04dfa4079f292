"""What goes wrong, said in one line that a terminal can show, with the file that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 1500  # characters of a message: names in a file may have any length


def printable(text: str) -> str:
    """A text from a stranger without what moves the cursor, changes colours or turns the direction of writing."""
    return "".join(character if character.isprintable() else "?" for character in text)


def one_line(text: str) -> str:
    """A message as one printable line, without its middle where it is too long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def message_of(error: Exception) -> str:
    """What an error says, as one line, with the file that the system says it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return one_line(f"{error.filename}: {error.strerror}")
    return one_line(str(error))


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """What goes wrong with a file, as one ValueError that names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(one_line(str(error) if str(path) in str(error) else f"{path}: {error}")) from None
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(one_line(f"{path}: a configuration that Keras doesn't write ({reason})")) from None


@contextmanager
def explained_failure(folder: Path) -> Iterator[None]:
    """Turns what is raised when a file can't be written into one OSError that says where and what to do."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise OSError(f"{folder}: can't be written to ({reason}); make room there, or name another OUTPUT") from None
