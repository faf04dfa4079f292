"""Whenever and however a conversion or a download ends, an output is the old file, the new file, or isn't there."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from torchvgg import VGG16, extract_features
from torchvgg.convert import atomic_files, convert, published
from torchvgg.convert.atomic_files import locked, scratch_folder, writing
from torchvgg.convert.write import write_checked as write_checked_module

from ..helpers.command_line import heed, run
from ..helpers.hostile import KERAS2
from ..helpers.photos import write_photos
from ..helpers.server import FILENAME, Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# Runs the command line again and again, and kills each run at a random moment of its first `seconds`, more or less; or, if a file is
# `watched`, each second run when that has grown by a random number of bytes. It prints how each ended. A fork starts in no
# time; and it has no threads, since nothing was computed before.
KILLER = """
import os, random, signal, sys, time
import torch
import torchvgg.loading, torchvgg.convert.network.from_file, torchvgg.convert.write.write_checked, torchvgg.convert.demo
from torchvgg.convert import published
from torchvgg.convert.command_line import main

md5, seconds, watched, *arguments = sys.argv[1:]
published.FILES["vgg16-notop"] = published.FILES["vgg16-notop"]._replace(size=10**8, md5=md5)
moments, window = random.Random(0), float(seconds)

def size():
    return os.path.getsize(watched) if os.path.exists(watched) else 0

for number, line in enumerate(sys.stdin):
    wanted = size() + 2_000_000 * moments.random()
    child = os.fork()
    if not child:
        os._exit(main(arguments))
    if watched and number % 2:
        while size() < wanted and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)
    else:
        time.sleep(window * moments.random())
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    window *= 1.05 if status else 0.85  # a busy machine's runs take longer, and most are to be killed
    print(status, flush=True)
"""
RUNS = 50


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes put their temporary files."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def killed_runs(*arguments: object) -> Iterator[bool]:
    """Yields after each run whether it was killed or had ended before."""
    command = [sys.executable, "-c", KILLER, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(RUNS):
            print(file=process.stdin, flush=True)
            yield int(process.stdout.readline()) == signal.SIGKILL
        process.stdin.close()
    assert process.returncode == 0


def test_kill_9_in_a_conversion(headless: Path, tmp_path: Path, temporary: Path) -> None:
    (folder := tmp_path / "out").mkdir()
    output = folder / "out.safetensors"
    convert(headless, output)
    before = new = content_of(output)
    ends = []
    for number, was_killed in enumerate(killed_runs("", 1.2, "", headless, "-o", output, "--force", "-q")):
        after = content_of(output)
        assert after in (before, new)
        ends.append((was_killed, after == new))
        output.unlink(missing_ok=True)
        if number % 2:
            output.write_bytes(b"an older file's content")
        before = content_of(output)
    assert ends.count((True, False)) >= RUNS // 4
    assert run(headless, "-o", output, "--force", "-q") == 0
    assert content_of(output) == new
    assert list(folder.iterdir()) == [output]


def test_kill_9_in_a_download(server: Server, tmp_path: Path, temporary: Path) -> None:
    home = Path(os.environ["TORCHVGG_HOME"])
    server.pause = 0.003
    md5 = hashlib.md5(server.content).hexdigest()
    parts = set()
    part, output = home / f"{FILENAME}.part", tmp_path / "out.pt"
    for _ in killed_runs(md5, 0.5, part, "vgg16-notop", "-o", output, "--no-check", "--force", "-q"):
        for path in home.iterdir():
            if path.name == f"{FILENAME}.lock":
                continue
            assert path.name in (FILENAME, f"{FILENAME}.part")
            size = path.stat().st_size
            parts.add(size)
            assert path.read_bytes() == server.content[:size]
            assert path.name.endswith(".part") or size == len(server.content)
            if size == len(server.content):
                path.unlink()
    assert len(parts) > 10
    assert published.find("vgg16-notop").read_bytes() == server.content
    assert [path.name for path in home.iterdir()] == [FILENAME]


def wait_for_a_scratch_folder(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/")):  # a folder: a file of `tempfile`'s own may come first, to try out its folder
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "status", "message"), [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_signals_clear_up(
    number: signal.Signals,
    status: int,
    message: str,
    headless: Path,
    tmp_path: Path,
    temporary: Path,
) -> None:
    (folder := tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "convert", str(headless), "-o", str(folder / "out.safetensors")]
    for stage in (temporary, folder):  # while the file is read, and while the output is written
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
            wait_for_a_scratch_folder(stage)
            process.send_signal(number)
            assert process.communicate()[1] == message
        assert process.returncode == status
        assert list(folder.iterdir()) == []
        assert list(temporary.iterdir()) == []


INTERRUPTED = """
import runpy, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == module:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
_, module, program, *sys.argv[1:] = sys.argv
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""
COMMANDS = {
    "convert": ["{model}", "-o", "{folder}/out.safetensors"],
    "torchvgg": ["predict", "{image}", "--weights", "{model}"],
}


