"""Error messages in one line that a terminal can show, with the file that they are about."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an OSError says of a full disk, or of a limit on files
LONGEST = 1500  # characters of a message: names in a file may have any length


def printable(text: str, substitute: str = "?") -> str:
    """Replaces characters that move the cursor, change colours or turn the direction of writing, and halves of surrogate pairs."""
    return "".join(character if character.isprintable() else substitute for character in text)


def listed(texts: Iterable[str], most: int = 10) -> str:
    """Joins texts by commas, with an ellipsis if there are more than are shown."""
    texts = list(texts)
    return ", ".join([*texts[:most], *(["…"] if len(texts) > most else [])])


def one_line(text: str) -> str:
    """Puts a message into one printable line, without its middle where it is too long; of an unfinished file by its last name."""
    line = final_names(printable(" ".join(text.split())))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def final_names(text: str) -> str:
    """Replaces the names of unfinished files, as `atomic_files.writing` makes them, by the names that they will have."""
    return re.sub(r"\.([^/\\]{1,100})-[0-9a-f]{16}(?:[/\\]+unfinished[.\w]*|(?!\w))", r"\1", text)


def message_of(error: Exception) -> str:
    """Returns an error's message in one line; an OSError's names its file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return one_line(f"{error.filename}: {error.strerror}")
    return one_line(str(error))


def check_no_device(path: str | os.PathLike[str]) -> None:
    """Raises a ValueError for a pipe or a device, which may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise ValueError(f"{os.fspath(path)}: no plain file, but a pipe or a device; name a file")


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Puts the file's name in front of a ValueError. Other errors aren't the file's fault, and pass unchanged."""
    try:
        yield
    except ValueError as error:
        raise ValueError(one_line(str(error) if str(path) in str(error) else f"{path}: {error}")) from error


@contextmanager
def explaining_failed_write(folder: Path) -> Iterator[None]:
    """Turns a failed write into an OSError that says where and what to do. PyTorch and h5py raise a RuntimeError then."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise OSError(f"{folder}: can't be written to ({reason}); make room there, or name another OUTPUT") from error


class UsageError(ValueError):
    """An option that can't be, or not with another: a command line with it ends with status 2."""


class LayerError(ValueError):
    """A layer that can't be converted; the message names it, and a way out."""

    def __init__(self, name: str, class_name: str, reason: str, advice: str = "save the model without it") -> None:
        super().__init__(f"layer {name!r} ({class_name}): {reason}; {advice}")
