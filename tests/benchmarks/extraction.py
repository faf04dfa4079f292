"""Extraction: from a folder of JPEG files to a Parquet file of `block5_pool`'s averages, with the same weights.

All resize to the nearest pixel, as Keras's `load_img` does, which costs the least. So the vectors can be compared; only
TensorFlow, with a decoder of its own, reads some pixels a little otherwise.
"""

import copy
import importlib.resources
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchvgg import VGG16, extract_features
from torchvgg.extraction.extractor import features_of
from torchvgg.image_files import load_for

from .inference import error, ours
from .measuring import Scale, Table, in_turn, medians
from .peers import fill, installed, keras_on_tensorflow

Run = Callable[[Path, Path], Any]  # a folder of images, the Parquet file to write

BATCH = 32
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")  # of scikit-image


def torchvgg(model: VGG16, folder: Path) -> Run:
    return lambda images, output: extract_features(model, str(images), output, batch_size=BATCH, force=True)


def tensorflow(model: VGG16, folder: Path) -> Run:
    """Keras's own `image_dataset_from_directory` and `predict`."""
    keras = keras_on_tensorflow()
    _, channels, *size = model.input_shape
    peer = keras.applications.VGG16(weights=None, include_top=False, pooling="avg", input_shape=(*size, channels))
    fill(peer, model)
    preprocess = keras.applications.vgg16.preprocess_input
    settings = {"labels": None, "shuffle": False, "image_size": size, "batch_size": BATCH, "interpolation": "nearest"}

    def run(images: Path, output: Path) -> None:
        data = keras.utils.image_dataset_from_directory(images, **settings, verbose=False)
        in_floats = data.map(lambda x: preprocess(keras.ops.cast(x, "float32")))  # bytes would overflow
        vectors = peer.predict(in_floats, verbose=0)
        _write(output, data.file_paths, vectors)

    return run


def torchvision(model: VGG16, folder: Path) -> Run:
    """A loop over a DataLoader with a process for each core, channels-last."""
    from torchvision import models, transforms

    peer = models.vgg16(weights=None).features.eval()
    peer.load_state_dict(dict(zip(peer.state_dict(), model.state_dict().values(), strict=True)))
    peer[0].weight.data = peer[0].weight.data.flip(1)  # Keras's takes BGR
    peer = peer.to(memory_format=torch.channels_last)
    transform = transforms.Compose(
        [
            transforms.Resize(model.input_shape[2:], transforms.InterpolationMode.NEAREST),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
            transforms.Normalize([123.68 / 255, 116.779 / 255, 103.939 / 255], [1 / 255] * 3),
        ]
    )

    @torch.no_grad()
    def run(images: Path, output: Path) -> None:
        paths = sorted(map(str, images.iterdir()))
        loader = DataLoader(_Images(paths, transform), BATCH, num_workers=os.cpu_count() or 1)
        vectors = [peer(x.contiguous(memory_format=torch.channels_last)).mean((2, 3)) for x in loader]
        _write(output, paths, torch.cat(vectors).numpy())

    return run


PEERS = (torchvgg, tensorflow, torchvision)


def extraction(folder: Path, scale: Scale, peers: Iterable[Any], left_out: dict[str, str]) -> Table:
    """Milliseconds, images per second, and the error of four images' vectors, relative to the largest in float64."""
    few, many, output = folder / "few", folder / "many", folder / "vectors.parquet"
    count = 128 if scale.size == 224 else 8
    try:
        write_photographs(few, 4, scale)
        write_photographs(many, count, scale)
    except ImportError as missing:
        left_out["extraction"] = str(missing)
        return {}
    model = ours(scale, include_top=False)
    runs = dict(installed(list(peers), model, folder, left_out))
    expected = _expected(model, few)
    errors = {}
    for name, run in runs.items():  # this warms up, too
        run(few, output)
        errors[name] = error(_read(output), expected)
    table = medians(in_turn({name: partial(run, many, output) for name, run in runs.items()}, min(scale.rounds, 3)))
    for name, row in table.items():
        row["images_s"] = 1000 * count / row["ms"]
        row["error"] = errors[name]
    return table


def write_photographs(folder: Path, count: int, scale: Scale) -> None:
    """JPEG files of 640×480 (for images of 224×224) that all differ a little."""
    from PIL import Image

    folder.mkdir()
    width, height = scale.size * 640 // 224, scale.size * 480 // 224
    data = importlib.resources.files("skimage") / "data"
    for number in range(count):
        with Image.open(str(data / PHOTOGRAPHS[number % len(PHOTOGRAPHS)])) as photograph:
            box = (number, 0, *photograph.size)
            photograph.convert("RGB").resize((width, height), box=box).save(folder / f"{number:04}.jpg", quality=90)


@torch.no_grad()
def _expected(model: VGG16, folder: Path) -> Tensor:
    exact = features_of(copy.deepcopy(model), "block5_pool", "avg").double()
    images = [load_for(model, path) for path in sorted(folder.iterdir())]
    return exact(torch.cat(images).double())


class _Images(Dataset[Tensor]):
    def __init__(self, paths: list[str], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[number]) as image:
            return self.transform(image.convert("RGB"))


def _write(output: Path, paths: list[str], vectors: np.ndarray) -> None:
    import pyarrow.parquet

    column = pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "vector": column}), output)


def _read(output: Path) -> np.ndarray:
    import pyarrow.parquet

    return np.array(pyarrow.parquet.read_table(output)["vector"].to_pylist(), np.float32)
