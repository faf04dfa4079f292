"""The commands of `torchvgg`: each calls the library and prints the result."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from . import evaluation
from .extraction.feature_files import FORMATS
from .extraction.features import extract_features
from .gradcam import HEAD, grad_cam, last_convolution
from .image_files import Pipeline, find_images, pipeline_for
from .labelled_images import read_csv
from .loading import PUBLISHED, open_model
from .plots import draw_cam, draw_maps
from .predicting import Score, by_name, gives_probabilities, likeliest, scores_of
from .weights import TOP

warnings.filterwarnings("ignore", module="PIL")  # load_image raises what matters

BAR_WIDTH = 20  # characters
IN_TOP = ("flatten", *TOP)


def summary(options: argparse.Namespace) -> None:
    architecture = {"include_top": options.include_top, "input_shape": options.input_shape, "pooling": options.pooling}
    if options.weights in PUBLISHED:
        with torch.device("meta"):  # the table needs no weights
            model: Any = PUBLISHED[options.weights](weights=None, **architecture)
    elif architecture != {"include_top": True, "input_shape": None, "pooling": None}:
        raise ValueError(f"{options.weights}: the file defines the model; drop --no-top, --input-shape and --pooling")
    else:
        model = open_model(options.weights)
    model.summary(data_format="channels_last" if options.channels_last else "channels_first")


def predict(options: argparse.Namespace) -> None:
    from .convert.errors import message_of, printable

    images, names = find_images(options.images), _read_lines(options.labels)
    model = open_model(options.weights)
    pipeline = pipeline_for(model, **_choices(options))
    results: list[dict[str, Any]] = []
    errors = []
    for path in images:
        try:
            x = pipeline.load(path)
        except (ValueError, OSError) as error:
            errors.append(message_of(error))
            results.append({"image": path, "error": errors[-1]})
            if not options.json and len(images) > 1:
                print(printable(path), f"  {errors[-1]}", sep="\n")
            continue
        scores = likeliest(scores_of(model, x, names), options.top)
        if options.json:
            results.append({"image": path, "predictions": [score._asdict() for score in scores]})
        else:
            print(printable(path), *(_row(score, gives_probabilities(model)) for score in scores), sep="\n")
    if options.json:
        print(json.dumps(results))
    if errors and len(images) == 1:
        raise ValueError(errors[0])
    _report_bad(len(errors), len(images), "see the error printed for each")


def extract(options: argparse.Namespace) -> None:
    from .convert.atomic_files import check_output

    check_output(options.output, list(FORMATS), options.force)
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
        progress=True,
    )
    new = done.images - done.done_before
    print(f"{done.images:,} images, {done.bad:,} of them bad, {done.size:,} numbers each → {options.output}")
    before = f", {done.done_before:,} were done before" if done.done_before else ""
    print(f"{new:,} in {done.seconds:.1f} s, {new / done.seconds:.1f} images/s{before}")
    _report_bad(done.bad, done.images, f"{options.output} has an error for each")


def _report_bad(bad: int, images: int, where: str) -> None:
    """Prints how many images were bad on standard error. Raises a ValueError if all were."""
    if bad == images:
        raise ValueError(f"none of the {images:,} images is good; {where}")
    if bad:
        print(f"{bad:,} of {images:,} images are bad; {where}", file=sys.stderr)


def show(options: argparse.Namespace) -> None:
    from .convert.atomic_files import check_output

    if options.output.exists() and options.output.samefile(options.image):
        raise ValueError(f"output: {options.output} is the image itself; name another file")
    check_output(options.output, [options.output.suffix], options.force)  # matplotlib knows what it can write
    model = open_model(options.weights, include_top=options.cam is not None or options.layer in IN_TOP)
    pipeline = pipeline_for(model, **_choices(options))
    x, image = pipeline.load(options.image), pipeline._replace(color_mode="rgb").read(options.image)
    layer = options.layer or last_convolution(model, before=0 if options.cam is None else HEAD)
    if options.cam is None:
        with torch.no_grad():
            maps = model.extract(x, [layer])[layer]
        if maps.dim() != 4:
            raise ValueError(f"{layer}: its output is {tuple(maps.shape)}, no maps; name a layer before the head")
        draw_maps(image, maps[0], layer, options.output, options.maps)
        return
    scores = scores_of(model, x, _read_lines(options.labels))
    number, name, _, score = by_name(scores, options.cam) if options.cam else likeliest(scores, 1)[0]
    (cam,) = grad_cam(model, x, torch.tensor([number]), layer)
    draw_cam(image, cam, f"{name} ({score:.1%}), {layer}", options.output)


def evaluate(options: argparse.Namespace) -> None:
    settings = {name: getattr(options, name) for name in ("sample", "batch_size", "half", "workers", "ray")}
    settings |= _choices(options) | {"labels": _read_lines(options.labels), "progress": True}
    images = read_csv(options.labels_csv, options.folder) if options.labels_csv else options.folder
    if options.preprocessing == "each":
        if settings.pop("ray"):
            raise ValueError("each: a sample is evaluated on this machine; drop --ray")
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
    errors = [f"{bad.image}: {bad.error}" for bad in results[0].errors[:1]]
    _report_bad(results[0].bad, results[0].images, f"for example {''.join(errors)}")


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `pipeline_for` among the options that were given."""
    return {name: value for name, value in vars(options).items() if name in Pipeline._fields and value}


def _read_lines(path: Path | None) -> list[str] | None:
    if not path:
        return None
    try:
        return path.read_text("utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected names in UTF-8, a line each ({error})") from None


def _row(score: Score, is_probability: bool) -> str:
    """Formats a class with its score, as a percentage with a bar if that is a probability."""
    name = f"{score.name} ({score.wnid})" if score.wnid else score.name
    if not is_probability:
        return f"  {score.score:8.3f}  {name}"
    eighths = round(8 * BAR_WIDTH * score.score)
    bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return f"  {score.score:6.1%}  {bar:<{BAR_WIDTH}}  {name}"
