"""Drawing feature maps and Grad-CAM maps with matplotlib."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .optional_imports import extra


def draw_maps(image: np.ndarray, maps: Tensor, title: str, path: Path, most: int = 64) -> None:
    """Draws the first maps of a layer in a grid beside the image, each scaled from its least (dark) to its largest value.

    The image is `(H, W, 3)` in uint8, the maps are `(C, h, w)`; the suffix of `path` says the format.
    """
    shown = maps[:most].float().cpu()
    columns = math.ceil(math.sqrt(len(shown)))
    least, largest = (f((1, 2), keepdim=True) for f in (shown.amin, shown.amax))
    margins = (1, 1, 1, 1, 0, -len(shown) % columns)  # around each map, and whole blank maps at the end
    tiles = F.pad((shown - least) / (largest - least).clamp_min(1e-12), margins, value=math.nan)
    grid = torch.vstack([torch.hstack(row.unbind()) for row in tiles.split(columns)]).numpy()
    number = f"{len(shown)} of {len(maps)} maps" if len(shown) < len(maps) else f"{len(maps)} maps"
    _draw([(image, "the image", {}), (grid, f"{title}: {number}", {"cmap": "viridis"})], path)


def draw_cam(image: np.ndarray, cam: Tensor, title: str, path: Path) -> None:
    """Draws a class's map `(h, w)`, 0 to 1, over the image, red where the network looks, beside the image itself.

    The image is `(H, W, 3)` in uint8; the suffix of `path` says the format.
    """
    (large,) = F.interpolate(cam[None, None].float().cpu(), image.shape[:2], mode="bicubic")[0].clamp(0, 1).numpy()
    with extra("plot"):
        from matplotlib import colormaps
    overlay = 0.55 * image / 255 + 0.45 * colormaps["turbo"](large)[..., :3]
    _draw([(image, "the image", {}), (overlay, title, {})], path)


def _draw(panels: list[tuple[np.ndarray, str, dict[str, str]]], path: Path) -> None:
    with extra("plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display
        from matplotlib.figure import Figure
    from .convert.atomic_files import writing

    figure = Figure(figsize=(4.5 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (pixels, title, keywords) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.imshow(pixels, interpolation="nearest", **keywords)
        axis.set_title(title)
        axis.axis("off")
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(f"output: expected a name that ends in one of .{', .'.join(kinds)}. Received: {path}")
    with writing(path) as unfinished:
        figure.savefig(unfinished)
