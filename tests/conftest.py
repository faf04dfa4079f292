"""What every test gets: Keras running on PyTorch, folders of its own, a fixed seed."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports Keras
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share the cores: more threads take twice the time

import hashlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from torchvgg.convert import convert, published

from .helpers.command_line import run
from .helpers.hostile import KERAS2, Refused, processor_time
from .helpers.keras_models import keras_model, write_twin
from .helpers.server import Server


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the machine's own is read or written: no downloaded weights, no proxies."""
    monkeypatch.setenv("TORCHVGG_HOME", str(tmp_path_factory.mktemp("torchvgg_home")))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras_home")))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    torch.manual_seed(0)


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """The number of bytes that a file may have here, as if the disk were full then."""
    resource = pytest.importorskip("resource")
    limit = 5_000_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of vgg16-notop."""
    return write_twin(tmp_path_factory.mktemp("twins") / "headless.h5", keras_model(include_top=False))


@pytest.fixture(scope="session")
def topped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of vgg16, for small images."""
    return write_twin(tmp_path_factory.mktemp("twins") / "topped.h5", keras_model(classes=4, input_shape=(32, 32, 3)))


@pytest.fixture
def server(headless: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror of the release in which vgg16-notop is our twin, its hash among the known ones."""
    content = headless.read_bytes()
    known = published.FILES["vgg16-notop"]._replace(size=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(published.FILES, "vgg16-notop", known)
    with Server() as server:
        server.content = content
        monkeypatch.setenv("TORCHVGG_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def check_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Checks how a file is refused on the command line, and by `readers`."""

    def check(path: Path, message: str, *readers: Callable[[Path], object]) -> None:
        (temporary := tmp_path / "temporary").mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        before, target = sorted(tmp_path.iterdir()), tmp_path / "out.safetensors"
        for read in readers:
            started = processor_time()
            with pytest.raises(ValueError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)
            assert processor_time() - started < 10
        started = processor_time()
        assert run(path, "-o", target) == 1
        assert processor_time() - started < 10
        out, error = capsys.readouterr()
        assert (out, error[:7], error.count("\n")) == ("", "error: ", 1)
        assert str(path) in error
        assert "a mistake in torchvgg" not in error
        assert re.search(message, error)
        assert len(error) < 3000
        assert sorted(tmp_path.iterdir()) == before
        assert list(temporary.iterdir()) == []

    return check


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trained.h5, converted."""
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    convert(KERAS2 / "trained.h5", path)
    return path
