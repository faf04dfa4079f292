"""`--ray`: the rows of the local run, bit for bit, on a real cluster of two nodes, and though a worker is killed."""

import copy
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from torchvgg import VGG16, evaluate, extract_features
from torchvgg.command_line import main

from ...helpers.photos import write_photos

pytestmark = pytest.mark.slow

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers, over the network

ray = pytest.importorskip("ray")
README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def _leave_the_cluster() -> Iterator[None]:
    yield
    if ray.is_initialized():
        time.sleep(1)  # a thread of Ray's that is still clearing up would end the process if it called Ray after that
    ray.shutdown()


@pytest.fixture(scope="module")
def model() -> VGG16:
    return VGG16(weights=None, include_top=False, input_shape=(3, 64, 64)).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 14)
    (folder / "011b.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def local(model: VGG16, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("local") / "local.parquet"
    extract_features(model, str(photos), output, batch_size=4)
    return pyarrow.parquet.read_table(output)


def check_same_rows(received: Any, expected: Any) -> None:
    """Bit for bit, but for the paths, which may begin in another folder."""
    assert received["error"].to_pylist() == expected["error"].to_pylist()
    names = [[Path(path).name for path in table["path"].to_pylist()] for table in (received, expected)]
    assert names[0] == names[1]
    vectors = [[row or [] for row in table["vector"].to_pylist()] for table in (received, expected)]
    for name, row, other in zip(names[0], *vectors, strict=True):
        np.testing.assert_array_equal(row, other, err_msg=name)


def test_a_cluster_of_two_nodes_gives_the_same_rows(
    cluster: Any, model: VGG16, photos: Path, local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative names are this process's, wherever the nodes were started."""
    monkeypatch.chdir(photos.parent)
    output = tmp_path / "ray.parquet"
    (tmp_path / "ray.parquet.parts").mkdir(mode=0o700)
    (
        tmp_path / "ray.parquet.parts" / "extractor"
    ).mkdir()  # no model goes through a file: others might have put it there
    done = extract_features(model, photos.name, output, batch_size=4, ray=cluster.address)
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    assert (done.images, done.bad) == (15, 1)
    received = pyarrow.parquet.read_table(output)
    assert received.schema.equals(local.schema)
    assert received["path"].to_pylist() == [f"{photos.name}/{Path(path).name}" for path in local["path"].to_pylist()]
    check_same_rows(received, local)
    if not ray.cluster_resources().get("GPU"):
        with pytest.raises(ValueError, match="half: there is no GPU in the cluster"):
            extract_features(model, photos.name, tmp_path / "half.parquet", half=True, ray=cluster.address)
    assert [path.name for path in tmp_path.iterdir()] == ["ray.parquet"]


def test_a_killed_worker_costs_nothing_but_its_batch(cluster: Any, model: VGG16, photos: Path, tmp_path: Path) -> None:
    output, parts = tmp_path / "ray.parquet", tmp_path / "ray.parquet.parts"
    killed: list[int] = []

    def kill() -> None:
        """Kills each process that computes, once the first rows are there."""
        while not list(parts.glob("*.parquet")):
            time.sleep(0.02)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"_Actor" in title:
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))

    killer = threading.Thread(target=kill)
    killer.start()
    done = extract_features(model, str(photos), output, batch_size=1, ray=cluster.address)
    killer.join()
    assert killed
    assert (done.images, done.bad) == (15, 1)
    one_by_one = tmp_path / "one_by_one.parquet"
    extract_features(model, str(photos), one_by_one, batch_size=1)
    check_same_rows(pyarrow.parquet.read_table(output), pyarrow.parquet.read_table(one_by_one))


def test_vectors_that_are_not_finite_are_errors(cluster: Any, model: VGG16, photos: Path, tmp_path: Path) -> None:
    broken = copy.deepcopy(model)
    broken.block5_conv3.bias.data[0] = float("nan")
    done = extract_features(broken, str(photos), tmp_path / "ray.parquet", ray=cluster.address)
    extract_features(broken, str(photos), tmp_path / "here.parquet", workers=0)
    received = pyarrow.parquet.read_table(tmp_path / "ray.parquet")
    assert (done.images, done.bad, received["vector"].null_count) == (15, 15, 15)
    assert sum("NaN or infinity" in error for error in received["error"].to_pylist()) == 14
    check_same_rows(received, pyarrow.parquet.read_table(tmp_path / "here.parquet"))


def test_evaluation_on_a_cluster_gives_the_same_numbers(cluster: Any, photos: Path) -> None:
    model = VGG16(weights=None, input_shape=(3, 32, 32), classes=3).eval()
    paths = sorted(str(path) for path in photos.iterdir())
    wanted = {path: number % 3 for number, path in enumerate(paths)}
    here = evaluate(model, wanted, batch_size=4)
    there = evaluate(model, wanted, batch_size=4, ray=cluster.address)
    assert (there.images, there.bad) == (15, 1)
    assert there.loss == pytest.approx(here.loss, rel=1e-9)  # of the same scores, added in another order
    assert there._replace(seconds=0, loss=0) == here._replace(seconds=0, loss=0)


@pytest.fixture
def published(model: VGG16, monkeypatch: pytest.MonkeyPatch) -> VGG16:
    """What the command line opens, whatever weights it is given."""
    monkeypatch.setattr("torchvgg.commands.open_model", lambda weights, include_top: model)
    return model


def test_the_readmes_command(
    published: VGG16,
    photos: Path,
    local: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On this machine. What an earlier run left is gone on with; half a part, as a killed writer may leave it, is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    with monkeypatch.context() as patch:
        patch.setattr("torchvgg.extraction.feature_files.Parts.join", interrupt)
        with pytest.raises(InterruptedError):
            extract_features(published, "photos/", "on_ray.parquet", batch_size=4)
    first, second, *_ = sorted((tmp_path / "on_ray.parquet.parts").glob("*.parquet"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    command = next(line for line in README.read_text().splitlines() if line.endswith("--ray"))
    assert main([*shlex.split(command)[1:], "--batch-size", "4"]) == 0
    printed = capsys.readouterr().out
    assert "15 images, 1 of them bad, 512 numbers each → on_ray.parquet\n" in printed
    assert "were done before" in printed
    received = pyarrow.parquet.read_table("on_ray.parquet")
    assert received["path"].to_pylist() == [f"photos/{Path(path).name}" for path in local["path"].to_pylist()]
    check_same_rows(received, local)


def interrupt(*arguments: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "error: ray: no cluster at 127.0.0.1:1 ("),
        ("cluster", "error: ray: expected an address, host:port. Received: 'cluster'"),
    ],
)
@pytest.mark.usefixtures("published")
def test_no_cluster(
    address: str,
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["extract", str(photos), "-o", str(tmp_path / "f.parquet"), "--ray", address]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
