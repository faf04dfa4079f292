"""Writing files safely: what may be written, whole or not at all; locks, other users' files, hashes."""

import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import FULL, UsageError, final_names
from .options import suffix_of

_CLAIM = "claim"  # the file in a scratch folder that its owner has locked


def check_output(path: Path, suffixes: Sequence[str], force: bool) -> None:
    """Checks that a file may be written, with `force` also over an existing one.

    Raises:
        ValueError: the name ends in none of the suffixes, if there are any.
        OSError: the path is a folder, or a link to itself, or exists, or its folder can't be written to.
    """
    check_suffix(path, suffixes)
    if Path(os.path.realpath(path)).is_symlink():
        raise OSError(f"{path} is a link that leads to itself; name another file")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists and is kept; force=True, or --force, overwrites it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder; name another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is a folder that you can't write to; name another output")


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raises a ValueError unless a file's name ends in one of the suffixes, if there are any."""
    if suffixes and not path.name[1:].endswith(tuple(suffixes)):
        choices = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
        raise UsageError(f"output: expected a name that ends in {choices}. Received: {path}")


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yields a file near `target` to write, which becomes `target` if all goes well, and is removed if not.

    A link is followed, as by `cp`.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(target.parent, f".{target.name[:100]}-") as folder:
            unfinished = folder / f"unfinished{suffix_of(target)}"
            yield unfinished
            unfinished.replace(target)
    except OSError as error:
        if error.errno is None or final_names(str(error.filename)) == str(error.filename):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from None


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = "torchvgg-") -> Iterator[Path]:
    """Makes a folder for unfinished files, by default among the machine's temporary files.

    Folders that killed processes left are removed; those of living ones are locked. If the machine's is full, an OSError says so.
    """
    is_temporary = parent is None
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{glob.escape(prefix)}*/{_CLAIM}"):
        if is_own(left.parent) and is_own(left):
            with suppress(OSError), open(left, "rb+") as claim:  # another process may have removed it
                if lock(claim):
                    _clear(left.parent)
    folder = parent / f"{prefix}{secrets.token_hex(8)}"  # named before it is made: a signal may come in between
    try:
        folder.mkdir(mode=0o700)
        with open(folder / _CLAIM, "wb", opener=open_own) as claim:
            lock(claim)
            yield folder
    except OSError as error:
        is_elsewhere = error.filename is not None and not str(error.filename).startswith(str(folder))
        if not is_temporary or is_elsewhere or error.errno not in FULL:
            raise
        reason = os.strerror(error.errno)
        raise OSError(f"{parent}: {reason}; make room there, or name another folder in TMPDIR") from error
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    """Removes a scratch folder, its claim last, by which the next run would recognise it if this is interrupted."""
    for path in folder.glob("*"):
        if path.name != _CLAIM:
            with suppress(OSError):
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time in for a file, which is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "ab") as claim:
            lock(claim, wait=True)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(claim.fileno())):
                try:
                    yield
                finally:
                    if path.exists() and not path.stat().st_size:
                        path.unlink()
                return


def is_own(path: Path, others: int = stat.S_IWGRP | stat.S_IWOTH) -> bool:
    """Tells whether a path is this user's own folder or plain file, no link, to which none of the `others` can write."""
    try:
        found = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    if not hasattr(os, "getuid"):  # a system without users
        return is_plain
    return is_plain and found.st_uid == os.getuid() and not found.st_mode & others


def open_own(path: str, flags: int) -> int:
    """Opens a file, as `open(…, opener=open_own)`, following no link; nobody else can read or write a new one."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def lock(claim: IO[bytes], wait: bool = False) -> bool:
    """Locks an open file until it is closed, at the end of the process at the latest. Returns False if another has."""
    try:
        import fcntl

        fcntl.flock(claim, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):  # Windows has no fcntl
        return False
    return True


def md5(path: Path) -> str:
    """Computes the MD5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    block = memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()
