"""The command line `torchvgg`, also `python -m torchvgg`: options, help and exit status."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__

DESCRIPTION = (
    "Keras's VGG16 and VGG19 at work: their layers, the classes of images, feature vectors, and where they look."
)
EXAMPLES = """\
examples:
  torchvgg summary --no-top                       layers, shapes and parameters
  torchvgg predict cat.jpg                        the likeliest classes of an image
  torchvgg extract photos/ -o features.parquet    a vector for each image in a folder
  torchvgg show cat.jpg --cam -o cam.png          where the network looks
  torchvgg evaluate val/                          accuracy on a folder with a subfolder for each class
  torchvgg convert my_model.keras                 Keras's weights → PyTorch's

See `torchvgg COMMAND --help` for the options.
"""
SUMMARY = """\
examples:
  torchvgg summary                                     VGG16, with PyTorch's shapes, (N, C, H, W)
  torchvgg summary --no-top --pooling avg --channels-last   with Keras's
  torchvgg summary vgg19 --no-top --input-shape 100,100
  torchvgg summary my_model.keras                      your own model
"""
PREDICT = """\
examples:
  torchvgg predict cat.jpg dog.png
  torchvgg predict photos/ --top 1 --json              JSON, for programs
  torchvgg predict photos/ -o classes.csv              a row for each image and class
  torchvgg predict rose.jpg --weights flowers.keras --labels flowers.txt
"""
EXTRACT = """\
examples:
  torchvgg extract photos/ -o features.parquet         512 numbers per image
  torchvgg extract 'photos/**/*.jpg' -o fc2.npz --layer fc2
  torchvgg extract photos/ -o features.parquet --ray   with Ray Data, on this machine
  torchvgg extract /shared/photos -o /shared/features.parquet --ray 10.0.0.1:6379

An interrupted extraction is resumed. In Python: torchvgg.extract_features.
"""
SHOW = """\
examples:
  torchvgg show cat.jpg --layer block3_conv3 -o maps.png
  torchvgg show cat.jpg --cam -o cam.png               for the likeliest class
  torchvgg show cat.jpg --cam tabby -o tabby.png       for another class, by name or number
  torchvgg show cat.jpg --class tabby -o scores.png    the class's score at each place
  torchvgg show cat.jpg --layer block5_conv3 --cmap gray --dpi 300 -o print.pdf

In Python: torchvgg.plot_maps, torchvgg.plot_cam.
"""
CONVERT = """\
examples:
  torchvgg convert demo                     try everything on random weights, without a network
  torchvgg convert my_model.keras           a model of your own; load_model opens the result
  torchvgg convert trained.safetensors -o vgg16.weights.h5    back to Keras

This is `torchvgg-convert`.
"""


EVALUATE = """\
examples:
  torchvgg evaluate val/                               val/n02123045/1.jpg, val/tabby/1.jpg or val/281/1.jpg
  torchvgg evaluate val/ --resize 256 --crop 224 --interpolation bilinear
  torchvgg evaluate photos/ --labels-csv truth.csv --json
  torchvgg evaluate val/ --weights flowers.keras --labels flowers.txt
  torchvgg evaluate val/ --weights flowers.keras --preprocess each --sample 200
  torchvgg evaluate /shared/val --ray 10.0.0.1:6379

