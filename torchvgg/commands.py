"""The commands of `torchvgg`: each calls the library and prints the result."""

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import evaluation
from .dense_evaluation import FullyConvolutional, dense
from .extraction.feature_files import FORMATS
from .extraction.features import extract_features, packages_of
from .gradcam import HEAD, grad_cam, last_convolution
from .image_files import Pipeline, find_images, load_for, pipeline_for, read_pixels
from .imagenet import warn
from .labelled_images import read_csv
from .layers.shared import pair
from .loading import PUBLISHED, open_model
from .model import Model
from .optional_imports import require
from .plots import picture_suffixes, plot_cam, plot_maps, save_picture
from .predicting import Score, both_classes, by_name, gives_probabilities, likeliest, named, scores_of
from .weights import TOP

warnings.filterwarnings("ignore", module="PIL")  # load_image raises what matters

BAR_WIDTH = 20  # characters
IN_TOP = ("flatten", *TOP)


def summary(options: argparse.Namespace) -> None:
    from .convert.errors import UsageError

    architecture = {"include_top": options.include_top, "input_shape": options.input_shape, "pooling": options.pooling}
    if options.weights in PUBLISHED:
        with torch.device("meta"):  # the table needs no weights
            model: Any = PUBLISHED[options.weights](weights=None, **architecture)
    elif architecture != {"include_top": True, "input_shape": None, "pooling": None}:
        raise UsageError(f"{options.weights}: the file defines the model; drop --no-top, --input-shape and --pooling")
    else:
        model = open_model(options.weights)
    model.summary(data_format="channels_last" if options.channels_last else "channels_first")


def predict(options: argparse.Namespace) -> None:
    from .convert.atomic_files import check_output
    from .convert.errors import message_of, printable

    if options.output:
        check_output(options.output, [".json", ".csv"], options.force)
    require("PIL")
    images, names = find_images(options.images), _read_lines(options.labels)
    model = open_model(options.weights)
    pipeline = pipeline_for(model, **_choices(options))
    results: list[dict[str, Any]] = []
    errors = []
    is_printed = not (options.json or options.output)
    for path in images:
        try:
            x = pipeline.load(path)
        except (ValueError, OSError) as error:
            errors.append(message_of(error))
            results.append({"image": path, "error": errors[-1]})
            if is_printed and len(images) > 1:
                print(printable(path), f"  {errors[-1]}", sep="\n")
            continue
        scores = likeliest(scores_of(model, x, names), options.top)
        results.append({"image": path, "predictions": [score._asdict() for score in scores]})
        if is_printed:
            print(printable(path), *(_row(score, gives_probabilities(model)) for score in scores), sep="\n")
    if options.output:
        _write_predictions(results, options.output)
        if not (options.quiet or options.json):
            print(f"{_counted(len(images), 'image')}, {len(errors):,} of them bad → {printable(str(options.output))}")
    if options.json:
        print(json.dumps(results))
    if errors and len(images) == 1:
        raise ValueError(errors[0])
    where = f"{options.output} has the error" if options.output else "see the error printed"
    _report_bad(len(errors), len(images), f"{where} for each")


def _write_predictions(results: list[dict[str, Any]], output: Path) -> None:
    """Writes what `--json` prints, or a row for each image and class, the likeliest first."""
    from .convert.atomic_files import writing

    with (
        writing(output) as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,  # as `escaped`
    ):
        if output.suffix == ".json":
            json.dump(results, stream)
            return
        rows = csv.DictWriter(stream, ("image", *Score._fields, "error"))
        rows.writeheader()
        for result in results:
            others = {key: value for key, value in result.items() if key != "predictions"}
            rows.writerows(others | score for score in result.get("predictions", [{}]))


