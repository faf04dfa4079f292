"""Converts Keras's VGG weights to PyTorch, without Keras or TensorFlow, and back: `convert`, and its `command_line`.

`read` opens a file, `network` makes a network of it, `write` writes that, `check` compares the result with the source.
`published` finds or fetches (`download`) Keras's files, `demo` makes one; `report` says what was done. `vgg_blocks` is the
table of VGG16 and VGG19, `layout` has each change of an array's axes, `array` the interface of an array, `options` the values
of options. `atomic_files` (whole files or none, locks), `errors`, `command_line_errors` and `progress` serve all of torchvgg, and
`version` is its own. The package
is `torchvgg.convert`; in a checkout `python -m convert` runs it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import KERAS_SUFFIXES, SUFFIXES, check_form, check_options, suffix_of

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
    lambdas: Mapping[str, str] | None = None,
    architecture: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
    check: bool = True,
    force: bool = False,
) -> Report:
    """Converts a Keras file to PyTorch weights, or PyTorch weights to a Keras file.

    Args:
        source: a Keras, ONNX or PyTorch file; or a published file by its name, "vgg16", "vgg16-notop", "vgg19" or "vgg19-notop",
            fetched if need be; or "demo", a full-size file of random weights, made on the spot.
        output: the file to write, `.safetensors`, `.pt` or `.pth`, or for Keras `.weights.h5` or `.h5`. By default, for a
            published name the place where `weights="imagenet"` looks, for a file the same name beside it with
            `.safetensors`, for "demo" none.
        layout: "torchvgg"; or "torchvision" or "timm", for the names and shapes that their `vgg16` and `vgg19` load.
        dtype: "float32", "float16" or "bfloat16".
        input_shape: `(height, width)` of the images, if the file has a top and doesn't say it.
        base_only: leave out the top, or another head.
        activation: "softmax" or "none", if the file has a top but no architecture, as a `state_dict`. By default softmax is
            assumed, with a warning.
        lambdas: what Lambda layers do, by their names: "preprocess_input", "l2_normalize", "resize:H,W" or "identity".
        architecture: the model that weights saved alone are for: a file of `model.to_json()` or `to_yaml()`, another Keras file of
            the model, or the dict of `to_json` or `get_config`. Layers whose names differ are matched by their order, as in Keras.
        allow_nonfinite: accept NaN and infinity.
        check: read the written file, compare every tensor with its source, and each layer's output with an independent
            channels-last computation from the Keras arrays.
        force: overwrite `output`.

    Returns:
        What was converted and how large the errors are.

    Raises:
        ValueError: the source can't be converted, or doesn't fit the arguments, or the check failed.
        OSError: a file can't be read, written or fetched, or the output exists.
    """
    from . import published
    from .atomic_files import check_output, scratch_folder
    from .demo import write_demo
    from .errors import UsageError, naming_file
    from .network.from_file import open_source
    from .read.file_kind import exists
    from .report import Report
    from .write.write_checked import write_checked

    started = time.perf_counter()
    check_options(dtype, input_shape, activation)
    build: Any = None
    if check:
        from torchvgg.loading import build  # the one place where the conversion meets the model
    is_published = source in published.FILES
    with scratch_folder() as scratch:
        path = Path(source)
        if source == "demo":
            target = scratch / "demo.safetensors"
        elif is_published:
            if output is None and (dtype != "float32" or base_only or layout != "torchvgg"):
                raise UsageError(f"output: name a file; weights='imagenet' trusts {source} to be whole and float32")
            target = published.converted_path(str(source))
        else:
            if not exists(source):
                names = ", ".join(published.FILES)
                raise FileNotFoundError(f"{str(source)!r}: no such file; expected a Keras file, {names}, or demo")
            target = default_output(path)
        target = Path(output) if output else target
        _check_distinct(target, path)
        check_form(layout, dtype, target)
        advice = "set TORCHVGG_HOME to another folder" if is_published and not output else "name another output"
        check_output(target, SUFFIXES, force, advice)  # before anything is fetched
        if source == "demo":
            path = write_demo(scratch)
        elif is_published:
            _check_distinct(target, path := published.find(str(source)))
        opening = open_source(
            path, input_shape, base_only, activation, custom_objects=lambdas, architecture=architecture
        )
        with naming_file(path), opening as opened:
            if is_published:
                opened = opened._replace(published_md5=published.FILES[str(source)].md5)
            assumed = "" if source == "demo" or is_published else opened.assumed
            if assumed and suffix_of(target) == ".safetensors" and layout == "torchvgg":  # which keeps it as a fact
                warnings.warn(f"{path}: {assumed}", stacklevel=2)
            if opened.warning:
                warnings.warn(f"{path}: {opened.warning}", stacklevel=2)
            if not allow_nonfinite:
                opened = opened.refusing_nonfinite()
            network, error, worst = write_checked(opened, target, layout, dtype, build)
            return Report.of(
                network,
                layout,
                suffix_of(target) in KERAS_SUFFIXES,
                source=str(source),
                output=None if output is None and source == "demo" else str(target),
                format=opened.format,
                keras_version=opened.keras_version,
                max_relative_error=error,
                worst_layer=worst,
                assumed=assumed,
                seconds=time.perf_counter() - started,
            )


def _check_distinct(target: Path, source: Path) -> None:
    if target.exists() and os.path.exists(source) and target.samefile(source):  # noqa: PTH110  # of any length
        raise ValueError(f"output: {target} is the input itself; name another file")


def default_output(source: Path) -> Path:
    """Names the output beside a file or folder: `my.weights.h5`, `my.h5`, `my.keras`, `my/` → `my.safetensors`."""
    from .read.file_kind import checkpoint_prefix

    source = source.resolve() if source.name in ("", "..") else source
    is_whole = source.is_dir() or checkpoint_prefix(source) == source  # its name has no suffix
    name = source.name if is_whole else source.name.removesuffix(suffix_of(source))
    return source.with_name(f"{name}.safetensors")
