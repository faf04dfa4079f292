"""A network → a file, in any of the forms that can be written, checked before it gets its name."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..check import check_output, check_work
from ..errors import explained_failure
from ..files import writing
from ..network.from_file import Source
from ..network.from_keras_weights import vgg_of_arrays
from ..network.network import Network
from ..network.vgg_base import as_plain_vgg
from ..options import KERAS_SUFFIXES, suffix_of
from ..read.keras_file import open_keras_file
from ..read.torch_file import read_torch_file
from .keras import write_keras
from .naming_schemes import check_house, from_house
from .pytorch import metadata, tensors_on_disk, write_pickle, write_safetensors


def write_checked(
    source: Source, target: Path, layout: str, dtype: str, check: bool
) -> tuple[Network, float | None, str | None]:
    """Writes `target`, whole or not at all.

    Args:
        source: the open file.
        target: the file to write; its suffix says in which form.
        layout: "torchvgg", or another house's.
        dtype: of the numbers written.
        check: whether the file is read again and checked.

    Returns:
        The network as it was written, the largest relative error of any layer, and where it is: None if unchecked.

    Raises:
        ValueError: the network can't be written in that form, or the check failed.
        OSError: the file can't be written.
    """
    network = source.network
    suffix = suffix_of(target)
    if suffix in KERAS_SUFFIXES:
        network = as_plain_vgg(network, f"{suffix}, the way back,")
    elif layout != "torchvgg":
        network = as_plain_vgg(network, f"--layout {layout}")
        check_house(network, layout)
    if check:
        check_work(network)
    with writing(target) as unfinished:
        with explained_failure(target.parent):
            if suffix in KERAS_SUFFIXES:
                write_keras(network, unfinished, suffix, dtype)
            elif suffix == ".safetensors":
                ours = metadata(network, source.path, source.keras_version, layout)
                write_safetensors(network, unfinished, layout, dtype, ours, source.md5)
            else:
                write_pickle(network, unfinished, layout, dtype)
        error, worst = None, None
        if check:
            with explained_failure(target.parent):
                written = _read_back(unfinished, suffix, network, layout, dtype)
            error, worst = check_output(network, written, dtype)
        source.check_unchanged()
    return network, error, worst


def _read_back(path: Path, suffix: str, network: Network, layout: str, dtype: str) -> dict[str, Tensor]:
    """The tensors of the written file under our names, by the way that any reader takes."""
    if suffix not in KERAS_SUFFIXES:
        return from_house(read_torch_file(path).tensors, network, layout)
    height, width, _ = network.input_shape
    with open_keras_file(path) as keras_file:
        size = (height, width) if height and width else None
        written = vgg_of_arrays(keras_file.arrays, size, base_only=False)
        return tensors_on_disk(written, path.with_name("back"), dtype)
