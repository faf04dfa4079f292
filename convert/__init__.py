"""Keras's VGG weights as PyTorch weights, without Keras or TensorFlow: read, lay out, write, check. And back.

As a package this is `torchvgg.convert`; in a checkout `python -m convert` runs it. It imports nothing of `torchvgg`, but
for the finished model that the check runs.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report

__all__ = ["convert"]


def convert(
    source: str | os.PathLike[str] = "vgg16",
    output: str | os.PathLike[str] | None = None,
    *,
    layout: str = "torchvgg",
    dtype: str = "float32",
    input_shape: tuple[int, int] | None = None,
    base_only: bool = False,
    activation: str | None = None,
    allow_nonfinite: bool = False,
    check: bool = True,
    force: bool = False,
) -> Report:
    """Converts a Keras file to PyTorch weights, or PyTorch weights to a Keras file.

    Args:
        source: a file, of Keras or of PyTorch; or a published one by its name, "vgg16", "vgg16-notop", "vgg19",
            "vgg19-notop", fetched where it isn't here yet; or "demo", a full-size file of random weights made on the spot.
        output: the file to write, `.safetensors`, `.pt` or `.pth`, or for Keras `.weights.h5` or `.h5`. By default, for a
            published name the place where `weights="imagenet"` looks, for a file the same name beside it with
            `.safetensors`, for "demo" none.
        layout: "torchvgg"; or "torchvision" or "timm", for the names and shapes that their `vgg16` and `vgg19` load.
        dtype: "float32", "float16" or "bfloat16".
        input_shape: `(height, width)` of the images, where the file has a top and the size isn't to be told from it.
        base_only: leave the top, or a head of another kind, out.
        activation: "softmax" or "none", where the file has a top but no architecture, a `state_dict` say. By default softmax is
            assumed, with a warning.
        allow_nonfinite: take NaN and infinity.
        check: read the file again, compare every tensor with its source, and each layer's output with an independent
            channels-last computation from the Keras arrays.
        force: overwrite `output`.

    Raises:
        ValueError: the source isn't a file that is understood, or doesn't fit the arguments, or the check failed.
        OSError: a file can't be read, written or fetched, or the output exists.
    """
    from . import published
    from .errors import told_of
    from .files import scratch_folder
    from .network.from_file import open_source
    from .options import ACTIVATIONS, check_dtype, check_form, check_size, check_target, suffix_of
    from .report import Report
    from .write.checked import write_checked

    started = time.perf_counter()
    check_dtype(dtype)
    check_size(input_shape)
    if activation not in (None, *ACTIVATIONS):
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}. Received: {activation!r}")
    with scratch_folder() as scratch:
        if source == "demo":
            from .demo import write_demo

            path = write_demo(scratch)
            target = Path(output) if output else scratch / "demo.safetensors"
        elif source in published.FILES:
            if output is None and (dtype != "float32" or base_only or layout != "torchvgg"):
                raise ValueError(f"output: name a file; weights='imagenet' trusts {source} to be whole and float32")
            target = Path(output) if output else published.converted_path(str(source))
            check_target(target, force)
            path = published.find(str(source))
        else:
            path = Path(source)
            if not os.path.isfile(path):  # noqa: PTH113  # a name that is too long is none, to Path an error
                names = ", ".join(published.FILES)
                raise FileNotFoundError(f"{str(source)!r}: no such file; expected a Keras file, {names}, or demo")
            target = Path(output) if output else default_output(path)
        check_form(layout, dtype, target)
        check_target(target, force, path)
        hashed = suffix_of(target) == ".safetensors"
        with told_of(path), open_source(path, input_shape, base_only, activation, hashed=hashed) as opened:
            assumed = "" if source == "demo" or source in published.FILES else opened.assumed
            if assumed and hashed and layout == "torchvgg":  # the file will say it of the model
                warnings.warn(f"{path}: {assumed}", stacklevel=2)
            if not allow_nonfinite:
                opened = opened.refusing_nonfinite()
            network, error, worst = write_checked(opened, target, layout, dtype, check)
            kept = output is not None or source != "demo"
            return Report.of(
                network,
                source=str(source),
                output=str(target) if kept else None,
                format=opened.format,
                keras_version=opened.keras_version,
                max_relative_error=error,
                worst_layer=worst,
                assumed=assumed,
                seconds=time.perf_counter() - started,
            )


def default_output(source: Path) -> Path:
    """`my.weights.h5`, `my.h5`, `my.keras` → `my.safetensors`, beside it."""
    from .options import suffix_of

    return source.with_name(f"{source.name.removesuffix(suffix_of(source))}.safetensors")
