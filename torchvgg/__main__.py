"""The command line: `torchvgg`, or `python -m torchvgg`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

DESCRIPTION = "A day's work with images and a VGG16 of Keras's: what it is like, what it sees, and its features."
EXAMPLES = """\
examples:
  torchvgg summary --no-top                       the layers, their shapes and parameters
  torchvgg predict cat.jpg                        what is on an image
  torchvgg extract photos/ -o features.parquet    a vector for each image of a folder
  torchvgg show cat.jpg --cam -o cam.png          where the network looks

`torchvgg COMMAND --help` tells more. `torchvgg-convert` makes the weights.
"""
SUMMARY = """\
examples:
  torchvgg summary                                     VGG16, as PyTorch sees it: (N, C, H, W)
  torchvgg summary --no-top --pooling avg --channels-last   as Keras prints it
  torchvgg summary vgg19 --no-top --input-shape 100,100
  torchvgg summary my_model.keras                      a model of your own
"""
PREDICT = """\
examples:
  torchvgg predict cat.jpg dog.png
  torchvgg predict photos/ --top 1 --json              for programs
  torchvgg predict rose.jpg --weights flowers.keras --labels flowers.txt
"""
EXTRACT = """\
examples:
  torchvgg extract photos/ -o features.parquet         512 numbers an image
  torchvgg extract 'photos/**/*.jpg' -o fc2.npz --layer fc2
  torchvgg extract photos/ -o features.parquet --ray   by Ray Data, on this machine
  torchvgg extract /shared/photos -o /shared/features.parquet --ray 10.0.0.1:6379

Killed and started again, it goes on where it was. In Python: torchvgg.extract_features.
"""
SHOW = """\
examples:
  torchvgg show cat.jpg --layer block3_conv3 -o maps.png
  torchvgg show cat.jpg --cam -o cam.png               for the likeliest class
  torchvgg show cat.jpg --cam tabby -o tabby.png       for another one, by its name or number
"""


def parser() -> argparse.ArgumentParser:
    from .convert.command_line import Parser

    main = Parser(prog="torchvgg", description=DESCRIPTION, epilog=EXAMPLES)
    commands = main.add_subparsers(metavar="COMMAND", required=True, dest="command")
    _add_summary(commands)
    _add_predict(commands)
    _add_extract(commands)
    _add_show(commands)
    return main


def _command(commands: Any, name: str, brief: str, description: str, examples: str) -> Any:
    """Adds a command; returns what adds its arguments."""
    return commands.add_parser(name, help=brief, description=description, epilog=examples).add_argument


def _add_summary(commands: Any) -> None:
    add = _command(commands, "summary", "print the table of layers", "Print the table of layers.", SUMMARY)
    add("weights", metavar="WEIGHTS", nargs="?", default="vgg16", help="vgg16 (the default), vgg19, or a file")
    add("--no-top", dest="include_top", action="store_false", help="without the classifier")
    add("--input-shape", metavar="H,W", type=_shape, help="of the images; or C,H,W")
    add("--pooling", choices=("avg", "max"), help="after the last layer, without the top")
    add("--channels-last", action="store_true", help="shapes as Keras shows them")


def _add_predict(commands: Any) -> None:
    description = "Print the likeliest classes of images."
    add = _command(commands, "predict", "name what is on images", description, PREDICT)
    add("images", metavar="IMAGE", nargs="+", help="files, folders or globs")
    _add_model(add)
    add("--top", metavar="N", type=_positive, default=5, help="how many classes (5)")
    add("--labels", metavar="FILE", type=Path, help="the names of the classes, a line each")
    add("--json", action="store_true", help="print one JSON array")


def _add_extract(commands: Any) -> None:
    description = (
        "Write the features of images into a file: a row for each, with its path, its vector, or what was wrong."
    )
    add = _command(commands, "extract", "write features of images", description, EXTRACT)
    add("images", metavar="PATH", nargs="+", help="files, folders or globs")
    add("-o", dest="output", metavar="OUTPUT", type=Path, required=True, help="the file to write, .parquet or .npz")
    _add_model(add)
    add("--layer", default="block5_pool", help="whose output (block5_pool)")
    add("--pooling", choices=("avg", "max", "none"), default="avg", help="of maps (avg); none: all their numbers")
    add("--batch-size", metavar="N", type=_positive, default=32, help="images computed at once (32)")
    add("--workers", metavar="N", type=_whole, help="processes that decode (one for each core, 8 at most)")
    add("--half", action="store_true", help="half precision, on a GPU")
    add("--ray", metavar="ADDRESS", nargs="?", const=True, default=False, help="on Ray: here, or a cluster's address")
    add("--force", action="store_true", help="overwrite OUTPUT")


def _add_show(commands: Any) -> None:
    description = "Draw the maps of a layer, or where the network looks for a class (Grad-CAM)."
    add = _command(commands, "show", "draw what the network sees", description, SHOW)
    add("image", metavar="IMAGE", help="a file")
    add("-o", dest="output", metavar="OUTPUT", type=Path, required=True, help="the picture to write, .png say")
    _add_model(add)
    add("--layer", help="whose maps (the last convolution's)")
    add("--maps", metavar="N", type=_positive, default=64, help="how many maps at most (64)")
    add(
        "--cam",
        metavar="CLASS",
        nargs="?",
        const="",
        help="where it looks: for a class, by name or number, or the likeliest",
    )
    add("--labels", metavar="FILE", type=Path, help="the names of the classes, a line each")
    add("--force", action="store_true", help="overwrite OUTPUT")


def _add_model(add: Any) -> None:
    add(
        "--weights",
        metavar="FILE",
        default="vgg16",
        help="a file of Keras's or ours; or vgg16 (the default), vgg19: the published ones",
    )
    add(
        "--preprocess",
        choices=("vgg", "unit", "none"),
        help="as the model was trained: Keras's preprocess_input, [0, 1], or RGB in [0, 255] (by default vgg, "
        "or none where the model's first layer does it)",
    )
    add("--exif", action="store_true", help="turn images as their EXIF orientation says")


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(map(int, text.split(",")))
    return (3, *sizes) if len(sizes) == 2 else sizes


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _whole(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError
    return number


# argparse puts these into its messages
_shape.__name__, _positive.__name__, _whole.__name__ = "H,W", "number from 1 up", "number from 0 up"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    from .convert.command_line import status_of

    options = parser().parse_args(arguments)

    def run() -> None:
        getattr(import_module(".commands", __package__), options.command)(options)

    return status_of(run, options.command)


if __name__ == "__main__":
    sys.exit(main())
