"""The inference tables as one picture of bars."""

from pathlib import Path
from typing import Any

from .measuring import Table


def draw(tables: dict[str, Table], path: Path) -> None:
    """Writes the picture; its suffix says of what kind."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "torchvgg"  # the same picture for the same numbers
    chart(tables).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def chart(tables: dict[str, Table]) -> Any:
    """Returns a figure with a group of bars for each batch, in milliseconds an image; shorter is better.

    `tables` are as `measured` returns them; all groups have the order of the first.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    inference = {title.split()[-1]: table for title, table in tables.items() if title.startswith("inference")}
    figure, axes = pyplot.subplots(1, len(inference), figsize=(4 * len(inference), 3), squeeze=False, sharey=True)
    first = next(iter(inference.values()))
    names = sorted(first, key=lambda name: -first[name]["ms"])
    for (batch, table), axis in zip(inference.items(), axes[0], strict=True):
        values = [table[name]["ms"] / int(batch) for name in names]
        colours = ["tab:blue" if name in ("native", "operators") else "tab:gray" for name in names]
        bars = axis.barh(range(len(names)), values, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.set(title=f"batch {batch}", xlabel="ms an image", xlim=(0, 1.15 * max(values)))
        axis.set_yticks(range(len(names)), [_TITLES.get(name, name) for name in names])
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


_TITLES = {
    "native": "optimize_for_inference",
    "operators": "the same, no compiler",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorflow": "Keras on TensorFlow",
    "plain": "VGG16, channels-last",
    "torchvision": "torchvision, channels-last",
}
