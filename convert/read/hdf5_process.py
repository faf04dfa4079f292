"""Starts the process that reads an HDF5 file, and says how it ended.

A damaged file can crash the HDF5 library, or send it into an endless loop; `hdf5_reader`, the program in the process, has
limits on memory and time.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 60  # of processor time after the start; the reader adds to it what it needs to unpack arrays
PATIENCE = 120  # seconds by the clock, and one more for each 2 MB: twice what the reader may compute
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
WINDOWS_CRASH = 0xC0000000  # exit statuses from here on


def run_hdf5_reader(path: Path, source: Path, start: int, length: int, spool: Path) -> dict[str, Any]:
    """Runs `hdf5_reader` in a Python of its own with the same search path, and returns what it printed.

    It reads `length` bytes of `source` from `start` on, and unpacks arrays into the file `spool`. Messages name `path`.

    Raises:
        ValueError: the reader refuses the file, or the HDF5 library crashes on it, or loops in it.
        OSError: the process failed, or took too long, or `spool` can't be written.
    """
    code = (
        "import runpy, sys; sys.path[:] = sys.argv.pop().split('\\n'); "
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    patience = PATIENCE + length // 2**21
    arguments = [f"{__package__}.hdf5_reader", *map(str, (source.absolute(), start, length, spool, SECONDS))]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, *arguments, "\n".join(sys.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"},  # no filters as plug-ins
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"{path}: took longer than {patience} seconds to read; retry on a less busy machine"
        ) from None
    except ValueError:
        ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
        if ended == "SIGXCPU":
            raise ValueError(
                f"{path}: took longer than {SECONDS} seconds of processor time to read, as damaged files do in which the "
                "HDF5 library loops endlessly"
            ) from None
        if ended in CRASHES or done.returncode >= WINDOWS_CRASH:
            raise ValueError(f"{path}: a damaged HDF5 file, on which the HDF5 library crashes") from None
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or ended
        raise OSError(f"{path}: can't be read, as the process that reads HDF5 failed ({last})") from None
    if "full" in found:
        raise OSError(found["full"], os.strerror(found["full"]))
    if "error" in found:
        raise ValueError(found["error"])
    return found
