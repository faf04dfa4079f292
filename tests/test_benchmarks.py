"""The benchmarks stay alive: all of them, in miniature. No time is asserted."""

import json
from pathlib import Path

import pytest

from .benchmarks.__main__ import TABLES, main
from .benchmarks.chart import chart
from .benchmarks.measuring import memory_of

pytestmark = pytest.mark.slow


def test_all_tables_in_miniature(capfd: pytest.CaptureFixture[str]) -> None:
    peers = ["native", "operators", "onnxruntime", "plain", "torchvgg", "tensorflow", "torchvision"]
    assert main([*TABLES, "--tiny", "--rounds", "1", "--batch", "1", "3", "--json", "--only", *peers]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    tables = result["tables"]
    assert list(tables) == [
        "conversion",
        "loading: ready",
        "loading: ready and first forward",
        "extraction",
        "inference, batch 1",
        "inference, batch 3",
        "bfloat16, batch 1",
        "bfloat16, batch 3",
        "training, batch 8",
        "training a head, 32 images",
    ]
    assert {"operators", "onnxruntime", "plain"} <= tables["inference, batch 3"].keys() | result["left_out"].keys()
    rows = [row for table in tables.values() for row in table.values()]
    assert all(row["ms"] >= row["least"] > 0 for row in rows)
    assert all(row["error"] < 1e-4 for row in tables["inference, batch 1"].values())
    assert {"torchvgg", "tensorflow", "torchvision"} <= tables["extraction"].keys() | result["left_out"].keys()
    assert all(row["error"] < 1e-4 and row["images_s"] > 0 for row in tables["extraction"].values())
    assert tables["conversion"]["convert"]["mb"] > 0
    assert result["machine"]["threads"] > 0


def test_text_and_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "speed.svg"
    arguments = ["inference", "--tiny", "--rounds", "1", "--batch", "1", "--only", "plain", "--plot", str(picture)]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "inference, batch 1\n  plain " in printed
    assert "channels-last" in picture.read_text()


def test_each_bar_has_its_own_name() -> None:
    """The groups share their names, though the order of the times may differ."""
    pytest.importorskip("matplotlib")
    times = {"1": {"native": 30.0, "ncnn": 50.0, "plain": 90.0}, "8": {"native": 160.0, "ncnn": 720.0, "plain": 640.0}}
    tables = {f"inference, batch {n}": {own: {"ms": ms} for own, ms in row.items()} for n, row in times.items()}
    figure = chart(tables)
    figure.canvas.draw()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["VGG16, channels-last", "ncnn", "optimize_for_inference"]
    for axis, (batch, row) in zip(figure.axes, times.items(), strict=True):
        assert [bar.get_width() for bar in axis.patches] == [
            row[own] / int(batch) for own in ("plain", "ncnn", "native")
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "no table speed; expected conversion,"),
        (["conversion", "--plot", "x.svg"], "--plot draws the inference table, which isn't asked for"),
        (["--only", "natve"], "invalid choice: 'natve'"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capfd.readouterr().err


def fail() -> None:
    raise ZeroDivisionError


def test_memory_of_what_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        memory_of(fail)