def extract(options: argparse.Namespace) -> None:
    from .convert.atomic_files import check_output
    from .convert.errors import printable

    check_output(options.output, list(FORMATS), options.force)
    require(*packages_of(options.output, options.ray))
    images = find_images(options.images)
    model = open_model(options.weights, include_top=options.layer in IN_TOP)
    done = extract_features(
        model,
        images,
        options.output,
        layer=options.layer,
        pooling=None if options.pooling == "none" else options.pooling,
        batch_size=options.batch_size,
        **_choices(options),
        half=options.half,
        workers=options.workers,
        ray=options.ray,
        force=options.force,
        progress=not options.quiet,
    )
    new = done.images - done.done_before
    if options.json:
        print(json.dumps({"output": str(options.output)} | done._asdict()))
    elif not options.quiet:
        images_done = _counted(done.images, "image")
        print(f"{images_done}, {done.bad:,} of them bad, {done.size:,} numbers each → {printable(str(options.output))}")
        before = f", {done.done_before:,} were done before" if done.done_before else ""
        print(f"{new:,} in {done.seconds:.1f} s, {new / done.seconds:.1f} images/s{before}")
    _report_bad(done.bad, done.images, f"{options.output} has the error for each")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _report_bad(bad: int, images: int, where: str) -> None:
    """Prints how many images were bad on standard error. Raises a ValueError if all were."""
    from .convert.errors import printable

    if bad == images:
        raise ValueError(f"{f'none of the {images:,} images is good' if images > 1 else 'the image is bad'}; {where}")
    if bad:
        print(f"{bad:,} of {images:,} images {'is' if bad == 1 else 'are'} bad; {printable(where)}", file=sys.stderr)


def show(options: argparse.Namespace) -> None:
    from .convert.atomic_files import check_output
    from .convert.errors import UsageError, printable

    if options.output.exists() and options.output.samefile(options.image):
        raise ValueError(f"output: {options.output} is the image itself; name another file")
    require("matplotlib", "PIL")
    check_output(options.output, picture_suffixes(), options.force)
    of_class = options.class_name is not None
    if of_class and (options.cam is not None or options.layer):
        raise UsageError("--class draws the class's own scores; drop --cam and --layer")
    if of_class and (options.resize or options.crop or options.keep_aspect_ratio):
        raise UsageError("--class chooses the image's size itself; drop --resize, --crop and --keep-aspect-ratio")
    model = open_model(options.weights, include_top=of_class or options.cam is not None or options.layer in IN_TOP)
    title = printable(Path(options.image).name)
    if of_class:
        _draw_scores(model, options, title)
        return
    pipeline = pipeline_for(model, **_choices(options))
    x, is_whole = pipeline.load(options.image), not (pipeline.crop or pipeline.keep_aspect_ratio)
    # What the model sees, but sharp.
    drawn = pipeline._replace(color_mode="rgb", resize=None if is_whole else pipeline.resize)
    image = drawn.read(options.image)
    layer = options.layer or last_convolution(model, before=0 if options.cam is None else HEAD)
    if options.cam is None:
        with torch.no_grad():
            maps = model.extract(x, [layer])[layer]
        if maps.dim() != 4:
            raise ValueError(f"{layer}: its output is {tuple(maps.shape)}, no maps; name a layer before the head")
        figure = plot_maps(maps, image, f"{title}, {layer}", options.cmap or "viridis", options.maps)
        save_picture(figure, options.output, options.dpi)
        return
    scores = scores_of(model, x, _read_lines(options.labels))
    number, name, _, score = by_name(scores, options.cam) if options.cam else likeliest(scores, 1)[0]
    (cam,) = grad_cam(model, x, torch.tensor([number]), layer)
    if not cam.any():
        warn(f"{layer}: nothing in it speaks for {name}, so the map is 0 everywhere; try another layer, or --class")
    shown = f"{score:.1%}" if gives_probabilities(model) else f"{score:.3f}"
    figure = plot_cam(cam, image, f"{title}: {name} ({shown}), {layer}", options.cmap or "turbo")
    save_picture(figure, options.output, options.dpi)


