"""A command whose standard error is a terminal."""

import os
import pty
import subprocess
from collections.abc import Sequence
from pathlib import Path


def on_a_terminal(command: Sequence[str], folder: Path) -> tuple[str, str]:
    """Runs a command; returns what it prints on standard output, which is a pipe, and on the terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # so Linux says that nobody else has the terminal open
            pass
        os.close(ours)
        assert process.stdout
        return process.stdout.read(), shown.decode().replace("\r\n", "\n")
