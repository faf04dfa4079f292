"""Accuracy of a model on labelled images: `evaluate`, and `evaluate_each`, which finds out the preprocessing."""

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .extraction.decoding import Decoded, Decoder, escaped, explained_worker_death
from .extraction.extractor import NOT_FINITE, Extractor, check_half, features_of, rows_here
from .extraction.feature_files import Rows, to_rows
from .image_files import PREPROCESSINGS, Pipeline, image_shape, pipeline_for
from .labelled_images import Class, label_images, sample_evenly
from .model import Model
from .optional_imports import progress_bar, require
from .predicting import check_classes, class_names, gives_probabilities

Images = str | os.PathLike[str] | Mapping[Any, str | int]  # or of paths, str or PathLike, to classes


class ClassAccuracy(NamedTuple):
    """A class, and how many of its images were recognised."""

    number: int
    name: str
    wnid: str | None
    images: int
    right: int

    @property
    def accuracy(self) -> float:
        """The part of the images that is right; NaN without images."""
        return _ratio(self.right, self.images)


class Confusion(NamedTuple):
    """How many images of a class were taken for another."""

    true: int
    predicted: int
    count: int  # type: ignore[assignment]  # tuple has a method of this name


class BadImage(NamedTuple):
    """An image that couldn't be read."""

    image: str
    error: str


class Evaluation(NamedTuple):
    """The result of `evaluate`. Accuracies are of the good images, from 0 to 1; NaN if there are none."""

    images: int
    bad: int
    top1: float
    top5: float  # of fewer classes, all count
    loss: float  # mean cross-entropy
    classes: list[ClassAccuracy]  # all, in the order of the model's output
    confusions: list[Confusion]  # the most frequent first
    errors: list[BadImage]
    seconds: float
    pipeline: Pipeline