def _draw_scores(model: Model, options: argparse.Namespace, title: str) -> None:
    """Draws a class's scores over the image, each where its window has its middle."""
    twin = dense(model)
    image = read_pixels(options.image, None, exif=options.exif)
    height, width = _dense_size(twin, image.shape)
    with torch.no_grad():
        (maps,) = twin(load_for(twin, options.image, **_choices(options), resize=(height, width)))
    maps = both_classes(twin, maps)
    scores = named(maps.mean((1, 2)), _read_lines(options.labels))
    number, name, _, score = by_name(scores, options.class_name) if options.class_name else likeliest(scores, 1)[0]
    places = maps[number]
    title = f"{title}: {name}, {score:.3g} on average, {places.max():.3g} at most"
    label = "score"
    if not gives_probabilities(twin):
        label = "score, from the least to the largest"
        places = (places - places.min()) / (places.max() - places.min()).clamp_min(torch.finfo(places.dtype).tiny)
    rows, columns = twin.window
    # A window around these would leave the image.
    borders = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
    places = F.pad(places[None], borders, mode="replicate")[0]
    save_picture(plot_cam(places, image, title, options.cmap or "turbo", label), options.output, options.dpi)


def _dense_size(twin: FullyConvolutional, shape: Sequence[int]) -> list[int]:
    """Returns the `(height, width)`, in whole places, at which an image `(H, W, C)` is twice as large as the model's or larger.

    It has the image's proportions, up to 1:4.
    """
    pairs = list(zip(shape[:2], pair(twin.min_size), strict=True))
    factor = 2 * max(own / size for size, own in pairs)
    return [32 * round(min(factor * size, 8 * own) / 32) for size, own in pairs]


def evaluate(options: argparse.Namespace) -> None:
    from .convert.errors import UsageError, printable

    settings = {name: getattr(options, name) for name in ("sample", "batch_size", "half", "workers", "ray")}
    settings |= _choices(options) | {"labels": _read_lines(options.labels), "progress": not options.quiet}
    images = read_csv(options.labels_csv, options.folder) if options.labels_csv else options.folder
    if options.preprocessing == "each":
        if settings.pop("ray"):
            raise UsageError("each: a sample is evaluated on this machine; drop --ray")
        del settings["preprocessing"]
        settings["sample"] = options.sample or 200
        results = evaluation.evaluate_each(open_model(options.weights), images, **settings)
        printed: Any = [evaluation.as_json(each) for each in results]
        lines = evaluation.table(results)
    else:
        results = [evaluation.evaluate(open_model(options.weights), images, **settings)]
        printed, lines = evaluation.as_json(results[0]), evaluation.report(results[0])
    if options.json:
        print(json.dumps(printed))
    elif results[0].bad < results[0].images:
        print(*lines, sep="\n")
    errors = [printable(f"{bad.image}: {bad.error}") for bad in results[0].errors[:1]]
    _report_bad(results[0].bad, results[0].images, f"for example {''.join(errors)}")


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `pipeline_for` among the options that were given."""
    return {name: value for name, value in vars(options).items() if name in Pipeline._fields and value}


def _read_lines(path: Path | None) -> list[str] | None:
    from .convert.errors import check_no_device

    if not path:
        return None
    check_no_device(path)
    try:
        return path.read_text("utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected names in UTF-8, a line each ({error})") from None


def _row(score: Score, is_probability: bool) -> str:
    """Formats a class with its score, as a percentage with a bar if that is a probability."""
    from .convert.errors import printable

    name = printable(f"{score.name} ({score.wnid})" if score.wnid else score.name)
    if not is_probability:
        return f"  {score.score:8.3f}  {name}"
    eighths = round(8 * BAR_WIDTH * score.score)
    bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return f"  {score.score:6.1%}  {bar:<{BAR_WIDTH}}  {name}"
