"""The process that reads HDF5: its limits, and how it may end."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from torchvgg import load_model
from torchvgg.convert.read import hdf5_process, keras_file
from torchvgg.convert.read.archive import UNPACKED_AT_MOST
from torchvgg.convert.read.hdf5_limits import UNPACKED_A_SECOND

from ...helpers.command_line import run
from ...helpers.hostile import KERAS2, KERNEL, Refused, bomb, changed, link


def test_a_file_in_which_the_library_loops_endlessly(
    tmp_path: Path, check_refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heap has free space (an object 0) of 0 bytes, over which HDF5 goes again and again."""
    content = (KERAS2 / "trained.h5").read_bytes()
    place = content.index(b"tensorflow") - 16
    (path := tmp_path / "trained.h5").write_bytes(content[:place] + bytes(16) + content[place + 16 :])
    assert (
        hdf5_process.SECONDS >= 60
    )  # a good file of 20,000 parts takes three, and on a slow machine ten times as long
    monkeypatch.setattr(hdf5_process, "SECONDS", 1)
    check_refused(
        path, "trained.h5: took longer than 1 seconds of processor time to read, as damaged files do", load_model
    )


def in_the_process(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Makes the process that reads HDF5 run some code at its start."""
    run = subprocess.run

    def changed_run(command: list[str], **options: Any) -> Any:
        return run([*command[:3], f"import os, time, zlib\n{code}\n{command[3]}", *command[4:]], **options)

    monkeypatch.setattr(subprocess, "run", changed_run)


ENDS: list[tuple[str, type[Exception], str]] = [
    (
        "time.sleep(60)",
        TimeoutError,
        r"trained.h5: took longer than 1 seconds to read; retry on a less busy machine",
    ),
    ("while True: time.process_time()", TimeoutError, "took longer than 1 seconds"),  # no limit is set yet
    ("os.abort()", ValueError, "a damaged HDF5 file, on which the HDF5 library crashes"),
    ("os.kill(os.getpid(), 9)", OSError, r"can't be read, as the process that reads HDF5 failed \(SIGKILL\)"),
    ("os._exit(3)", OSError, r"failed \(exit status 3\)"),
    (  # a mistake of ours isn't a damaged file
        "import torchvgg.convert.read.hdf5_limits as guard; guard.number_type = lambda kind: {}['x']",
        OSError,
        r"as the process that reads HDF5 failed \(KeyError: 'x'\)",
    ),
    ("raise ImportError('libhdf5.so is gone')", OSError, r"failed \(ImportError: libhdf5.so is gone\)"),
    ("import sys; sys.modules['h5py'] = None", OSError, r"failed \(ModuleNotFoundError: import of h5py"),
]


@pytest.mark.parametrize(("code", "error", "message"), ENDS)
def test_how_the_process_ends(
    code: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = changed("trained.h5", lambda file: None, tmp_path)
    in_the_process(monkeypatch, code)
    monkeypatch.setattr(hdf5_process, "PATIENCE", 1 if error is TimeoutError else 120, raising=False)
    with pytest.raises(error, match=message):
        load_model(path)
    assert run(path) == 1
    assert re.search(message, capsys.readouterr().err)


LIMITS = """
import atexit, resource

def setrlimit(kind, limits, done=[], setrlimit=resource.setrlimit):
    if kind == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    setrlimit(kind, limits)
    done.append(kind)
    open(LOG, "w").write(" ".join(name for name in ("RLIMIT_CORE", "RLIMIT_CPU") if getattr(resource, name) in done))

resource.setrlimit = setrlimit
"""


def test_a_limit_that_the_system_refuses_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses RLIMIT_AS."""
    path = changed("trained.h5", lambda file: None, tmp_path)
    in_the_process(monkeypatch, LIMITS.replace("LOG", repr(str(log := tmp_path / "log"))))
    assert load_model(path).count_params() == 390
    assert log.read_text() == "RLIMIT_CORE RLIMIT_CPU"


def test_a_system_without_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_refused: Refused) -> None:
    """Windows has no `resource`, and its own exit status for a crash."""
    path = changed("trained.h5", lambda file: None, tmp_path)
    in_the_process(monkeypatch, "import sys; sys.modules['resource'] = None")
    assert load_model(path).count_params() == 390
    check_refused(changed("trained.h5", link(KERNEL), tmp_path), "kernel:0.* leads elsewhere", load_model)
    ended = subprocess.CompletedProcess([], 0xC0000005, b"", b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    check_refused(path, "a damaged HDF5 file, on which the HDF5 library crashes", load_model)


@pytest.mark.parametrize("length", [10**5, 2**29, 2**33])
def test_the_wait_is_longer_than_the_reader_may_compute(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def run_too_long(command: list[str], timeout: float, **_: Any) -> Any:
        waits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run_too_long)
    with pytest.raises(TimeoutError, match="took longer than"):
        hdf5_process.run_hdf5_reader(tmp_path, tmp_path, 0, length, tmp_path)
    least, times = UNPACKED_AT_MOST
    assert waits[0] > hdf5_process.SECONDS + (least + times * length) / UNPACKED_A_SECOND


def test_a_process_that_has_to_wait_has_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed("trained.h5", lambda file: None, tmp_path)
    monkeypatch.setattr(hdf5_process, "SECONDS", 1)
    in_the_process(monkeypatch, "time.sleep(2.5)")
    assert load_model(path).count_params() == 390


SLOW = """
def slow(decompressobj=zlib.decompressobj):
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    return decompressobj()
zlib.decompressobj = slow
"""


def test_time_to_unpack_grows_with_what_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MB in 16 chunks take 2.4 seconds here."""
    path = changed("trained.h5", bomb(2**14), tmp_path)
    monkeypatch.setattr(hdf5_process, "SECONDS", 0)
    in_the_process(monkeypatch, SLOW)
    with keras_file.open_keras_file(path) as file:
        assert [2**14, 2048] in [list(array.shape) for array in file.arrays]
