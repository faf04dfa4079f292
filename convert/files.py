"""Files as such: what may be written where, writing it whole or not at all, and hashes."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .options import suffix_of

_CLAIM = "claim"  # the file in a scratch folder that its owner has locked


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """A name to write under, near `target`, that becomes `target` when all went well, and nothing when it didn't.

    A link is followed, as `cp` does.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, f".{target.name[:100]}-") as folder:
        unfinished = folder / f"unfinished{suffix_of(target)}"
        yield unfinished
        unfinished.replace(target)


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = "torchvgg-") -> Iterator[Path]:
    """A folder for what is unfinished, by default among the machine's temporary files.

    What processes that were killed left in such folders is cleared away; those of living ones are claimed by a lock.
    """
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{glob.escape(prefix)}*/{_CLAIM}"):
        if is_own(left.parent) and is_own(left) and _is_abandoned(left):
            _clear(left.parent)
    folder = parent / f"{prefix}{secrets.token_hex(8)}"  # named before it is made: a signal may come in between
    try:
        folder.mkdir(mode=0o700)
        with open(folder / _CLAIM, "wb", opener=open_own) as claim:
            lock(claim)
            yield folder
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    """Removes a scratch folder, its claim last: until then the next run knows it for one."""
    for path in folder.glob("*"):
        if path.name != _CLAIM:
            with suppress(OSError):
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is in here for one file, which is made if it isn't there."""
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


def _is_abandoned(path: Path) -> bool:
    """Whether no process holds a file any more."""
    try:
        with open(path, "rb+") as claim:
            return lock(claim)
    except OSError:  # it is gone
        return False


def is_own(path: Path) -> bool:
    """Whether a path is a folder or a plain file of this user's, to which nobody else can write. A link is not."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return False
    if not hasattr(os, "getuid"):  # a system without users
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def open_own(path: str, flags: int) -> int:
    """For `open(path, mode, opener=open_own)`: follows no link, and lets nobody else read or write a new file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def lock(claim: IO[bytes], wait: bool = False) -> bool:
    """Claims an open file until it is closed, if need be at the end of its process. False if another has."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def check_output(path: Path, suffixes: Sequence[str], force: bool) -> None:
    """Checks that a file may be written: its suffix is one of `suffixes`, and it doesn't exist unless `force`.

    Raises:
        ValueError: it has another suffix.
        OSError: it is a folder, or exists.
    """
    if not path.name.endswith(tuple(suffixes)):
        raise ValueError(f"output: expected a name that ends in {', '.join(suffixes)}. Received: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists and is kept; --force overwrites it")


def md5(path: Path, is_wanted: Callable[[], bool] = lambda: True) -> str:
    """The MD5 of a file, in hexadecimal; of a part of it if it isn't wanted any more."""
    digest = hashlib.md5(usedforsecurity=False)
    block = memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0) as stream:
        while (count := stream.readinto(block)) and is_wanted():
            digest.update(block[:count])
    return digest.hexdigest()


@contextmanager
def md5_meanwhile(path: Path) -> Iterator[Callable[[], str]]:
    """Computes a file's MD5 in a thread of its own; what is yielded waits for it and returns it, or raises a ValueError."""
    is_left = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(md5, path, lambda: not is_left.is_set())

        def result() -> str:
            try:
                return digest.result()
            except OSError as error:
                raise ValueError(f"{path}: can't be read any more ({error})") from None

        try:
            yield result
        finally:
            is_left.set()
