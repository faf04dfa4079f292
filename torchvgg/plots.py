"""Figures of feature maps and of Grad-CAM maps, made with matplotlib: `plot_maps` and `plot_cam`."""

from __future__ import annotations

import difflib
import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .optional_imports import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 4.5  # of a panel, in inches
_OVERLAY = 0.45  # the share of the colours over the photograph


def plot_maps(
    maps: Tensor | np.ndarray,
    image: Tensor | np.ndarray | None = None,
    title: str | None = None,
    cmap: str = "viridis",
    most: int = 64,
) -> Figure:
    """Draws feature maps in a grid, numbered, each coloured from its least to its largest value.

    Args:
        maps: `(C, h, w)` or `(1, C, h, w)`, as `extract` returns them.
        image: the photograph to draw beside them, of any size: RGB in [0, 255], `(H, W, 3)` or `(3, H, W)`, or as `load_image`
            returns it. The maps take its proportions.
        title: the title of the figure.
        cmap: the name of a colour map of matplotlib.
        most: how many maps are drawn, the first ones.

    Returns:
        A matplotlib `Figure`, which a notebook shows, and which has `savefig`. It is none of pyplot's and needn't be closed.

    Raises:
        ValueError: an array has another shape or range, or there is no such colour map.
        ImportError: matplotlib isn't installed.
    """
    all_maps = _without_batch(maps, "maps", 3).float()
    if most < 1 or not all_maps.numel():
        raise ValueError(f"expected at least one map to draw. Received: {tuple(all_maps.shape)}, most={most}")
    pixels = None if image is None else _pixels(image)
    figure, panels = _figure(cmap, pixels, title, _aspect(pixels if pixels is not None else all_maps[0]))
    shown = all_maps[:most]
    columns = math.ceil(math.sqrt(len(shown)))
    least, largest = (f((1, 2), keepdim=True) for f in (shown.amin, shown.amax))
    margins = (1, 1, 1, 1, 0, -len(shown) % columns)  # around each map, and whole blank maps at the end
    tiles = F.pad((shown - least) / (largest - least).clamp_min(1e-12), margins, value=math.nan)
    grid = torch.vstack([torch.hstack(row.unbind()) for row in tiles.split(columns)]).numpy()
    height, width = tiles.shape[1:]
    stretched = 1.0 if pixels is None else _aspect(pixels) / _aspect(shown[0])  # of a map's pixels: height by width
    axes = panels[-1]
    axes.imshow(grid, cmap=cmap, interpolation="nearest", aspect=stretched, vmin=0, vmax=1)
    size = HEIGHT * 72 / columns / 7  # a seventh of a map's height
    style: dict[str, Any] = {
        "fontsize": size,
        "color": "white",
        "va": "top",
        "bbox": {"color": "black", "alpha": 0.5, "pad": size / 8},
    }
    for number in range(len(shown)):
        row, column = divmod(number, columns)
        axes.text(column * width + 1, row * height + 1, str(number), **style)
    counted = f"{len(all_maps):,} map{'s' if len(all_maps) != 1 else ''}"
    axes.set_title(f"{len(shown):,} of {counted}" if len(shown) < len(all_maps) else counted)
    _add_colour_bar(figure, axes, cmap, {0: "least", 1: "largest"}, "each map's own values")
    return figure


def plot_cam(
    cam: Tensor | np.ndarray,
    image: Tensor | np.ndarray | None = None,
    title: str | None = None,
    cmap: str = "turbo",
    label: str = "share of the largest contribution",
) -> Figure:
    """Draws the map of a class, as `grad_cam` returns it, over the photograph, beside the photograph itself.

    Args:
        cam: `(h, w)` or `(1, h, w)`, from 0 to 1.
        image: the photograph, as for `plot_maps`; without it the map is drawn alone.
        title: the title of the figure.
        cmap: the name of a colour map of matplotlib.
        label: what the colours mean, beside the colour bar.

    Returns:
        A matplotlib `Figure`, as `plot_maps`.

    Raises:
        ValueError: an array has another shape or range, or there is no such colour map.
        ImportError: matplotlib isn't installed.
    """
    values = _without_batch(cam, "cam", 2).float()
    if not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):  # NaN neither
        raise ValueError(f"cam: expected values from 0 to 1. Received: {values.min():.3g} to {values.max():.3g}")
    pixels = None if image is None else _pixels(image)
    figure, panels = _figure(cmap, pixels, title, _aspect(pixels if pixels is not None else values))
    if pixels is None:
        panels[-1].imshow(values.numpy(), cmap=cmap, interpolation="nearest", vmin=0, vmax=1)
    else:
        from matplotlib import colormaps

        (large,) = F.interpolate(values[None, None], pixels.shape[:2], mode="bicubic")[0].clamp(0, 1).numpy()
        panels[-1].imshow((1 - _OVERLAY) * pixels / 255 + _OVERLAY * colormaps[cmap](large)[..., :3])
    _add_colour_bar(figure, panels[-1], cmap, {0: "0", 0.5: "0.5", 1: "1"}, label)
    return figure


