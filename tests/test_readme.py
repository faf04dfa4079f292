"""The README's commands run, print what it shows, and its recipes do what they say, in order, in one folder. Names in it exist."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import torch

import torchvgg.command_line
from torchvgg import layers, load_model
from torchvgg.convert import command_line as conversion
from torchvgg.convert import convert

from .helpers.keras_models import keras_model, relative_error
from .helpers.photos import photo, write_photos

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = {"torchvgg": torchvgg.command_line.main, "torchvgg-convert": conversion.main}


class Block(NamedTuple):
    """A block of code, its language, and the output shown after it."""

    language: str
    code: str
    shown: str | None

    @property
    def title(self) -> str:
        return f"{self.language}: {self.code.strip().splitlines()[0][:60]}"


def blocks() -> list[Block]:
    """Find all blocks but outputs (`text`) and the synopsis, which has no language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    texts = [*found[1:], ("", "")]
    return [
        Block(language, code, text if next_language == "text" else None)
        for (language, code), (next_language, text) in zip(found, texts, strict=True)
        if language not in ("", "text")
    ]


INSTALL, SET_UP, THE_TESTS, *BLOCKS = blocks()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that a reader has: a cat, photos, a model of their own; and `demo` in place of the published weights."""
    folder = tmp_path_factory.mktemp("readme")
    photo().save(folder / "cat.jpg")
    write_photos(folder / "photos", 15)
    (folder / "photos" / "notes.jpg").write_text("no image")
    for name in ("cat", "coffee", "rocket"):
        write_photos(folder / "val" / name, 2)
    for index, path in enumerate(write_photos(folder / "animals", 12)):  # those of one source are in one folder
        (kind := folder / "animals" / f"kind {index % 4}").mkdir(exist_ok=True)
        path.rename(kind / path.name)
    keras_model(classes=3, input_shape=(48, 48, 3)).save(folder / "my_model.keras")
    convert("demo", folder / "home" / "vgg16.safetensors", check=False)
    return folder


@pytest.fixture(scope="module")
def namespaces() -> dict[str, dict[str, Any]]:
    """Keep the variables of the Python blocks, by the blocks' titles."""
    return {}


