"""`extract_features`: decodes images in worker processes, computes their vectors in batches, writes them to a file."""

import os
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ..image_files import find_images, pipeline_for
from ..model import Model
from ..optional_imports import progress_bar, require
from .decoding import Decoder, escaped, explained_worker_death
from .extractor import Extractor, check_half, features_of, rows_here
from .feature_files import open_parts


class Extraction(NamedTuple):
    """The result of `extract_features`."""

    images: int  # rows written
    bad: int  # of these, without a vector
    done_before: int  # of these, by an earlier, interrupted call
    size: int  # length of a vector
    seconds: float


def extract_features(
    model: Model,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    layer: str = "block5_pool",
    pooling: str | None = "avg",
    batch_size: int = 32,
    preprocessing: str | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    exif: bool = False,
    half: bool = False,
    workers: int | None = None,
    ray: str | bool = False,
    force: bool = False,
    progress: bool = False,
) -> Extraction:
    """Writes the vector of each image to a file, with a row per image: `path`, `vector`, `error`.

    A bad image has an error and no vector, and so has one whose vector has NaN or infinity in it. Finished batches are kept in the
    folder `OUTPUT.parts` until all are done; called again after an interruption, the extraction is resumed.

    Args:
        model: a model from `VGG16`, `VGG19` or `load_model`. Images are resized to its size, or to 224×224 if that is open.
        images: files, folders and globs, see `find_images`.
        output: the file to write, `.parquet` (needs pyarrow) or `.npz`, which is joined in memory.
        layer: the layer whose output is written.
        pooling: "avg" or "max" over the maps, or None for the flattened maps, in Keras's order `(H, W, C)`.
        batch_size: images computed at once.
        preprocessing: "vgg" for `preprocess_input`, "unit" for [0, 1], "signed" for [-1, 1], "torchvision" for its mean and
            standard deviation, or "none"; must match the model's training. By default "none" for a model that
            preprocesses or doesn't take RGB images, else "vgg".
        resize: the size that images are resized to, `(height, width)`, or a number for the shorter side; by default the model's.
        crop: `(height, width)`, or a number for both, to cut out of the centre afterwards; by default the model's size.
        interpolation: how they are resized, see `load_image`.
        keep_aspect_ratio: cut images to the proportions of `resize` first, as in Keras.
        exif: rotate images by their EXIF orientation.
        half: compute in half precision, on a GPU.
        workers: processes that decode, or threads where processes aren't forked, as on Windows and macOS; by default one per core, at
            most 8; 0 decodes in this process.
        ray: True to run on a local Ray cluster, or a cluster's address. Files need the same paths on all nodes.
        force: overwrite `output`.
        progress: show a bar on standard error if that is a terminal, or in a notebook.

    Raises:
        ValueError: an argument is invalid, or there is no GPU for `half`.
        OSError: `output` exists or can't be written, or another process is writing it.
        ImportError: Pillow, pyarrow or Ray isn't installed.
        RuntimeError: a process that decodes was killed, or Ray failed.
    """
    from ..convert.errors import UsageError

    started = time.perf_counter()
    require(*packages_of(output, ray))
    if batch_size < 1:
        raise ValueError(f"batch_size: expected a number from 1 up. Received: {batch_size}")
    check_half(half, ray)
    if ray and Path(output).suffix != ".parquet":
        raise UsageError(f"output: with Ray, expected a name that ends in .parquet. Received: {output}")
    pipeline = pipeline_for(model, resize, crop, interpolation, keep_aspect_ratio, exif, preprocessing)
    features = features_of(model, layer, pooling, pipeline.size)
    size = features.output_shape[1] or 0
    decoder = Decoder(pipeline, os.getcwd())  # noqa: PTH109
    extractor = partial(Extractor, features, half)
    job = {
        "weights": _fingerprint(features),
        "layers": [[node.name, node.layer, *node.inputs] for node in features.nodes],
        "images": str(pipeline),
        "half": half,
    }
    names = {escaped(path): path for path in find_images([images] if isinstance(images, str | os.PathLike) else images)}
    if not all(map(os.path.isabs, names)):
        job["folder"] = decoder.folder  # the same names in another folder are other images
    with open_parts(Path(output), size, job, force) as parts:
        left = parts.unfinished(names)
        done = len(names) - len(left)
        batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
        if ray and batches:
            from .ray_job import rows_on_ray

            with rows_on_ray(batches, decoder, extractor, ray, half, progress) as rows:
                rows.write_parquet(str(parts.folder.absolute()))
        elif batches:
            compute = extractor()
            with explained_worker_death(), progress_bar(len(names), done, " images", progress) as bar:
                for rows in rows_here(batches, decoder, compute, workers, bar):
                    parts.add(rows)
        bad = parts.join(list(names))
    return Extraction(len(names), bad, done, size, time.perf_counter() - started)


def packages_of(output: str | os.PathLike[str], ray: str | bool) -> list[str]:
    """Lists the optional packages that an extraction needs."""
    return ["PIL", "tqdm", *(["pyarrow"] if Path(output).suffix == ".parquet" else []), *(["ray"] if ray else [])]


def _fingerprint(model: Model) -> int:
    """Computes a checksum of all weights."""
    checksum = 0
    for tensor in model.state_dict().values():
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy(), checksum)
    return checksum
