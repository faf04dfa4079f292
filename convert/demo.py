"""The demo file: VGG16's published Keras file in structure and size, with random numbers, so that no network is needed."""

from pathlib import Path

import h5py
import numpy as np

from .network.assemble import plan
from .network.vgg_architecture import vgg_chain


def write_demo(folder: Path) -> Path:
    """Writes the file into `folder` and returns its path.

    The weights are He-scaled, so that the outputs of all layers are of like size, as those of trained weights are.
    The structure is that of Keras 1, which wrote the published files: 553 MB, 138,357,544 numbers.
    """
    path = folder / "vgg16_demo.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        names = ["input_1"]
        for described, _, specs in plan(vgg_chain(13, (224, 224, 3), 1000)):
            name, shapes = described.name, [[size or 0 for size in spec.shape] for spec in specs]
            names.append(name)
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}_{part}_1:0" for part in "Wb"][: len(shapes)], "S")
            if shapes:
                kernel = random.random(shapes[0], np.float32)
                kernel -= 0.5
                kernel *= np.sqrt(24 / np.prod(kernel.shape[:-1]))  # He: a variance of 2 / fan in
                group[f"{name}_W_1:0"] = kernel
                group[f"{name}_b_1:0"] = random.random(shapes[1], np.float32)
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S")
        file.attrs["layer_names"] = np.array(names, "S")
    return path