@pytest.mark.parametrize("program", COMMANDS)
@pytest.mark.parametrize("module", ["torch", "numpy", "safetensors"])
def test_a_signal_while_modules_are_imported(module: str, program: str, tmp_path: Path, temporary: Path) -> None:
    """NumPy is imported by PyTorch's C++, which loses a KeyboardInterrupt: the command went on, or failed of something else."""
    places = {"model": KERAS2 / "trained.h5", "image": KERAS2.with_name("cam.jpg"), "folder": tmp_path}
    arguments = [argument.format(**places) for argument in COMMANDS[program]]
    if module == "safetensors":
        arguments = [str(tmp_path / "ours.safetensors") if "trained.h5" in each else each for each in arguments]
        convert(KERAS2 / "trained.h5", tmp_path / "ours.safetensors")
    command = [sys.executable, "-c", INTERRUPTED, module, program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=heed, check=False)
    assert (done.stderr, done.stdout) == ("error: interrupted\n", "")
    assert done.returncode in (130, -signal.SIGINT)  # Python ends itself by the signal once it was raised in an exec()
    assert not (tmp_path / "out.safetensors").exists()
    assert list(temporary.iterdir()) == []


def test_a_signal_right_after_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def mkdir_and_be_interrupted(path: Path, **options: Any) -> None:
        mkdir(path, **options)
        if path.parent == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", mkdir_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "out.pt"):
        pytest.fail("reached")
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed_when_scratch_folders_are_cleared(tmp_path: Path) -> None:
    for folder in (mine := tmp_path / "mine", open_to_all := tmp_path / ".out.pt-open"):
        folder.mkdir()
        (folder / "claim").touch()
        (folder / "thesis.txt").write_text("mine")
    open_to_all.chmod(0o777)
    (tmp_path / ".out.pt-link").symlink_to(mine)
    (abandoned := tmp_path / ".out.pt-abandoned").mkdir(mode=0o700)
    (abandoned / "claim").touch(0o600)
    with writing(tmp_path / "out.pt") as unfinished:
        unfinished.write_text("whole")
    assert not abandoned.exists()
    assert (mine / "thesis.txt").read_text() == "mine"
    assert (open_to_all / "thesis.txt").read_text() == "mine"


def test_two_conversions_into_one_cache(server: Server, tmp_path: Path, temporary: Path) -> None:
    """The file is fetched once, and both get it."""
    server.pause = 0.003
    md5 = hashlib.md5(server.content).hexdigest()
    code = (
        "import sys\nfrom torchvgg import VGG16\nfrom torchvgg.convert import published\n"
        "published.FILES['vgg16-notop'] = published.FILES['vgg16-notop']._replace(size=10**8, md5=sys.argv[1])\n"
        "print(float(sum(p.detach().double().sum() for p in VGG16(include_top=False).parameters())))"
    )
    command = [sys.executable, "-c", code, md5]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    received = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(server.requests) == 1
    expected = sum(
        p.detach().double().sum() for p in VGG16(include_top=False, weights=published.find("vgg16-notop")).parameters()
    )
    assert [float(text) for text in received] == [float(expected)] * 2
    home = Path(os.environ["TORCHVGG_HOME"])
    assert {path.name for path in home.iterdir()} == {FILENAME, "vgg16-notop.safetensors"}


