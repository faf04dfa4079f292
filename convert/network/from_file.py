"""A file → the network in it, whoever wrote it: Keras, with an architecture or without, or PyTorch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import told_of
from ..files import md5, md5_meanwhile
from ..layout import CONV2D_KERNEL, TURNED_KERNEL
from ..options import ACTIVATIONS
from ..read.keras_file import KerasFile, open_keras_file
from ..read.strict_json import LONGEST_VERSION
from ..read.torch_file import TorchFile, is_torch_file, read_torch_file
from .from_keras_model import network_of_keras_model
from .from_keras_weights import vgg_of_arrays
from .from_tensors import network_of_torch_file
from .network import Network
from .vgg_base import as_plain_vgg, base_of, base_of_keras_file


class Source(NamedTuple):
    """A file's network, the kind of file, the version of the Keras that it comes from, and what the file didn't say.

    `md5` waits for the file's MD5 and returns it.
    """

    network: Network
    format: str
    keras_version: str
    path: Path
    stamp: tuple[int, ...]
    md5: Callable[[], str]
    assumed: str = ""

    def refusing_nonfinite(self) -> Source:
        """The same, with weights that allow no NaN and no infinity."""
        return self._replace(network=self.network.refusing_nonfinite())

    def check_unchanged(self) -> None:
        """Raises a ValueError if the file isn't what it was when it was opened."""
        if _stamp(self.path) != self.stamp:
            raise ValueError(f"{self.path}: changed while it was read; run it again when it is at rest")


@contextmanager
def open_source(
    path: Path,
    input_shape: tuple[int, int] | None,
    base_only: bool,
    activation: str | None = None,
    weights_only: bool = False,
    hashed: bool = False,
) -> Iterator[Source]:
    """Opens a file that Keras or `convert` wrote, told by its content. Its arrays can be read while it is open.

    Args:
        path: the file.
        input_shape: `(height, width)` of the images, where the file has a VGG's top and doesn't tell.
        base_only: leave a head aside.
        activation: "softmax" or "none", of a VGG's top in a file without an architecture; None assumes softmax.
        weights_only: take a whole Keras model for no more than its weights, a VGG's.
        hashed: the MD5 will be wanted: it is computed from now on, in a thread of its own.

    Raises:
        ValueError: it holds no network that is understood; the message says where it goes wrong.
        OSError: it can't be read.
    """
    stamp = _stamp(path)
    with md5_meanwhile(path) if hashed else nullcontext(lambda: md5(path)) as digest:
        if is_torch_file(path):
            with told_of(path):
                file = read_torch_file(path)
                network = _network_of_torch_file(file, input_shape, base_only)
                network, assumed = _with_activation(network, activation, input_shape, file.architecture is not None)
            keras_version = file.metadata.get("keras_version", "unknown")[:LONGEST_VERSION]
            yield Source(network, path.suffix, keras_version, path, stamp, digest, assumed)
            return
        with open_keras_file(path) as keras_file:
            with told_of(path):
                network = _network_of(keras_file, input_shape, base_only, weights_only)
                is_told = keras_file.config is not None
                network, assumed = _with_activation(network, activation, input_shape, is_told)
            yield Source(network, keras_file.format, keras_file.keras_version, path, stamp, digest, assumed)


def _check_order(keras_file: KerasFile, base_only: bool) -> None:
    """Raises a ValueError unless layers that have Keras's names, or numbers, lie in their order, and none is missing.

    Keras goes by order alone; so where a name contradicts it, one of them is wrong.
    """
    blocks = [match[0] for layer in keras_file.layers if (match := re.fullmatch(r"block\d_conv\d", layer.name))]
    if blocks != sorted(blocks):
        raise ValueError(f"layers in another order than their names say: {', '.join(blocks)}")
    if keras_file.is_named:
        return
    numbered: dict[str, set[int]] = defaultdict(set)
    for layer in keras_file.layers:
        match = re.fullmatch(r"(.*layers/(?:conv2d|dense))(?:_([1-9][0-9]*))?", layer.name)
        if match:
            numbered[match[1]].add(int(match[2] or 0))
        elif not base_only and any(len(array.shape) == 4 for array in layer.arrays):
            raise ValueError(f"{layer.name}: a kernel in a layer that Keras doesn't call conv2d")
    for place, numbers in numbered.items():
        if numbers != set(range(len(numbers))):
            raise ValueError(
                f"{place}: expected layers numbered from 0 on. Received: {', '.join(map(str, sorted(numbers)))}"
            )


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _network_of_torch_file(file: TorchFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """The network of a file that PyTorch wrote."""
    if base_only:
        return base_of(network_of_torch_file(file, input_shape, base_only))
    with _advised(lambda: _network_of_torch_file(file, input_shape, base_only=True)):
        return network_of_torch_file(file, input_shape, base_only)


def _network_of(
    keras_file: KerasFile, input_shape: tuple[int, int] | None, base_only: bool, weights_only: bool
) -> Network:
    """The network of a Keras file."""
    if base_only:
        _check_order(keras_file, base_only)
        return base_of_keras_file(keras_file)
    with _advised(lambda: _network_of(keras_file, input_shape, base_only=True, weights_only=False)):
        if keras_file.config is None:
            _check_order(keras_file, base_only)
            arrays = [array for array in keras_file.arrays if array.dtype.is_floating_point]
            kernels = TURNED_KERNEL if keras_file.turned else CONV2D_KERNEL
            return vgg_of_arrays(arrays, input_shape, base_only, kernels, in_order=keras_file.is_named)
        network = network_of_keras_model(keras_file, keras_file.config)
    return as_plain_vgg(network, "weights=") if weights_only else network


@contextmanager
def _advised(base: Callable[[], Network]) -> Iterator[None]:
    """Adds to what is wrong with a network that the VGG in it can be had alone, if it can."""
    try:
        yield
    except ValueError as error:
        try:
            name = base().name
        except ValueError:
            raise error from None
        advice = f"the {name} in it alone can be had: --base-only, or include_top=False"
        raise ValueError(f"{error}; {advice}") from None


def _with_activation(
    network: Network, activation: str | None, input_shape: tuple[int, int] | None, is_told: bool
) -> tuple[Network, str]:
    """A network with the activation that the user says its top has, and a sentence on what had to be assumed.

    Raises:
        ValueError: the file says it itself (`is_told`), or there is no top.
    """
    *layers, last = network.layers
    if is_told or last.class_name != "Dense":
        if activation is not None:
            reason = "the file says which it is" if is_told else "there is no top, and so no activation"
            raise ValueError(f"activation: {reason}; drop the option")
        return network, ""
    layers.append(replace(last, settings=last.settings | {"activation": ACTIVATIONS[activation or "softmax"]}))
    network = replace(network, layers=layers)
    assumed = ["softmax at its end (--activation none gives logits)"] if activation is None else []
    if input_shape is None:
        height, width, _ = network.input_shape
        order = "channels-last " if network.kernels is TURNED_KERNEL else ""
        assumed.append(f"{order}images of {height}×{width} (--input-shape)")
    if not assumed:
        return network, ""
    return network, f"the file has no architecture: taken for Keras's own top, with {' and '.join(assumed)}"
