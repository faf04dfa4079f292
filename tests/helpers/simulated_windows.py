"""What Windows lacks and refuses, on Linux: `run` runs a script in a process, `install` makes it so there.

No fcntl, resource, users or fork; processes are spawned; a file that is open or mapped, here or in a child, can't be renamed, replaced or
deleted; output in a pipe is cp1252; text files without an encoding, which would be cp1252 too, are errors.
"""

import errno
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios")
FUNCTIONS = "chown fork forkpty getegid geteuid getgid getpgid getuid killpg nice sched_getaffinity setsid statvfs"
FLAGS = "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK"
SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
IN_USE = "The process cannot access the file because it is being used by another process"
START = "from tests.helpers.simulated_windows import install; install()\n"


def run(code: str, folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script without a main guard as on Windows, with `folder/temporary` for temporary files, and `folder` to work in."""
    (script := folder / "script.py").write_text(START + code, "utf-8")
    (folder / "temporary").mkdir(exist_ok=True)
    places = {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "temporary"), "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", str(script), *map(str, arguments)],
        cwd=folder,
        env=os.environ | places | environment,
        capture_output=True,
        encoding="cp1252",
    )
    script.unlink()
    return done


def install() -> None:
    """Makes this process one on Windows, as far as that goes."""
    warnings.simplefilter("ignore", EncodingWarning)  # of other packages
    warnings.filterwarnings("error", category=EncodingWarning, module=r"torchvgg|tests")
    import fcntl

    import torch  # noqa: F401  # it looks for the platform, not for what is there

    sys.modules["msvcrt"] = _msvcrt(fcntl)
    hide()
    for name in [name for name in vars(signal) if re.match("SIG[A-Z]", name) and name not in SIGNALS]:
        delattr(signal, name)
    multiprocessing.set_start_method("spawn")
    shutil._use_fd_functions = False
    for name in ("unlink", "remove", "rmdir", "replace", "rename"):
        _put(name, _refusing(getattr(os, name), name == "rename"))
    vars(subprocess)["Popen"] = _Popen


def _msvcrt(fcntl: Any) -> types.ModuleType:
    """The real one locks some bytes until the file is closed."""
    module: Any = types.ModuleType("msvcrt")
    module.LK_NBLCK = 2

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (module.LK_NBLCK, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    module.locking = locking
    return module


def _put(name: str, function: Callable[..., None]) -> None:
    setattr(os, name, function)
    if accessor := getattr(pathlib, "_normal_accessor", None):  # Python 3.10
        setattr(accessor, name, function)


def _refusing(function: Callable[..., None], keeps_target: bool) -> Callable[..., None]:
    def refuse_or_do(path: Any, *others: Any, **options: Any) -> None:
        used = {*_files_in_use()}
        for each in (path, *others):
            if os.path.realpath(os.fspath(each)) in used:
                raise PermissionError(errno.EACCES, IN_USE, os.fspath(each))
        if keeps_target and os.path.lexists(others[0]):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", os.fspath(path))
        function(path, *others, **options)

    return refuse_or_do


def _files_in_use() -> Iterator[str]:
    """The files that this process or one below it has open or mapped."""
    left = ["self"]
    while left:
        process = Path("/proc") / left.pop()
        try:
            left += [pid for task in process.glob("task/*/children") for pid in task.read_text("ascii").split()]
            for line in (process / "maps").read_text("utf-8").splitlines():
                yield "".join(line.split(maxsplit=5)[5:])
            for descriptor in (process / "fd").iterdir():
                yield os.readlink(descriptor)  # noqa: PTH115
        except OSError:  # it has ended
            pass


class _Popen(subprocess.Popen[Any]):
    """A process without what is POSIX's alone; Python's own are on Windows as well."""

    def __init__(self, arguments: Any, *rest: Any, **options: Any) -> None:
        assert not {"preexec_fn", "start_new_session", "process_group", "pass_fds", "user", "group"} & options.keys()
        if arguments[0] == sys.executable and "-c" in arguments:
            arguments = [*arguments]
            code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.helpers.simulated_windows import hide; hide()\n"
            arguments[arguments.index("-c") + 1] = code + arguments[arguments.index("-c") + 1]
        super().__init__(arguments, *rest, **options)

    def kill(self) -> None:
        self.terminate()


def hide() -> None:
    """Takes what Windows lacks from a process: all that is simulated in a child, which would be slow with PyTorch."""
    sys.modules.update(dict.fromkeys(MODULES))  # None: an ImportError
    for name in (FUNCTIONS + " " + FLAGS).split():
        vars(os).pop(name, None)