def test_an_input_that_changes_meanwhile(
    headless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (source := tmp_path / "source.h5").write_bytes(headless.read_bytes())
    (output := tmp_path / "out.pt").write_bytes(b"old")
    write = write_checked_module.write_pickle

    def write_and_touch(*arguments: Any) -> None:
        write(*arguments)
        with open(source, "ab") as stream:
            stream.write(b"more")

    monkeypatch.setattr(write_checked_module, "write_pickle", write_and_touch)
    assert run(source, "-o", output, "--force", "--no-check") == 1
    assert capsys.readouterr().err == f"error: {source}: changed while it was read; retry when nothing writes to it\n"
    assert output.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [output, source]


def test_an_input_that_is_cut_meanwhile(headless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source := tmp_path / "source.h5").write_bytes(headless.read_bytes())
    write = write_checked_module.write_pickle

    def cut_and_write(*arguments: Any) -> None:
        os.truncate(source, 10**6)
        write(*arguments)

    monkeypatch.setattr(write_checked_module, "write_pickle", cut_and_write)
    with pytest.raises(ValueError, match="it ends before the array does"):
        convert(source, tmp_path / "out.pt", allow_nonfinite=True)
    assert list(tmp_path.iterdir()) == [source]


def test_an_input_that_is_cut_in_the_midst_of_a_copy(headless: Path, tmp_path: Path, temporary: Path) -> None:
    """The file is mapped, so that the system ends the process; as after kill -9, nothing half-written has a name."""
    (folder := tmp_path / "folder").mkdir()
    (source := folder / "source.h5").write_bytes(headless.read_bytes())
    (output := folder / "out.safetensors").write_bytes(b"old")
    code = (
        "import os, sys\nfrom torchvgg.convert import convert\nfrom torchvgg.convert.read import keras_file\nread = keras_file.KerasArray.read\n"
        "def read_and_cut(array, units=...):\n    numbers = read(array, units)\n    os.truncate(sys.argv[1], 10**6)\n"
        "    return numbers\n"
        "keras_file.KerasArray.read = read_and_cut\nconvert(sys.argv[1], sys.argv[2], force=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(source), str(output)], cwd=ROOT, check=False)
    assert done.returncode != 0
    assert output.read_bytes() == b"old"
    source.write_bytes(headless.read_bytes())
    assert run(source, "-o", output, "--force", "-q") == 0
    assert sorted(folder.iterdir()) == [output, source]
    assert list(temporary.iterdir()) == []


def test_a_link_is_followed(headless: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link.pt"
    link.symlink_to(folder / "real.pt")
    for _ in range(2):  # it leads nowhere, and then to a file
        assert run(headless, "-o", link, "--force", "--no-check", "-q") == 0
        assert link.is_symlink()
        assert [path.name for path in folder.iterdir()] == ["real.pt"]
        assert "block1_conv1.weight" in torch.load(link, weights_only=True)


def no_output(tmp_path: Path, headless: Path) -> Iterator[tuple[Path, str]]:
    (folder := tmp_path / "folder.pt").mkdir()
    yield folder, "is a folder"
    (loop := tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    yield loop, "loop.pt"
    (itself := tmp_path / "itself.h5").symlink_to(headless)
    yield itself, "is the input itself"
    yield headless, "is the input itself"
    yield headless / "below.pt", "headless.h5"
    yield Path("/sys/out.pt"), "/sys"  # read only for everyone
    yield tmp_path / f"{'x' * 300}.pt", "xxx"


def test_an_output_that_cannot_be_written(
    headless: Path,
    tmp_path: Path,
    temporary: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = headless.read_bytes()
    for output, message in no_output(tmp_path, headless):
        there = sorted(tmp_path.rglob("*"))
        assert run(headless, "-o", output, "--force") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == there
    assert headless.read_bytes() == before


def test_what_a_dead_process_left_is_cleared_and_a_living_ones_kept(tmp_path: Path) -> None:
    dead, other = tmp_path / ".out.pt-dead", tmp_path / ".out.pt-notes"
    for folder, name in ((dead, "claim"), (dead, "half"), (other, "the user's own")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"something")
    with writing(tmp_path / "out.pt") as first, writing(tmp_path / "out.pt") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert sorted(tmp_path.iterdir()) == sorted([first.parent, second.parent, other])
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "out.pt", other])
    assert (tmp_path / "out.pt").read_bytes() == b"first"  # it ended last


def test_an_interrupted_clearing_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def unlink_and_be_interrupted(path: Path, **options: Any) -> None:
        unlink(path, **options)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), writing(tmp_path / "out.pt") as first:
        for name in (first.name, "numbers"):
            first.with_name(name).write_bytes(b"first")
        monkeypatch.setattr(Path, "unlink", unlink_and_be_interrupted)
    monkeypatch.undo()
    assert first.parent.exists()
    with writing(tmp_path / "out.pt") as second:
        assert sorted(tmp_path.iterdir()) == sorted([second.parent, tmp_path / "out.pt"])
        second.write_bytes(b"second")
    assert list(tmp_path.iterdir()) == [tmp_path / "out.pt"]


@pytest.mark.parametrize("is_still_there", [False, True])
def test_a_scratch_folder_is_not_cleared_before_it_is_locked(
    is_still_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making its claim and locking it, another process may come and take it for one that was left."""
    lock, others = atomic_files.lock, []

    def be_overtaken(claim: IO[bytes]) -> bool | None:
        monkeypatch.undo()
        if is_still_there:
            others.append(open(claim.name, "rb+"))  # noqa: SIM115
            assert lock(others[0])
        else:
            with scratch_folder(tmp_path, "x-"):
                pass
        return lock(claim)

    monkeypatch.setattr(atomic_files, "lock", be_overtaken)
    with scratch_folder(tmp_path, "x-") as folder:
        with scratch_folder(tmp_path, "x-"):
            pass
        (folder / "numbers").touch()
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked(headless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network filesystems: nothing waits for a lock, and nothing of others is cleared."""
    (other := tmp_path / ".out.pt-other").mkdir(mode=0o700)
    (other / "claim").touch(0o600)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other processes clear what isn't locked in the machine's
    convert(headless, tmp_path / "out.pt", check=False)
    with locked(tmp_path / "lock"):
        pass
    write_photos(tmp_path / "photos", 1)
    done = extract_features(
        VGG16(weights=tmp_path / "out.pt", include_top=False), tmp_path / "photos", tmp_path / "f.npz"
    )
    assert done.images == 1
    assert {path.name for path in tmp_path.iterdir()} == {".out.pt-other", "out.pt", "photos", "f.npz"}


def test_one_at_a_time_is_in_a_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom torchvgg.convert.atomic_files import locked\n"
        "with locked(Path(sys.argv[1])):\n    started = time.monotonic()\n    time.sleep(0.2)\n"
        "    print(started, time.monotonic())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "claim")]
    all_three = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    times = sorted(tuple(map(float, process.communicate()[0].split())) for process in all_three)
    assert all(ended <= started for (_, ended), (started, _) in itertools.pairwise(times))
    assert list(tmp_path.iterdir()) == []
    with contextlib.suppress(ZeroDivisionError), locked(tmp_path / "claim"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
