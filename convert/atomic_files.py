"""Writing files safely: what may be written, whole or not at all; locks, other users' files, hashes."""

import errno
import glob
import hashlib
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import FULL, UsageError, check_no_device, final_names
from .options import suffix_of

_CLAIM = "claim"  # the file in a scratch folder that its owner has locked


def check_output(path: Path, suffixes: Sequence[str], force: bool, advice: str = "name another output") -> None:
    """Checks that a file may be written, with `force` also over an existing one.

    `advice` says what to do about its folder.

    Raises:
        ValueError: the name ends in none of the suffixes, if there are any, or is a pipe or a device.
        OSError: the path is a folder, or a link to itself, or exists, or its folder can't be written to.
    """
    check_suffix(path, suffixes)
    check_no_device(path)
    if Path(os.path.realpath(path)).is_symlink():
        raise OSError(f"{path} is a link that leads to itself; name another file")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists and is kept; force=True, or --force, overwrites it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder; {advice}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is a folder that you can't write to; {advice}")


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
            try:
                unfinished.replace(target)
            except PermissionError as error:  # Windows replaces no file that is open or mapped
                raise OSError(
                    f"{target}: can't be replaced ({error.strerror}); close what uses it, such as a program with a model "
                    "loaded from it, or name another output"
                ) from None
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
            with suppress(OSError):  # another process may have removed it
                with open(left, "rb+") as claim:
                    is_left = lock(claim) and claim.write(b"left")  # its owner may be about to lock it, and sees that
                if is_left:
                    _clear(left.parent)
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"  # named before it is made: a signal may come in between
        try:
            folder.mkdir(mode=0o700)
            with open(folder / _CLAIM, "wb", opener=open_own) as claim:
                if lock(claim) is not False and not os.fstat(claim.fileno()).st_size:
                    yield folder
                    return
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
    with suppress(OSError):  # Windows keeps what is open or mapped, and so the claim
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _CLAIM):
            path.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time in. The file `path` is for that alone, and removed by the last process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "ab", opener=open_own) as claim:
            while lock(claim) is False:
                time.sleep(0.1)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(claim.fileno())):
                try:
                    yield
                finally:
                    try:
                        path.unlink(missing_ok=True)
                    except PermissionError:  # Windows removes no open file, not even another process's
                        claim.close()
                        with suppress(OSError):
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


def lock(claim: IO[bytes]) -> bool | None:
    """Locks an open file until it is closed, at the end of the process at the latest.

    Returns False if another process has locked it, None where files can't be locked.
    """
    try:
        try:
            import fcntl
        except ImportError:  # Windows, which locks bytes, of an empty file too
            import msvcrt

            msvcrt.locking(claim.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def md5(path: Path) -> str:
    """Computes the MD5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    block = memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()
