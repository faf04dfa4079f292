"""The command line of the conversion: `python -m convert` in a checkout, `torchvgg-convert` once installed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import convert
from .atomic_files import check_suffix
from .command_line_errors import Parser, Version, ending_at_once, status_of
from .options import ACTIVATIONS, DTYPES, NAMING_SCHEMES, SUFFIXES
from .progress import note

DESCRIPTION = "Convert Keras models and weights of a VGG16 or VGG19 to PyTorch, or back, and check the result."
EXAMPLES = """\
examples:
  torchvgg-convert demo                      try everything on random weights, without a network
  torchvgg-convert                           the published VGG16, to where weights="imagenet" looks for it
  torchvgg-convert my_model.keras            a model of your own, its head included; load_model opens the result
  torchvgg-convert my.weights.h5 -o my.pt    weights of your own
  torchvgg-convert trained.safetensors -o vgg16.weights.h5    back to Keras
"""


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition(",")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 32):
        raise argparse.ArgumentTypeError(f"expected H,W, two numbers from 32 up. Received: {text!r}")
    return int(height), int(width)


class _Lambdas(argparse.Action):
    """Collects `NAME=WHAT`, which may be given several times, in a dict."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, text: Any, *_: object) -> None:
        name, equals, what = text.partition("=")
        if not (name and equals and what):
            parser.error(f"argument --lambda: expected NAME=WHAT. Received: {text!r}")
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), name: what})


def _output(text: str) -> Path:
    try:
        check_suffix(Path(text), SUFFIXES)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="torchvgg-convert", description=DESCRIPTION, epilog=EXAMPLES)
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a conversion, those of `torchvgg-convert` and of `torchvgg convert`."""
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        nargs="?",
        default="vgg16",
        help="a Keras file or folder, a PyTorch file, or vgg16 (the default), vgg16-notop, vgg19, vgg19-notop: the published ImageNet weights; "
        "or demo: a full-size file of random weights",
    )
    add(
        "-o",
        dest="output",
        metavar="OUTPUT",
        type=_output,
        help="the file to write: .safetensors, .pt or .pth, or for Keras .weights.h5 or .h5",
    )
    add("--layout", choices=NAMING_SCHEMES, default="torchvgg", help="whose model loads the file: its names and shapes")
    add("--dtype", choices=DTYPES, default="float32", help="the type of the numbers written")
    add("--input-shape", metavar="H,W", type=_size, help="the size of the images, if the file doesn't say it")
    add("--base-only", action="store_true", help="leave out the dense layers, or another head")
    add("--activation", choices=tuple(ACTIVATIONS), help="of the top, if the file doesn't say it (softmax)")
    add(
        "--lambda",
        dest="lambdas",
        metavar="NAME=WHAT",
        action=_Lambdas,
        help="what a Lambda does: preprocess_input, l2_normalize, resize:H,W or identity",
    )
    add(
        "--architecture",
        metavar="FILE",
        type=Path,
        help="of weights saved alone: model.to_json(), or a Keras file of the model",
    )
    add("--allow-nonfinite", action="store_true", help="convert NaN and infinity too")
    add("--no-check", dest="check", action="store_false", help="don't check what was written")
    add("--force", action="store_true", help="overwrite OUTPUT")
    add("--json", action="store_true", help="print the report as one JSON object")
    add("-q", "--quiet", action="store_true", help="print nothing but errors, and the JSON")
    add("--version", action=Version, help="print the version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    with ending_at_once():
        options = parser().parse_args(arguments)
    return run(options)


def run(namespace: argparse.Namespace) -> int:
    """Converts as the options of `add_options` say; returns the exit status."""
    options = {key: value for key, value in vars(namespace).items() if key != "command"}
    as_json, quiet = options.pop("json"), options.pop("quiet")

    def action() -> None:
        note(f"converting {options['source']} …")
        with ending_at_once():
            from .write import write_checked  # noqa: F401  # with PyTorch and all else that `convert` imports
        report = convert(**options)
        if as_json or not quiet:
            print(report.to_json() if as_json else report.to_text())

    return status_of(action, options["source"], quiet)
