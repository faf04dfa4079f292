"""Opens a file of any kind and makes a network of it: Keras's, with an architecture or without, ONNX's, or PyTorch's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import naming_file
from ..layout import CONV2D_KERNEL, TURNED_KERNEL
from ..options import ACTIVATIONS
from ..read.architecture_file import Architecture, read_architecture
from ..read.file_kind import FileKind, file_kind, files_of
from ..read.keras_file import KerasFile, open_keras_file
from ..read.onnx_file import read_onnx_file
from ..read.strict_json import LONGEST_VERSION
from ..read.torch_file import TorchFile, read_torch_file
from .from_keras_model import network_of_keras_model
from .from_keras_weights import vgg_of_arrays
from .from_onnx import network_of_onnx_file
from .from_tensors import network_of_torch_file, preprocessing_of
from .kernel_parts import whole_kernels
from .network import Network
from .unfolding import CustomObjects
from .vgg_architecture import CONVOLUTION_NAME
from .vgg_base import as_plain_vgg, base_of, base_of_keras_file


class Source(NamedTuple):
    """An open file and the network in it.

    Attributes:
        network: its arrays can be read while the file is open.
        format: the kind of file, for the report.
        keras_version: of the Keras that wrote it, or "unknown".
        path: the file.
        stamp: what changes when the file does.
        assumed: a sentence on what the file doesn't say; "" if it says everything.
        warning: a sentence on the preprocessing, if the weights may be torchvision's or timm's own; else "".
        published_md5: of a file that Keras publishes, checked when it was found or fetched; else None.
    """

    network: Network
    format: str
    keras_version: str
    path: Path
    stamp: list[tuple[int, ...]]
    assumed: str
    warning: str = ""
    published_md5: str | None = None

    def refusing_nonfinite(self) -> Source:
        """Copies the source with weights that allow no NaN and no infinity."""
        layers = [
            replace(layer, weights=[replace(weight, allows_nonfinite=False) for weight in layer.weights])
            for layer in self.network.layers
        ]
        return self._replace(network=replace(self.network, layers=layers))

    def check_unchanged(self) -> None:
        """Raises a ValueError if the file has changed since it was opened."""
        if _stamp(self.path) != self.stamp:
            raise ValueError(f"{self.path}: changed while it was read; retry when nothing writes to it")


def _stamp(path: Path) -> list[tuple[int, ...]]:
    found = [file.stat() for file in files_of(path)]
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


@contextmanager
def open_source(
    path: Path,
    input_shape: tuple[int, int] | None,
    base_only: bool,
    activation: str | None = None,
    weights_only: bool = False,
    custom_objects: CustomObjects | None = None,
    architecture: Architecture | None = None,
) -> Iterator[Source]:
    """Opens a file of a kind that is read. Its arrays can be read while it is open.

    Args:
        path: the file.
        input_shape: `(height, width)` of the images, if the file has a VGG's top and doesn't say it.
        base_only: leave out a head.
        activation: "softmax" or "none", of a VGG's top in a file without an architecture; None assumes softmax, or sigmoid for one unit.
        weights_only: of a whole Keras model, take only the weights, which have to be a VGG's.
        custom_objects: what stands for Lambdas and custom layers of a whole Keras model.
        architecture: of weights that stand alone, or in the place of the file's own.

    Raises:
        ValueError: no network can be made of it; the message says why.
        OSError: it can't be read.
        ImportError: the architecture is YAML, and PyYAML isn't installed.
    """
    stamp, kind = _stamp(path), file_kind(path)
    if architecture is not None and (kind is FileKind.ONNX or not kind.is_keras):
        raise ValueError(f"architecture: it goes with weights that Keras saved, and {path} is no such file; drop it")
    if kind is FileKind.ONNX:
        onnx_file = read_onnx_file(path)
        with naming_file(path):
            way = "--base-only, or include_top=False"
            network = _or_advice(partial(network_of_onnx_file, onnx_file), base_only, way)
            if weights_only and not base_only:
                network = as_plain_vgg(network, "weights=, unlike load_model,")
            network, assumed = _with_activation(network, activation, input_shape, is_in_file=True)
        yield Source(network, "ONNX", "unknown", path, stamp, assumed)
        return
    if not kind.is_keras:
        file = read_torch_file(path)
        with naming_file(path):
            network = _or_advice(partial(_network_of_torch_file, file, input_shape), base_only, "--base-only")
            network, assumed = _with_activation(network, activation, input_shape, file.architecture is not None)
        keras_version = file.metadata.get("keras_version", "unknown")[:LONGEST_VERSION]
        yield Source(network, path.suffix, keras_version, path, stamp, assumed, preprocessing_of(file))
        return
    described = None if architecture is None else read_architecture(architecture)
    with open_keras_file(path) as keras_file:
        with naming_file(path):
            if described:
                keras_file = keras_file.with_architecture(*described)
            make = partial(_network_of_keras_file, keras_file, input_shape, custom_objects)
            network = _or_advice(make, base_only, "--base-only, or include_top=False")
            if weights_only and not base_only and keras_file.config is not None:
                network = as_plain_vgg(network, "weights=, unlike load_model,")
            network, assumed = _with_activation(network, activation, input_shape, keras_file.config is not None)
        yield Source(network, keras_file.format, keras_file.keras_version, path, stamp, assumed)


def _check_order(keras_file: KerasFile, base_only: bool) -> None:
    """Raises a ValueError unless layers with Keras's names or numbers come in that order, and none is missing.

    Keras itself only looks at the order; so if a name contradicts it, one of them is wrong.
    """
    blocks = [layer.name for layer in keras_file.layers if CONVOLUTION_NAME.fullmatch(layer.name)]
    if blocks != sorted(blocks):
        raise ValueError(f"layers in another order than their names say: {', '.join(blocks)}")
    if keras_file.in_order:
        return
    numbered: dict[str, set[int]] = defaultdict(set)
    for layer in keras_file.layers:
        if match := re.fullmatch(r"(.*layers/(?:conv2d|dense))(?:_([1-9][0-9]*))?", layer.name):
            numbered[match[1]].add(int(match[2] or 0))
        elif not base_only and any(len(array.shape) == 4 for array in layer.arrays):
            advice = "other weights need their model's architecture, --architecture model.json"
            raise ValueError(
                f"the weights of no VGG16 or VGG19: {layer.name}, a kernel that isn't a conv2d's; {advice}"
            )
    for place, numbers in numbered.items():
        if numbers != set(range(len(numbers))):
            received = ", ".join(map(str, sorted(numbers)))
            raise ValueError(f"{place}: expected layers numbered from 0 on. Received: {received}")


def _network_of_torch_file(file: TorchFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    network = network_of_torch_file(file, input_shape, base_only)
    return base_of(network) if base_only else network


def _network_of_keras_file(
    file: KerasFile, input_shape: tuple[int, int] | None, custom_objects: CustomObjects | None, base_only: bool
) -> Network:
    if file.config is not None and not base_only:
        return network_of_keras_model(file, file.config, custom_objects)
    _check_order(file, base_only)
    if base_only:
        return base_of_keras_file(file)
    whole = (array for layer in file.layers for array in whole_kernels(layer.arrays))
    arrays = [array for array in whole if array.dtype.is_floating_point]
    kernels = TURNED_KERNEL if file.turned else CONV2D_KERNEL
    return vgg_of_arrays(arrays, input_shape, base_only, kernels, in_order=file.in_order)


def _or_advice(make: Callable[[bool], Network], base_only: bool, way: str) -> Network:
    """Makes a network; an error says if the VGG in it can be converted alone, and the way."""
    try:
        return make(base_only)
    except ValueError as error:
        if base_only or "--base-only" in str(error):
            raise
        try:
            name = make(True).name
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; the {name} in it can be converted alone: {way}") from None


def _with_activation(
    network: Network, activation: str | None, input_shape: tuple[int, int] | None, is_in_file: bool
) -> tuple[Network, str]:
    """Gives the top the activation that the user named, or the likeliest; returns also a sentence on what had to be assumed.

    Raises a ValueError if the user named one, and the activation `is_in_file`, or there is no top.
    """
    if is_in_file or not network.layers or network.layers[-1].class_name != "Dense":
        if activation is not None:
            reason = "the file says which it is" if is_in_file else "there is no top, and so no activation"
            raise ValueError(f"activation: {reason}; drop the option")
        return network, ""
    *layers, last = network.layers
    likely = "sigmoid" if last.settings["units"] == 1 else "softmax"  # which would make 1 of any single number
    last = replace(last, settings=last.settings | {"activation": ACTIVATIONS[activation] if activation else likely})
    network = replace(network, layers=[*layers, last])
    end = f"{likely} at its end (--activation none or classifier_activation=None gives logits)"
    assumed = [end] if activation is None else []
    if input_shape is None:
        height, width, _ = network.input_shape
        order = "channels-last " if network.kernels is TURNED_KERNEL else ""
        assumed.append(f"{order}images of {height}×{width} (--input-shape)")
    taken = f"the file has no architecture: taken for Keras's own top, with {' and '.join(assumed)}"
    return network, taken if assumed else ""