def evaluate(
    model: Model,
    images: Images,
    *,
    labels: Sequence[str] | None = None,
    sample: int | None = None,
    preprocessing: str | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
    exif: bool = False,
    batch_size: int = 32,
    half: bool = False,
    workers: int | None = None,
    ray: str | bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measures how often a model is right about images.

    Args:
        model: a model with an output `(N, classes)`; or `(N, 1)` for two classes, of which the second is predicted where a sigmoid's
            output is above 0.5, or a logit above 0.
        images: a folder with a subfolder for each class, or the class of each image by its path. A class is a WordNet id, a name or a
            number. If a model's classes have no names, as many subfolders are its classes in alphabetical order, with a warning;
            0, 1, 10, 2 and so on also if some are missing.
        labels: the names of the classes in the model's order; by default ImageNet's for 1,000 classes.
        sample: evaluate only so many images, evenly from the classes, always the same ones.
        preprocessing: as for `extract_features`; so are the arguments from here to `ray`.
        resize: the size that images are resized to, or their shorter side.
        crop: the size to cut out of the centre afterwards.
        interpolation: how images are resized.
        keep_aspect_ratio: cut images to the proportions of `resize` first.
        exif: rotate images by their EXIF orientation.
        batch_size: images computed at once.
        half: compute in half precision, on a GPU.
        workers: processes or threads that decode.
        ray: True to run on a local Ray cluster, or a cluster's address.
        progress: show a bar on standard error if that is a terminal.

    Returns:
        Top-1 and top-5 accuracy, cross-entropy, each class's accuracy, the confusions, and the images that couldn't be read, which
        count in none of these.

    Raises:
        ValueError: the model's output isn't `(N, classes)` or isn't a number; a class isn't the model's; an argument is invalid.
        OSError: a folder can't be read.
        ImportError: Pillow, tqdm or Ray isn't installed.
        RuntimeError: a process that decodes was killed, or Ray failed.
    """
    pipeline = pipeline_for(model, resize, crop, interpolation, keep_aspect_ratio, exif, preprocessing)
    check_classes(model)
    return _evaluate(model, images, labels, sample, [pipeline], batch_size, half, workers, ray, progress)[0]


def evaluate_each(
    model: Model,
    images: Images,
    *,
    labels: Sequence[str] | None = None,
    sample: int | None = 200,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str | None = None,
    keep_aspect_ratio: bool | None = None,
    exif: bool = False,
    batch_size: int = 32,
    half: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> list[Evaluation]:
    """Evaluates a model with every kind of preprocessing and some ways of resizing, to find out what it was trained with.

    The arguments are those of `evaluate`. The ways of resizing are Keras's default, bilinear, bilinear with `keep_aspect_ratio`, and
    torchvision's (the shorter side, then a crop); if one of the arguments about them is given, it is that way alone.

    Returns:
        An `Evaluation` for each, the best first: by top-1, then top-5, then loss.

    Raises:
        ValueError, OSError, ImportError, RuntimeError: as `evaluate`.
    """
    chosen = {"resize": resize, "crop": crop, "interpolation": interpolation, "keep_aspect_ratio": keep_aspect_ratio}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    base = pipeline_for(model, **chosen, exif=exif, preprocessing="none")  # type: ignore[arg-type]
    check_classes(model)
    bilinear, shorter = base._replace(interpolation="bilinear"), math.ceil(max(base.size) * 256 / 224)
    others = (bilinear, bilinear._replace(keep_aspect_ratio=True), bilinear._replace(resize=shorter, crop=base.size))
    channels = image_shape(model)[1]
    ways = PREPROCESSINGS if channels == 3 else ("vgg", "unit", "signed", "none")[channels != 1 :]
    pipelines = [way._replace(preprocessing=how) for way in (base, *(() if chosen else others)) for how in ways]
    results = _evaluate(model, images, labels, sample, pipelines, batch_size, half, workers, False, progress)
    return sorted(results, key=lambda result: (-result.top1, -result.top5, result.loss))


def _evaluate(
    model: Model,
    images: Images,
    labels: Sequence[str] | None,
    sample: int | None,
    pipelines: Sequence[Pipeline],
    batch_size: int,
    half: bool,
    workers: int | None,
    ray: str | bool,
    progress: bool,
) -> list[Evaluation]:
    """Evaluates a model with several pipelines of images of one size; on Ray, with one."""
    for name, value in (("batch_size", batch_size), ("sample", sample)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a number from 1 up. Received: {value}")
    require("PIL", "tqdm", *(["pyarrow", "ray"] if ray else []))
    check_half(half, ray)
    outputs = model.output_shape[1]
    classes = class_names(max(outputs, 2), labels)
    labelled, classes = label_images(images, classes, are_named=classes[0][0] is not None or labels is not None)
    labelled = sample_evenly(labelled, sample) if sample else labelled
    paths = list(labelled)
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    extractor = partial(Extractor, features_of(model, model.outputs, None, pipelines[0].size), half)
    decoders = [Decoder(pipeline, os.getcwd()) for pipeline in pipelines]  # noqa: PTH109
    is_probability = gives_probabilities(model)
    truth = {escaped(path): label for path, label in labelled.items()}
    results = []
    with _rows(batches, decoders, extractor, outputs, workers, ray, half, progress) as rows:
        for pipeline in pipelines:
            started, tally = time.perf_counter(), _Tally(truth, is_probability)
            while len(tally.seen) < len(truth) and (some := next(rows, None)):
                tally.add(some)
            if len(tally.seen) < len(truth):
                raise OSError(
                    f"ray: the scores of {len(truth) - len(tally.seen)} images are lost; run the same command again"
                )
            results.append(tally.result(classes, pipeline, time.perf_counter() - started))
    return results


@contextmanager
def _rows(
    batches: Sequence[list[str]],
    decoders: Sequence[Decoder],
    extractor: Any,
    outputs: int,
    workers: int | None,
    ray: str | bool,
    half: bool,
    progress: bool,
) -> Iterator[Iterator[Rows]]:
    """Yields the rows of all batches for the first decoder, then for the next; on Ray for the first alone."""
    if ray:
        from .extraction.ray_job import rows_on_ray

        with rows_on_ray(batches, decoders[0], extractor, ray, half, progress) as dataset:
            tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
            yield (to_rows(table, outputs) for table in tables)
        return
    work = [(decoder, batch) for decoder in decoders for batch in batches]
    bar = progress_bar(sum(len(batch) for _, batch in work), 0, " images", progress)
    with explained_worker_death("run the same command again"), bar:
        yield rows_here(work, _decode, extractor(), workers, bar)


def _decode(work: tuple[Decoder, list[str]]) -> Decoded:
    decoder, paths = work
    return decoder(paths)


class _Tally:
    """Counts what a model is right about, batch by batch."""

    def __init__(self, truth: Mapping[str, int], is_probability: bool) -> None:
        self.truth, self.is_probability = truth, is_probability
        self.seen: dict[str, str] = {}  # path → error; Ray may compute a batch twice
        self.pairs: Counter[tuple[int, int]] = Counter()  # true and predicted
        self.top5, self.loss = 0, 0.0

    def add(self, rows: Rows) -> None:
        if NOT_FINITE in rows.error:  # no fault of the image's
            raise ValueError(f"{rows.path[rows.error.index(NOT_FINITE)]}: {NOT_FINITE}")
        new = np.array([path not in self.seen for path in rows.path])
        self.seen.update(zip(rows.path, rows.error, strict=True))
        good = new & np.array([not error for error in rows.error])
        true = np.array([self.truth[path] for path in rows.path])[good]
        scores = rows.vector[good].astype(np.float64)  # (n, classes)
        if scores.shape[1] == 1:  # the second of two classes, as a probability or a logit
            scores = np.concatenate([1 - scores if self.is_probability else 0 * scores, scores], 1)
        if not len(scores):
            return
        each = np.arange(len(scores))
        own = scores[each, true][:, None]
        # Of equal scores, the first class's is the highest, as for argmax.
        places = (scores > own).sum(1) + ((scores == own) & (np.arange(scores.shape[1]) < true[:, None])).sum(1)
        self.pairs.update(zip(true.tolist(), scores.argmax(1).tolist(), strict=True))
        self.top5 += int((places < 5).sum())
        if self.is_probability:
            logs = np.log((scores[each, true] / scores.sum(1).clip(1e-7)).clip(1e-7, 1 - 1e-7))  # cut off as in Keras
        else:
            scores -= scores.max(1, keepdims=True)
            logs = scores[each, true] - np.log(np.exp(scores).sum(1))
        self.loss -= float(logs.sum())

    def result(self, classes: Sequence[Class], pipeline: Pipeline, seconds: float) -> Evaluation:
        errors = [BadImage(path, self.seen[path]) for path in self.truth if self.seen[path]]
        images = Counter(label for path, label in self.truth.items() if not self.seen[path])
        rows = [
            ClassAccuracy(number, name, wnid, images[number], self.pairs[number, number])
            for number, (wnid, name) in enumerate(classes)
        ]
        wrong = [Confusion(*pair, count) for pair, count in self.pairs.items() if pair[0] != pair[1]]
        wrong.sort(key=lambda confusion: (-confusion.count, confusion))
        good, right = images.total(), sum(row.right for row in rows)
        shares = _ratio(right, good), _ratio(self.top5, good), _ratio(self.loss, good)
        return Evaluation(len(self.truth), len(errors), *shares, rows, wrong, errors, seconds, pipeline)


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def report(result: Evaluation, classes: int = 20, confusions: int = 10) -> Iterable[str]:
    """Formats an evaluation as lines: classes, the most frequent confusions, totals. Of many classes, the least accurate."""
    from .convert.errors import printable

    def name(number: int) -> str:
        row = result.classes[number]
        return printable(f"{row.name} ({row.wnid})" if row.wnid else row.name)

    seen = [row for row in result.classes if row.images]
    shown = seen if len(seen) <= classes else sorted(seen, key=lambda row: row.accuracy)[:classes]
    yield f"accuracy   right  images  {'class' if shown is seen else f'the {classes} least accurate of {len(seen):,} classes'}"
    yield from (f"{row.accuracy:8.1%}  {row.right:6,}  {row.images:6,}  {name(row.number)}" for row in shown)
    if result.confusions:
        yield "taken for another, most often:"
        for true, predicted, count in result.confusions[:confusions]:
            yield f"  {count:6,}  {name(true)} → {name(predicted)}"
    top5 = f", top-5 {result.top5:.2%}" if len(result.classes) > 5 else ""
    yield f"top-1 {result.top1:.2%}{top5}, loss {result.loss:.4f}"
    speed = result.images / result.seconds
    yield f"{result.images:,} images, {result.bad:,} of them bad, in {result.seconds:.1f} s, {speed:.1f} images/s"


def table(results: Sequence[Evaluation]) -> Iterable[str]:
    """Formats evaluations as lines, with the options that make their pipelines; of equal ones that differ in resizing, the first."""
    different: dict[Any, Evaluation] = {}
    for result in results:
        different.setdefault((result.pipeline.preprocessing, result.loss, *map(tuple, result.confusions)), result)
    has_top5 = len(results[0].classes) > 5
    yield f"   top-1  {'   top-5  ' if has_top5 else ''}    loss  options"
    for result in different.values():
        top5 = f"{result.top5:8.2%}  " if has_top5 else ""
        yield f"{result.top1:8.2%}  {top5}{result.loss:8.4f}  {result.pipeline.options()}"
    yield f"{results[0].images:,} images each, {results[0].bad:,} of them bad"
    if same := len(results) - len(different):
        yield f"{same} more give the same as a row with the same --preprocess: there resizing makes no difference"


def as_json(result: Evaluation) -> dict[str, Any]:
    """Returns an evaluation as JSON has it: null for a share of no images."""
    return _without_nan(
        result._asdict()
        | {
            "classes": [row._asdict() | {"accuracy": row.accuracy} for row in result.classes],
            "confusions": [row._asdict() for row in result.confusions],
            "errors": [row._asdict() for row in result.errors],
            "pipeline": result.pipeline._asdict(),
            "images_per_second": result.images / result.seconds,
        }
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
