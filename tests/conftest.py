"""What every test gets: Keras running on PyTorch, folders of its own, a fixed seed."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports Keras

import hashlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torchvgg.convert import published

from .keras_models import keras_model, write_twin
from .server import Server


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
    known = published.FILES["vgg16-notop"]._replace(md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(published.FILES, "vgg16-notop", known)
    with Server() as server:
        server.content = content
        monkeypatch.setenv("TORCHVGG_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
