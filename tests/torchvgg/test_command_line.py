"""The command line's switches: what is said while work goes on, `--version`, `-q`, `-o`, `--json`, `convert`."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from torchvgg import command_line
from torchvgg.convert import command_line as conversion
from torchvgg.convert import progress

from ..helpers.heads import with_random_weights
from ..helpers.photos import photo, write_photos
from ..helpers.terminal import on_a_terminal

ROOT = Path(__file__).parents[2]
L = keras.layers


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of images."""
    layers = [L.Rescaling(1 / 255), L.Conv2D(4, 3, name="conv"), L.GlobalAveragePooling2D(), L.Dense(3, "softmax")]
    model = with_random_weights(keras.Sequential([keras.Input((32, 32, 3)), *layers]))
    model.save(path := tmp_path_factory.mktemp("weights") / "small.keras")
    return path


# Without PyTorch, so that a note is shown to come before its import, which takes a second or two.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from torchvgg.command_line import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["summary"], "loading vgg16 …\n"),
        (["predict", "x.jpg", "--weights", "a.h5"], "loading a.h5 …\n"),
        (["extract", "x.jpg", "-o", "f.npz", "--weights", "vgg19"], "loading vgg19 …\n"),
        (["show", "x.jpg", "-o", "x.png"], "loading vgg16 …\n"),
        (["convert", "a.h5"], "converting a.h5 …\n"),
        (["summary", "-q"], ""),
        (["convert", "a.h5", "-q"], ""),
    ],
)
def test_a_terminal_sees_at_once_what_is_loaded(arguments: list[str], note: str) -> None:
    printed, shown = on_a_terminal([sys.executable, "-c", WITHOUT_TORCH, *arguments], ROOT)
    assert printed == ""
    assert shown.startswith(f"{note}error: ")
    assert shown.count("\n") == note.count("\n") + 1
    assert "torch" in shown or "no such file" in shown


def test_a_pipe_sees_nothing_of_it(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("summary", weights) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["torchvgg", "torchvgg.convert", "convert"])
def test_version_needs_no_torch(module: str) -> None:
    code = f"import sys, runpy; sys.argv[1:] = ['--version']\ntry: runpy.run_module('{module}', run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    version, end = printed.splitlines()
    assert version in ("torchvgg 0.1.0", "torchvgg unknown" if module != "torchvgg" else "")
    assert end == "0 False"


def test_convert_is_torchvgg_convert(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, main in (("a", command_line.main), ("b", conversion.main)):
        words = [str(weights), "-o", str(tmp_path / f"{name}.safetensors"), "--json", "-q"]
        assert main(["convert", *words] if name == "a" else words) == 0
    a, b = map(json.loads, capsys.readouterr().out.splitlines())
    assert a["layers"] == b["layers"]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="0"):
        run("convert", "--version")
    assert capsys.readouterr().out.startswith("torchvgg ")
    with pytest.raises(SystemExit, match="2"):
        run("convert", "--layout", "x")
    assert capsys.readouterr().err.startswith("error: argument --layout: invalid choice: 'x'")