def save_picture(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a figure in the format of the file's suffix, whole or not at all."""
    from .convert.atomic_files import writing

    warnings.filterwarnings("ignore", "Glyph")  # which the font lacks, of the file's name: a box is drawn
    with writing(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


def picture_suffixes() -> list[str]:
    """Lists the suffixes of the formats that matplotlib writes."""
    require("matplotlib")
    from matplotlib.backend_bases import FigureCanvasBase

    return [f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()]


def _figure(cmap: str, pixels: np.ndarray | None, title: str | None, aspect: float) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a panel for the photograph, if there is one, already drawn, and one for the map or maps."""
    require("matplotlib")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if cmap not in colormaps:
        similar = difflib.get_close_matches(cmap, list(colormaps), 3)
        advice = f"did you mean {' or '.join(similar)}?" if similar else "see matplotlib.colormaps"
        raise ValueError(f"cmap: matplotlib has no colour map called {cmap!r}; {advice}")

    class Picture(Figure):  # IPython shows a plain Figure only if pyplot was imported
        def _repr_png_(self) -> bytes:
            self.savefig(content := io.BytesIO(), format="png")
            return content.getvalue()

    panels = 1 if pixels is None else 2
    figure = Picture(figsize=(panels * min(max(HEIGHT / aspect, 1.5), 12) + 0.8, HEIGHT + 0.8), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if pixels is not None:
        axes[0].imshow(pixels)
    for each in axes:
        each.axis("off")
    if title is not None:
        figure.suptitle(title, parse_math=False)  # names of files have dollars
    return figure, axes


def _add_colour_bar(figure: Figure, axes: Axes, cmap: str, ticks: dict[float, str], label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), cmap), ax=axes, shrink=0.8, label=label)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))


def _aspect(pixels: Tensor | np.ndarray) -> float:
    """Returns the height of an image or map, divided by its width."""
    return float(pixels.shape[0] / pixels.shape[1])


def _without_batch(values: Tensor | np.ndarray, name: str, axes: int) -> Tensor:
    """Returns a tensor on the CPU with so many axes, without a batch of one. Raises a ValueError for another shape."""
    if not isinstance(values, Tensor | np.ndarray):
        raise ValueError(f"{name}: expected a tensor or an array. Received: {type(values).__name__}")
    tensor = (values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))).detach().cpu()
    if tensor.dim() == axes + 1 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.dim() != axes:
        expected = "(C, h, w) or (1, C, h, w)" if axes == 3 else "(h, w) or (1, h, w)"
        raise ValueError(f"{name}: expected {expected}. Received shape: {tuple(tensor.shape)}")
    return tensor


def _pixels(image: Tensor | np.ndarray) -> np.ndarray:
    """Returns an image as `(H, W, 3)` in uint8. Raises a ValueError if it is none."""
    array = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else np.asarray(image)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"image: expected (H, W, 3) or (3, H, W). Received shape: {array.shape}, of a {type(image).__name__}"
        )
    least, largest = array.min(), array.max()
    if not (least >= 0 and largest <= 255):  # NaN neither
        raise ValueError(
            f"image: expected RGB in [0, 255]. Received: values from {least:.3g} to {largest:.3g}; pass the photograph, not "
            "what preprocess_input returns"
        )
    if array.dtype.kind == "f" and largest <= 1:
        array = 255 * array
    return np.broadcast_to(array[..., :3].astype(np.uint8), (*array.shape[:2], 3))