In Python: torchvgg.evaluate and torchvgg.evaluate_each.
"""
READING = """\
The subfolders are named by the class's WordNet id, name or number. Without --labels, as many
subfolders are the classes of a model of your own, in alphabetical order, as for Keras's
image_dataset_from_directory: 0, 1, 10, 2, also if some of these numbers are missing.
"""


def parser() -> argparse.ArgumentParser:
    from .convert.command_line import DESCRIPTION as CONVERSION
    from .convert.command_line import add_options
    from .convert.command_line_errors import Parser

    main = Parser(prog="torchvgg", description=DESCRIPTION, epilog=EXAMPLES)
    main.add_argument("--version", action="version", version=f"torchvgg {__version__}")
    commands = main.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def add_command(name: str, brief: str, description: str, examples: str) -> Any:
        add = commands.add_parser(name, help=brief, description=description, epilog=examples).add_argument
        add("-q", "--quiet", action="store_true", help="print nothing but results and errors")
        return add

    add = add_command("summary", "print the table of layers", "Print the table of layers.", SUMMARY)
    add("weights", metavar="WEIGHTS", nargs="?", default="vgg16", help="vgg16 (the default), vgg19, or a file")
    add("--no-top", dest="include_top", action="store_false", help="without the classifier")
    add("--input-shape", metavar="H,W", type=_input_shape, help="size of the images; or C,H,W")
    add("--pooling", choices=("avg", "max"), help="global pooling at the end, without the top")
    add("--channels-last", action="store_true", help="Keras's shapes, (N, H, W, C)")

    add = add_command("predict", "classify images", "Print the likeliest classes of images.", PREDICT)
    add("images", metavar="IMAGE", nargs="+", help="files, folders or globs")
    _add_model(add)
    add("--top", metavar="N", type=partial(_at_least, 1), default=5, help="number of classes (5)")
    add("--labels", metavar="FILE", type=Path, help="names of the classes, one per line")
    add("--json", action="store_true", help="print one JSON array")
    add("-o", dest="output", metavar="OUTPUT", type=Path, help="write a .json or .csv instead of printing")
    add("--force", action="store_true", help="overwrite OUTPUT")

    description = "Write the features of images to a file: a row for each, with its path, and its vector or an error."
    add = add_command("extract", "write feature vectors of images", description, EXTRACT)
    add("images", metavar="PATH", nargs="+", help="files, folders or globs")
    add("-o", dest="output", type=Path, required=True, help="the file to write, .parquet or .npz")
    _add_model(add)
    add("--layer", default="block5_pool", help="layer whose output is written (block5_pool)")
    add("--pooling", choices=("avg", "max", "none"), default="avg", help="pooling of maps (avg); none flattens them")
    _add_computing(add)
    add("--json", action="store_true", help="print what was done as one JSON object")
    add("--force", action="store_true", help="overwrite OUTPUT")

    description = (
        "Draw the feature maps of a layer, where the network looks for a class (Grad-CAM), or where it sees one."
    )
    add = add_command("show", "draw feature maps or Grad-CAM", description, SHOW)
    add("image", metavar="IMAGE", help="a file")
    add("-o", dest="output", type=Path, required=True, help="the picture to write, as a .png for example")
    _add_model(add)
    add("--layer", help="layer whose maps are drawn (the last convolution)")
    add("--maps", metavar="N", type=partial(_at_least, 1), default=64, help="number of maps at most (64)")
    cam = "draw where the network looks for a class, by name or number; by default the likeliest"
    add("--cam", metavar="CLASS", nargs="?", const="", help=cam)
    at_places = "draw the class's score at each place of the image at twice the model's size (dense evaluation)"
    add("--class", dest="class_name", metavar="CLASS", nargs="?", const="", help=at_places)
    add("--labels", metavar="FILE", type=Path, help="names of the classes, one per line")
    add("--cmap", metavar="NAME", help="colour map of matplotlib (viridis for maps, turbo for --cam)")
    add("--dpi", metavar="N", type=partial(_at_least, 1), default=150, help="dots per inch (150)")
    add("--force", action="store_true", help="overwrite OUTPUT")

    description = f"Print how often a model is right about images, per class and on the whole.\n\n{READING}"
    add = add_command("evaluate", "measure accuracy", description, EVALUATE)
    add("folder", metavar="FOLDER", help="a folder with a subfolder for each class")
    add(
        "--labels-csv",
        metavar="FILE",
        type=Path,
        help="a file of rows PATH,CLASS instead; paths are relative to FOLDER",
    )
    _add_model(add, each=True)
    add("--labels", metavar="FILE", type=Path, help="names of the classes, one per line")
    add("--sample", metavar="N", type=partial(_at_least, 1), help="only N images, evenly from the classes (each: 200)")
    _add_computing(add)
    add("--json", action="store_true", help="print one JSON object, with all confusions")
    add_options(commands.add_parser("convert", help="convert Keras's weights", description=CONVERSION, epilog=CONVERT))
    return main


def _add_model(add: Any, each: bool = False) -> None:
    weights = "a Keras file or a converted one; or published weights: vgg16 (the default), vgg19"
    add("--weights", metavar="FILE", default="vgg16", help=weights)
    preprocess = (
        "what the model was trained with: Keras's preprocess_input, [0, 1], [-1, 1], torchvision's mean and standard deviation, "
        "or RGB in [0, 255] (by default vgg, or none if the model itself preprocesses)"
    )
    choices = ("vgg", "unit", "signed", "torchvision", "none", *(("each",) if each else ()))
    preprocess += "; each tries them all, and some resizings, on a sample" if each else ""
    add("--preprocess", dest="preprocessing", choices=choices, help=preprocess)
    add("--resize", metavar="N|H,W", type=_size, help="resize to a shorter side of N, or to H,W (the model's size)")
    add("--crop", metavar="N|H,W", type=_size, help="then cut out the centre (the model's size)")
    ways = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    add("--interpolation", choices=ways, help="how to resize (nearest, as in Keras)")
    add("--keep-aspect-ratio", action="store_true", help="cut images to the proportions first, as in Keras's load_img")
    add("--exif", action="store_true", help="rotate images by their EXIF orientation")


def _add_computing(add: Any) -> None:
    add("--batch-size", metavar="N", type=partial(_at_least, 1), default=32, help="images computed at once (32)")
    add("--workers", metavar="N", type=partial(_at_least, 0), help="processes that decode (one per core, at most 8)")
    add("--half", action="store_true", help="half precision, on a GPU")
    add("--ray", metavar="ADDRESS", nargs="?", const=True, default=False, help="on Ray: on this machine, or a cluster")


def _size(text: str) -> int | tuple[int, ...]:
    sizes = text.split(",")
    if len(sizes) > 2 or not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"expected a number, or H,W. Received: {text!r}")
    return int(text) if len(sizes) == 1 else tuple(map(int, sizes))


def _input_shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if len(sizes) not in (2, 3) or not all(size.strip().isdecimal() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected H,W or C,H,W. Received: {text!r}")
    return (*((3,) if len(sizes) == 2 else ()), *map(int, sizes))


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a number from {least} up. Received: {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    from .convert import command_line as conversion
    from .convert.command_line_errors import ending_at_once, status_of
    from .convert.progress import note

    with ending_at_once():
        options = parser().parse_args(arguments)
    if options.command == "convert":
        return conversion.run(options)

    def run() -> None:
        note(f"loading {options.weights} …")  # before PyTorch, which takes a second or two to import
        with ending_at_once():
            from . import commands

        getattr(commands, options.command)(options)

    return status_of(run, options.command, options.quiet)
