"""A Keras file with VGG16's published structure and size and random weights, to try everything without a network."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from .network.vgg import blocks


def write_demo(folder: Path) -> Path:
    """Writes the file into `folder` and returns its path.

    The weights are He-scaled, so that all layers' outputs have a similar size, as with trained weights.
    The structure is that of Keras 1, which wrote the published files: 553 MB, 138,357,544 numbers.
    """
    path = folder / "vgg16_demo.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        names = ["input_1"]
        for name, shape in _shapes():
            names.append(name)
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}_{part}_1:0" for part in "Wb"] if shape else [], "S")
            if shape:
                kernel = random.random(shape, np.float32)
                kernel -= 0.5
                kernel *= np.sqrt(24 / np.prod(shape[:-1]))  # He: a variance of 2 / fan in
                group[f"{name}_W_1:0"] = kernel
                group[f"{name}_b_1:0"] = random.random(shape[-1], np.float32)
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S")
        file.attrs["layer_names"] = np.array(names, "S")
    return path


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    """Lists the layers of VGG16 with their kernels' shapes, empty where there is none."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    channels = 3
    for block, (convolutions, filters) in enumerate(blocks(13), start=1):
        for number in range(1, convolutions + 1):
            shapes.append((f"block{block}_conv{number}", (3, 3, channels, filters)))
            channels = filters
        shapes.append((f"block{block}_pool", ()))
    return [*shapes, ("flatten", ()), ("fc1", (25088, 4096)), ("fc2", (4096, 4096)), ("predictions", (4096, 1000))]
