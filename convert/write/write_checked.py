"""Writes a network in any form that can be written, and checks the file before it gets its name."""

from pathlib import Path

from torch import Tensor

from ..atomic_files import writing
from ..check import Build, check_conversion, check_work
from ..errors import explaining_failed_write
from ..network.from_file import Source
from ..network.naming_schemes import check_scheme, from_scheme
from ..network.network import Network
from ..network.vgg_base import as_plain_vgg
from ..options import KERAS_SUFFIXES, suffix_of
from ..read.keras_file import open_keras_file
from ..read.torch_file import read_torch_file
from .keras import arrays_of_file, for_keras, write_keras
from .pytorch import metadata, tensors_on_disk, write_pickle, write_safetensors


def write_checked(
    source: Source, output: Path, naming_scheme: str, dtype: str, build: Build | None
) -> tuple[Network, float | None, str | None]:
    """Writes the network of an open file to `output`, whole or not at all, in the form of its suffix.

    `build` makes the model for the check; None leaves the check out.

    Returns:
        The network as it was written; the largest relative error of any layer, and that layer; None and None if unchecked.

    Raises:
        ValueError: the network can't be written in that form, or the check failed.
        OSError: the file can't be written.
    """
    network = source.network
    suffix = suffix_of(output)
    if suffix in KERAS_SUFFIXES:
        network = for_keras(network, suffix)
    elif naming_scheme != "torchvgg":
        network = as_plain_vgg(network, f"--layout {naming_scheme}")
        check_scheme(network, naming_scheme)
    if build:
        check_work(network)
    with writing(output) as unfinished:
        with explaining_failed_write(output.parent):
            if suffix in KERAS_SUFFIXES:
                write_keras(network, unfinished, suffix, dtype)
            elif suffix == ".safetensors":
                write_safetensors(network, unfinished, naming_scheme, dtype, metadata(network, source, naming_scheme))
            else:
                write_pickle(network, unfinished, naming_scheme, dtype)
        error, worst = None, None
        if build:
            with explaining_failed_write(output.parent):
                written = _read_back(unfinished, suffix, network, naming_scheme, dtype)
            error, worst = check_conversion(network, written, dtype, build)
            del written  # mapped from the file, which Windows wouldn't rename
        source.check_unchanged()
    return network, error, worst


def _read_back(path: Path, suffix: str, network: Network, naming_scheme: str, dtype: str) -> dict[str, Tensor]:
    """Reads the tensors of the written file as any reader does, and returns them under our own names."""
    if suffix not in KERAS_SUFFIXES:
        return from_scheme(read_torch_file(path).tensors, network.name, naming_scheme)
    with open_keras_file(path) as keras_file:
        return tensors_on_disk(arrays_of_file(network, keras_file, suffix), path.with_name("back"), dtype)
