"""Reading an untrusted file opens no other file, takes little memory and leaves nothing behind."""

import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from torchvgg import load_model

from ...helpers.command_line import run
from ...helpers.hostile import (
    KERAS2,
    KERNEL,
    ROOT,
    W,
    attribute,
    bomb,
    changed,
    external_storage,
    headless_vgg,
    link,
    members,
    put,
)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "fifo.h5")
    for read in (load_model, headless_vgg):
        with pytest.raises(ValueError, match=r"fifo.h5: no plain file|fifo.h5'\), which is no such name and no file"):
            read(path)
    assert run(path) == 1


def test_names_of_any_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with a line's end, with a terminal's commands and in no UTF-8 (which `safetensors` can't open)."""
    for name in (b"two\nlines.h5", b"\x1b[2J.h5", b"\xff.h5"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes((KERAS2 / "trained.h5").read_bytes())
        assert run(path) == (name[:1] == b"\xff")
        assert "\x1b" not in capsys.readouterr().out
        assert load_model(path).count_params() == 390
        path.write_bytes(b"")
        assert run(path, "--force") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error[:-1].isprintable()


def amplified(file: h5py.File) -> None:
    """3900 names that are one and the same megabyte of the file: 4 GB."""
    names = ["a" * 2**20] + ["b"] * 3899
    attribute("model_weights", "layer_names", names, dtype=h5py.string_dtype())(file)
    file.flush()
    with open(file.filename, "rb+") as stream:
        entry = re.search(
            struct.pack("<I", 2**20) + b".{12}" + struct.pack("<I", 1), content := stream.read(), re.DOTALL
        )
        assert entry
        stream.seek(entry.start())
        stream.write(content[entry.start() : entry.start() + 16] * 3900)


DRIVER = """
import os, subprocess, sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
import torchvgg.loading, torchvgg.convert.network.from_file, torchvgg.convert.write.write_checked
from torchvgg.convert.command_line import main

log, *arguments = sys.argv[1:]
HOOK = f'''
import json, os, sys
def told(event, arguments, log=os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
    if event in ("open", "subprocess.Popen", "socket.connect") or event.startswith(("os.system", "os.exec", "os.posix")):
        os.write(log, (json.dumps([event, os.fsdecode(arguments[0]) if event == "open" else str(arguments[0])]) + chr(10)).encode())
sys.addaudithook(lambda event, arguments: None if event == "open" and isinstance(arguments[0], int) else told(event, arguments))
'''
run = subprocess.run
subprocess.run = lambda command, **options: run([*command[:3], "import h5py" + HOOK + command[3], *command[4:]], **options)
before = getrusage(RUSAGE_SELF).ru_maxrss
exec(HOOK)
status = main(arguments)
print(max(getrusage(RUSAGE_SELF).ru_maxrss - before, getrusage(RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""
LARGE: list[tuple[str, Callable[[Any], object]]] = [
    ("trained.h5", link(KERNEL)),
    ("trained.h5", external_storage),
    ("trained.h5", amplified),
    ("trained.h5", bomb(2**15)),
    ("trained.h5", put(KERNEL, (10**9, 1000), "f")),
    ("trained.keras", link("layers/dense/vars/0")),
    ("hostile.keras", members({W: bytes(200 << 20)}, deflated=True)),
    ("hostile.keras", members({"config.json": b'{"a": [' + b"[]," * 10**7 + b"0]}"}, deflated=True)),
]


@pytest.mark.parametrize(("source", "change"), LARGE)
def test_no_other_file_is_opened_and_little_memory_taken(
    source: str, change: Callable[[Any], object], tmp_path: Path
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    path, log = tmp_path / source, tmp_path / "log"
    if source == "hostile.keras":
        change(path)
    else:
        changed(source, change, tmp_path)
    command = [sys.executable, "-c", DRIVER, str(log), str(path), "-o", str(tmp_path / "out.pt")]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stderr.startswith(f"error: {path}: ")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert int(done.stdout) < 10**6  # KB
    assert list(temporary.iterdir()) == []
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert ["open", str(path)] in events
    own = tuple(os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, ROOT, temporary, path, os.devnull))
    others = [event for event in events if event != ["subprocess.Popen", sys.executable]]
    assert [name for event, name in others if event != "open" or not os.path.realpath(name).startswith(own)] == []


FULL: dict[str, Callable[[Path], object]] = {
    "trained.h5": lambda path: changed("trained.h5", bomb(1024), path.parent),
    "hostile.keras": members({W: bytes(8 << 20)}, deflated=True),
    "demo": lambda path: None,
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_temporary_folder_is_named(
    name: str,
    tmp_path: Path,
    file_size_limit: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    FULL[name](tmp_path / name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, resource.RLIM_INFINITY))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    source = name if name == "demo" else tmp_path / name
    assert run(source, *(() if name == "demo" else ("-o", tmp_path / "out.pt"))) == 1
    reason = f"{temporary}: File too large; make room there, or name another folder in TMPDIR"
    assert capfd.readouterr().err == f"error: {reason}\n"
    if name != "demo":
        with pytest.raises(OSError, match=re.escape(reason)):
            load_model(source)
    assert list(temporary.iterdir()) == []


def test_no_other_code_opens_hdf5_or_zip_files() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8").replace("from zipfile import BadZipFile\n", "")
        for folder in ("convert", "torchvgg")
        for path in (ROOT / folder).rglob("*.py")
    }  # an error opens nothing
    pattern = re.compile(r"^\s*(?:import|from)\s.*\b(?:h5py|zipfile|tables|netCDF4)\b", re.MULTILINE)
    found = {name for name, source in sources.items() if pattern.search(source)}
    writers = {"convert/write/keras.py", "convert/demo.py"}
    readers = {f"convert/read/{name}.py" for name in ("hdf5_reader", "hdf5_limits", "archive")}
    assert found == writers | readers
    assert all(re.findall(r"h5py\.File\([^,]+, (.)w\1", sources[name]) for name in writers)
    assert not any("zipfile" in sources[name] for name in found - {"convert/read/archive.py"})
