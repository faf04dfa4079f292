"""The commands work in poor containers and under a strict Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers.hostile import KERAS2
from .helpers.photos import write_photos

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

# All commands, in one process and on one core.
COMMANDS = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from torchvgg.command_line import main
weights, folder, out = sys.argv[1:]
images = f"{folder}/val"
for command in (
    ["convert", weights, "-o", f"{out}/a.safetensors"],
    ["convert", f"{out}/a.safetensors", "-o", f"{out}/a.weights.h5"],
    ["summary", weights],
    ["predict", images, "--weights", weights],
    ["extract", images, "-o", f"{out}/a.npz", "--weights", weights, "--layer", "dense"],
    ["evaluate", images, "--weights", weights, "--labels", f"{folder}/labels.txt"],
    ["show", f"{images}/cat/000.jpg", "-o", f"{out}/a.png", "--weights", weights],
):
    print(command[0], "ends with", main(command))
"""
ALL_END_WITH_0 = [
    f"{name} ends with 0" for name in ["convert", "convert", "summary", "predict", "extract", "evaluate", "show"]
]

# Everything but OUT is read-only, what is temporary has 2 MB, and the user has no name and no home folder.
CONTAINER = """
set -e
mkdir $OUT/small
mount -t tmpfs -o size=2m none $OUT/small
mount -t tmpfs -o size=1m none /dev/shm
mount --bind $ROOT $ROOT
mount -o remount,bind,ro $ROOT
unset HOME USER LOGNAME
TMPDIR=$OUT/small MPLCONFIGDIR=$OUT exec unshare --user --map-user=54321 "$@"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two classes, images of both, their names."""
    folder = tmp_path_factory.mktemp("environment")
    shutil.copy(KERAS2 / "trained.h5", folder)
    for name in ("cat", "dog"):
        write_photos(folder / "val" / name, 2)
    (folder / "labels.txt").write_text("cat\ndog\n")
    return folder


def check(folder: Path, out: Path, *before: str, options: tuple[str, ...] = (), **variables: str) -> None:
    command = [*before, sys.executable, *options, "-c", COMMANDS, str(folder / "trained.h5"), str(folder), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True)
    ends = [line for line in done.stdout.splitlines() if " ends with " in line]
    assert done.stderr == ""
    assert ends == ALL_END_WITH_0


@pytest.mark.parametrize("options", [("-OO",), ("-W", "error", "-X", "dev")], ids=" ".join)
def test_a_strict_python(options: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    """Without asserts and docstrings, with warnings as errors, in the development mode; and nothing imported by chance."""
    check(folder, tmp_path, options=options, PYTHONSAFEPATH="1")


def test_a_container(folder: Path, tmp_path: Path) -> None:
    unshare = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("the user may not unshare namespaces")
    check(folder, tmp_path, *unshare, "sh", "-c", CONTAINER, "sh", OUT=str(tmp_path), ROOT=str(ROOT))
