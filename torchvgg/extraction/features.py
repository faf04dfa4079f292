"""From images in files to vectors in a file: decoded in worker processes, computed in batches, kept batch by batch."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ..extras import extra
from ..images import check_preprocessing, color_mode, find_images, image_size, preprocessing_of
from ..model import Model
from .decoding import Decoded, Decoder, as_text, decoded, explained_loss
from .extractor import Extractor, features_of
from .feature_files import open_parts


class Extraction(NamedTuple):
    """What `extract_features` did."""

    images: int  # rows written
    bad: int  # of them, without a vector
    done_before: int  # of them, by an earlier call that was ended
    size: int  # numbers of a vector
    seconds: float


def extract_features(
    model: Model,
    images: str | Sequence[str],
    output: str | os.PathLike[str],
    *,
    layer: str = "block5_pool",
    pooling: str | None = "avg",
    batch_size: int = 32,
    preprocessing: str | None = None,
    exif: bool = False,
    half: bool = False,
    workers: int | None = None,
    ray: str | bool = False,
    force: bool = False,
    progress: bool = False,
) -> Extraction:
    """Writes the vector of each image into a file, a row an image: `path`, `vector`, `error`.

    A bad image has an error and no vector. Finished batches are kept in the folder `OUTPUT.parts` until all are: called again
    after a kill, it goes on where it was.

    Args:
        model: what `VGG16`, `VGG19` or `load_model` made. Images are resized to its size, 224×224 where any will do.
        images: files, folders and globs, see `find_images`.
        output: the file to write, `.parquet` (needs pyarrow), or `.npz`, which is put together in memory.
        layer: whose output.
        pooling: "avg" or "max" over the maps, or None for all numbers of them, in Keras's order `(H, W, C)`.
        batch_size: how many images are computed at once.
        preprocessing: "vgg" for `preprocess_input`, "unit" for [0, 1], "none"; by default what the model needs, unless it was
            trained in another way.
        exif: turn images as their EXIF orientation says.
        half: half precision, on a GPU.
        workers: how many processes decode; by default one for each core, 8 at most; 0 for none but this.
        ray: True to run on a Ray cluster of this machine's own, or a cluster's address. Files need the same names on all nodes.
        force: overwrite `output`.
        progress: show a bar on standard error, where that is a terminal.

    Raises:
        ValueError: an argument isn't one of those above; or there is no GPU for `half`.
        OSError: `output` exists or can't be written, or another process is writing it.
        ImportError: Pillow, pyarrow or Ray isn't installed.
        RuntimeError: a process that decodes was killed, or Ray gave up.
    """
    started = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size: expected a number from 1 up. Received: {batch_size}")
    if half and not ray and not torch.cuda.is_available():
        raise ValueError("half: there is no GPU here, and on a CPU float32 is faster")
    if ray and Path(output).suffix != ".parquet":
        raise ValueError(f"output: with Ray, expected a name that ends in .parquet. Received: {output}")
    features = features_of(model, layer, pooling)
    preprocessing = check_preprocessing(preprocessing or preprocessing_of(model))
    decoder = Decoder(image_size(features), color_mode(features), exif, os.getcwd())  # noqa: PTH109
    extractor = partial(Extractor, features, preprocessing, half)
    job = {
        "weights": _fingerprint(features),
        "layers": [name for name, _ in features.named_children()],
        "images": [*decoder.size, decoder.color_mode, preprocessing, exif],
        "half": half,
    }
    names = {as_text(path): path for path in find_images([images] if isinstance(images, str) else images)}
    with open_parts(Path(output), job, force) as parts:
        done = parts.places().keys() & names.keys()
        left = [path for name, path in names.items() if name not in done]
        batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
        if ray and batches:
            from .ray_job import run_on_ray

            run_on_ray(batches, decoder, extractor, parts.folder, None if ray is True else str(ray), half, progress)
        elif batches:
            compute = extractor()
            with explained_loss():
                for batch in _shown(decoded(batches, decoder, workers), len(names), len(done), progress):
                    parts.add(compute(batch))
        bad = parts.join(list(names))
    return Extraction(len(names), bad, len(done), features.output_shape[1] or 0, time.perf_counter() - started)


def _fingerprint(model: Model) -> int:
    """Tells weights apart."""
    checksum = 0
    for tensor in model.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy(), checksum)
    return checksum


def _shown(batches: Iterable[Decoded], total: int, done: int, progress: bool) -> Iterator[Decoded]:
    """The batches, and a bar with the rate and the time left, where standard error is a terminal."""
    with extra("images"):
        from tqdm import tqdm
    with tqdm(total=total, initial=done, unit=" images", disable=None if progress else True) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.paths))