def test_predict_into_a_file(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON as `--json` prints it; CSV with a row for each image and class, or an error."""
    good, other = write_photos(tmp_path / "photos", 2)
    (bad := tmp_path / "photos" / "bad,1.jpg").write_text("no image")
    arguments = ("predict", tmp_path / "photos", "--weights", weights, "--top", "2")
    assert run(*arguments, "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    for name, options in (("a.json", ()), ("b.csv", ("-q",))):
        assert run(*arguments, "-o", tmp_path / "new" / name, *options) == 0
        printed, error = capsys.readouterr()
        assert error == f"1 of 3 images is bad; {tmp_path / 'new' / name} has the error for each\n"
        assert printed == ("" if options else f"3 images, 1 of them bad → {tmp_path / 'new' / name}\n")
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == expected
    with open(tmp_path / "new" / "b.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [*[str(good)] * 2, *[str(other)] * 2, str(bad)]
    assert "can't be read as an image" in rows[-1]["error"]
    assert {rows[-1][key] for key in ("number", "name", "score")} == {""}
    for row, score in zip(rows, [score for image in expected[:2] for score in image["predictions"]], strict=False):
        assert (int(row["number"]), row["name"], float(row["score"]), row["error"]) == (
            score["number"],
            score["name"],
            score["score"],
            "",
        )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "b.csv"]


def test_extract_says_what_was_done(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(size=(32, 32)).save(cat := tmp_path / "cat.png")
    arguments = ("extract", cat, "--weights", weights, "--layer", "conv", "--workers", "0", "-o")
    assert run(*arguments, output := tmp_path / "a.npz", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done.pop("seconds") > 0
    assert done == {"output": str(output), "images": 1, "bad": 0, "done_before": 0, "size": 4}
    assert run(*arguments, tmp_path / "b.npz", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert run(*arguments, tmp_path / "c.npz") == 0
    assert capsys.readouterr().out.startswith("1 image, 0 of them bad, 4 numbers each → ")
    (bad := tmp_path / "bad.png").touch()
    assert run("extract", bad, *arguments[1:], tmp_path / "d\n\x1b[31m.npz") == 0
    printed, error = capsys.readouterr()
    assert printed.startswith(f"2 images, 1 of them bad, 4 numbers each → {tmp_path / 'd??[31m.npz'}\n")
    assert error == f"1 of 2 images is bad; {tmp_path / 'd??[31m.npz'} has the error for each\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "pipe.jpg"],
        ["predict", "cat.png", "--labels", "pipe.txt"],
        ["predict", "cat.png", "--weights", "pipe.h5"],
        ["predict", "cat.png", "-o", "pipe.csv", "--force"],
        ["extract", "pipe.jpg", "-o", "features.npz", "--workers", "1", "--layer", "conv"],
        ["show", "pipe.jpg", "-o", "cat.pdf"],
        ["evaluate", ".", "--labels-csv", "pipe.csv"],
        ["summary", "pipe.h5"],
        ["convert", "pipe.h5", "-o", "x.pt"],
        ["convert", "pipe.h5", "-o", "pipe.pt", "--force"],
    ],
)
def test_a_pipe_is_refused_in_one_line(
    arguments: list[str],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing waits for somebody to write to it, and an output doesn't take its place."""
    monkeypatch.chdir(tmp_path)
    photo(size=(32, 32)).save("cat.png")
    *_, pipe = pipes = [word for word in arguments if word.startswith("pipe")]
    for name in pipes:
        os.mkfifo(name)
    options = [] if arguments[0] in ("summary", "convert") or "--weights" in arguments else ["--weights", weights]
    assert run(*arguments, *options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if arguments[0] == "extract":  # as any bad image: its row has the error
        assert error == "error: the image is bad; features.npz has the error for each\n"
        assert "a pipe or a device" in str(np.load("features.npz")["error"])
    else:
        assert error == f"error: {pipe}: no plain file, but a pipe or a device; name a file\n"
    assert Path(pipe).is_fifo()


@pytest.mark.parametrize("command", ["torchvgg summary", "torchvgg --help", "convert --version"])
@pytest.mark.parametrize("where", ["closed", "full", "full, unbuffered", "gone"])
def test_lost_output_is_an_error(command: str, where: str, weights: Path, tmp_path: Path) -> None:
    """One line and a status that isn't 0; no line where the reader has gone, as with `| head`."""
    words = [sys.executable, *(["-u"] if "unbuffered" in where else []), "-m", *command.split()]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb"), open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*words, *([str(weights)] if "summary" in command else [])],
            stdout=writer if where == "gone" else full,
            stderr=subprocess.PIPE,
            preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            cwd=ROOT,
            text=True,
            check=False,
        )
    reason = "Bad file descriptor" if where == "closed" else "No space left on device"
    assert done.stderr == ("" if where == "gone" else f"error: standard output can't be written to ({reason})\n")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("command", "status"),
    [("torchvgg summary --no-top", 0), ("torchvgg predict missing.jpg", 1), ("torchvgg predicts", 2)],
)
def test_messages_go_nowhere_if_standard_error_is_closed(command: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
        cwd=ROOT,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == status
    assert done.stdout.startswith('Model: "vgg16"') if status == 0 else done.stdout == ""


class Notebook:
    """Stands for a notebook's standard error, which is no terminal."""

    def __init__(self, is_terminal: bool = False) -> None:
        self.text, self.is_terminal = "", is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.is_terminal


Notebook.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize(("where", "is_wanted", "is_shown"), [(Notebook, True, True), (Notebook, False, False), (None, True, False)])  # fmt: skip
def test_bars_are_shown_in_notebooks(
    where: Any, is_wanted: bool, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tqdm.auto import tqdm

    from torchvgg.optional_imports import progress_bar

    if where:
        monkeypatch.setattr(sys, "stderr", where())
    with progress_bar(10, 2, " images", is_wanted) as bar:
        assert isinstance(bar, tqdm)
        assert bar.disable == (not is_shown)
    with progress.silenced(True), progress_bar(10, 2, " images", True) as bar:
        assert bar.disable


def download(total: int | None = 1_000_000_000) -> None:
    with progress.DownloadProgress("vgg16.h5", total) as shown:
        for done in range(0, 1_000_000_001, 250_000):
            shown.update(done)


def test_no_progress_without_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows in a program without a console."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(progress, "LONG", 0.0)
    progress.note("loading …")
    download()
    assert capsys.readouterr().out == ""


def test_the_progress_of_a_download(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar for people; in a pipe a line for each tenth, if it takes long; nothing with `-q`."""
    download()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "LONG", -1.0)
    download()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"vgg16.h5  {share:4.0%} of 1000 MB" for share in np.arange(11) / 10]
    download(None)
    assert capsys.readouterr().err.splitlines()[-1] == "vgg16.h5  1000 MB"
    for watcher in (Notebook(), Notebook(is_terminal=True)):
        monkeypatch.setattr(sys, "stderr", watcher)
        download()
        assert watcher.text.startswith("\rvgg16.h5    0% of 1000 MB\rvgg16.h5    0% of 1000 MB")
        assert watcher.text.endswith("\rvgg16.h5  100% of 1000 MB\n")
        assert watcher.text.count("\r") == 1001
        watcher.text = ""
        with progress.silenced(True):
            download()
        assert watcher.text == ""