@pytest.fixture(autouse=True)
def _in_the_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(world)
    monkeypatch.setenv("TORCHVGG_HOME", str(world / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(command: str) -> str:
    """Run a command and return what it prints. torchvgg's own run in this process, which saves their imports."""
    words = shlex.split(command, comments=True)
    if main := COMMANDS.get(words[0]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(words[1:]) == 0
        return printed.getvalue()
    process = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ (s|images/s)\b", r"# \1", text)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.title)
def test_a_block(block: Block, world: Path, namespaces: dict[str, dict[str, Any]]) -> None:
    if block.language == "python":
        if "torchvision" in block.code and not importlib.util.find_spec("torchvision"):
            pytest.skip(
                "torchvision isn't installed; tests/convert/write/test_keras.py compares names and shapes with it"
            )
        if name := re.match(r"# (\w+\.py)\n", block.code):
            (world / name[1]).write_text(block.code)  # the commands after it run it
            return
        namespace = namespaces.setdefault(block.title, {"__name__": "__main__"})
        exec(compile(block.code, block.title, "exec"), namespace)
        return
    assert block.language == "sh"
    printed = "".join(run(command) for command in block.code.splitlines() if "--ray" not in command)
    if block.shown is not None:
        assert without_times(printed) == without_times(block.shown)


def test_the_set_up() -> None:
    """The first command differs only at its end from the second, which CI runs; test_convert.py runs that end."""
    install, tests = SET_UP.code.split(" && "), THE_TESTS.code.split(" && ")
    assert install[0] == tests[0] == "python3 -m venv .venv"
    assert tests[1] == ".venv/bin/pip install torch==2.13.0 -e '.[test]'"
    assert install[1] == tests[1].replace("'.[test]'", ".")
    assert install[2:] == [".venv/bin/python -m convert demo\n"]
    assert '"-m", "torchvgg.convert", "demo"' in (ROOT / "tests/convert/test_convert.py").read_text()
    assert tests[2:] == [".venv/bin/python -m pytest\n"]


def test_the_extras() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {name: set(text.split()) for name, text in config["options.extras_require"].items()}
    assert INSTALL.code == "pip install '.[images,plot,parquet,ray]'\n"
    for name in ("images", "plot", "parquet", "ray"):
        assert extras[name] <= extras["test"], name


def test_the_first_minute_is_short() -> None:
    shown, *folded = README.split("<details>")
    assert shown.count("\n") <= 250
    assert README.count("<details>") == README.count("</details>")
    for text in folded:  # only headings and a sentence stand between two folded parts
        assert text.partition("</details>")[2].count("\n") <= 8


def test_every_layer_is_named() -> None:
    of_keras = {name for name, value in vars(layers).items() if isinstance(value, type) and hasattr(keras.layers, name)}
    assert of_keras | {"Bidirectional", "TimeDistributed"} <= set(re.findall(r"\w+", README))


def test_every_option_is_named() -> None:
    (synopsis,) = re.findall(r"^```\n(torchvgg-convert .*?)^```$", README, re.DOTALL | re.MULTILINE)
    actions = [action for action in conversion.parser()._actions if action.dest != "help"]
    named = {name for action in actions for name in action.option_strings[:1] or [str(action.metavar)]}
    assert set(re.findall(r"(?<!\w)--?[a-z-]+|SOURCE", synopsis)) == named
    for action in actions:
        if action.choices:
            assert "|".join(action.choices) in synopsis


@pytest.mark.parametrize("name", ["README.md", ".github/CONTRIBUTING.md"])
def test_every_path_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    in_code = re.findall(r"`((?:torchvgg|convert|tests|\.ci|\.github)/[\w./]*)`", text)
    links = re.findall(r"\]\(([\w./]+)\)", text)
    assert len(in_code) + len(links) >= 5
    for path in (*(ROOT / path for path in in_code), *((ROOT / name).parent / path for path in links)):
        assert path.exists(), path


def test_the_numbers_in_the_text(world: Path, namespaces: dict[str, dict[str, Any]]) -> None:
    assert run_python(namespaces, "import numpy as np", "vectors").shape == (15, 512)
    assert run_python(namespaces, "import torch", "vector").shape == (1, 512)
    assert run_python(namespaces, "import torch", "maps")["block4_conv3"].shape == (1, 512, 40, 60)
    assert run_python(namespaces, "import torch", "scores").shape == (1, 1000, 6, 10)
    losses = run_python(namespaces, "import torch", "losses")
    assert losses[-1] < 0.8 * losses[0]


def test_what_was_trained_goes_to_keras(world: Path, namespaces: dict[str, dict[str, Any]]) -> None:
    """The recipe's model of Keras gives the numbers of the model that was trained here."""
    faces = next(space["faces"] for space in namespaces.values() if "faces" in space and "keras" in space)
    x = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        assert relative_error(faces(x.permute(0, 2, 3, 1), training=False), load_model("faces.safetensors")(x)) <= 1e-5


def test_bfloat16(world: Path) -> None:
    """Train on less data, since processors without bfloat16 take ten times as long."""
    script = (world / "finetune.py").read_text()
    little = (
        script.replace("(160, 40)", "(8, 192)")
        .replace("batch_size=10, s", "batch_size=4, s")
        .replace("range(2)", "range(1)")
    )
    (world / "little.py").write_text(little)
    assert little != script
    assert re.fullmatch(r"\d+ of 40 right\n", run("python little.py --bf16"))


def test_the_moved_script_is_the_same(namespaces: dict[str, dict[str, Any]]) -> None:
    """Compare the features, to 1e-5; of the scores only the shape, since the heads start from different random weights."""
    keras_space = namespaces["python: import keras"]
    torch_space = next(space for space in namespaces.values() if "answers" in space)
    expected = torch.from_numpy(np.array(keras_space["base"].predict(keras_space["x"], verbose=0)))
    with torch.no_grad():
        received = torch_space["base"](torch_space["x"])
    assert relative_error(received, expected) <= 1e-5
    assert keras_space["scores"].shape == torch_space["scores"].shape == (20, 2)


def run_python(namespaces: dict[str, dict[str, Any]], first_line: str, name: str) -> Any:
    return next(space[name] for title, space in namespaces.items() if first_line in title and name in space)
