"""A file → the network in it, whoever wrote it: Keras, with an architecture or without, or PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .chain import Described, read_chain
from .graph import LayerError
from .keras_file import KerasArray, KerasFile, open_keras_file
from .kinds import Spec
from .network import Array, Network, assemble
from .tensors import network_of_torch_file
from .torch_file import is_torch_file, read_torch_file
from .vgg import vgg_of_arrays


class Source(NamedTuple):
    """A file's network, the kind of file, and the version of the Keras that it comes from."""

    network: Network
    format: str
    keras_version: str


@contextmanager
def open_source(
    path: Path, input_shape: tuple[int, int] | None, base_only: bool, weights_only: bool = False
) -> Iterator[Source]:
    """Opens a file that Keras or `convert` wrote, told by its content. Its arrays can be read while it is open.

    Args:
        path: the file.
        input_shape: `(height, width)` of the images, where the file has a VGG's top and doesn't tell.
        base_only: leave a head aside.
        weights_only: take a whole Keras model for no more than its weights, a VGG's.

    Raises:
        ValueError: it holds no network that is understood; the message says where it goes wrong.
        OSError: it can't be read.
    """
    try:
        if is_torch_file(path):
            file = read_torch_file(path)
            network = network_of_torch_file(file, input_shape, base_only)
            yield Source(network, path.suffix, file.metadata.get("keras_version", "unknown"))
            return
        with open_keras_file(path) as keras_file:
            if keras_file.config is None or base_only or weights_only:
                arrays = [array for array in keras_file.arrays if array.is_floating]
                network = vgg_of_arrays(arrays, input_shape, base_only)
            else:
                network = network_of_whole_model(keras_file, keras_file.config)
            yield Source(network, keras_file.format, keras_file.keras_version)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None


def network_of_whole_model(keras_file: KerasFile, config: Mapping[str, Any]) -> Network:
    """The network of a Keras file with an architecture.

    Raises:
        ValueError: the architecture can't be converted, or an array is missing, left over, or not the layer's own.
    """
    try:
        chain = read_chain(config)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"a configuration that Keras doesn't write ({error!r})") from None
    left = {layer.name: list(layer.arrays) for layer in keras_file.layers}

    def take(described: Described, specs: list[Spec]) -> Iterable[Array]:
        key = described.path[0] if keras_file.is_named else described.place
        nested = keras_file.is_named and len(described.path) > 1
        there = left.get(key, [])
        own = _owned(there, described.path) if nested else there
        if len(own) != len(specs):
            expected = ", ".join(f"{spec.name} {spec.shape}" for spec in specs) or "none"
            received = ", ".join(f"{array.name} {array.shape}" for array in own) or "none"
            reason = f"expected the arrays {expected}. Received: {received}"
            raise LayerError(described.path[-1], described.class_name, reason)
        left[key] = [array for array in there if array not in own]
        return own

    network = assemble(chain, take, keras_file.keras_version)
    places = {layer.path[0] if keras_file.is_named else layer.place for layer in chain.layers}
    for key in places & left.keys():
        if surplus := [array.name for array in left[key] if array.is_floating]:
            raise ValueError(f"arrays that belong to no layer: {', '.join(surplus[:3])}")
    return network


def _owned(arrays: list[KerasArray], path: tuple[str, ...]) -> list[KerasArray]:
    """The arrays of a nested model's layer, told by their names, since Keras puts what is frozen last.

    Two layers of one name, in two nested models, are told apart by the name of the model, where the file has it.
    """
    own = [array for array in arrays if array.owner == path[-1]]
    return [array for array in own if f"{'/'.join(path[-2:])}/" in f"/{array.name}"] or own
