"""`extract_features` on a Ray cluster: the same batches, decoded and computed by Ray Data."""

from __future__ import annotations

import logging
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..optional_imports import require
from .decoding import usable_cores
from .feature_files import to_table

if TYPE_CHECKING:
    import pyarrow

    from .decoding import Decoder
    from .extractor import Extractor


class _Actor:
    """Runs an `Extractor` in a Ray process that uses all cores of its node, or one GPU."""

    def __init__(self, extractor: Any) -> None:
        import ray

        torch.set_num_threads(usable_cores())  # Ray sets the number of cores that it reserves
        self.extractor: Extractor = ray.get(extractor)()

    def __call__(self, batch: dict[str, Any]) -> pyarrow.Table:
        (decoded,) = batch["batch"]
        return to_table(self.extractor(pickle.loads(decoded)))


@contextmanager
def rows_on_ray(
    batches: Sequence[list[str]],
    decoder: Decoder,
    extractor: Callable[[], Extractor],
    address: str | bool,
    half: bool,
    progress: bool,
) -> Iterator[Any]:
    """Yields a Dataset with the rows of the batches, in any order, which is computed where it is read.

    Batches are not regrouped, so the vectors are bit for bit those of a local run. If a worker is killed, Ray computes its
    batches again.

    Args:
        batches: the paths of images, the same on all nodes.
        decoder: reads a batch.
        extractor: makes the `Extractor`, in each process that computes.
        address: the cluster's `host:port`; True starts one on this machine. A process already in a cluster stays in it.
        half: the extractor computes in half precision, so the cluster must have GPUs.
        progress: let Ray show its bars.

    Raises:
        ValueError: the address isn't `host:port`, or there is no GPU for `half`.
        OSError: there is no cluster at the address.
        RuntimeError: Ray failed.
    """
    require("ray", "pyarrow")
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if not ray.is_initialized():
        if address is not True:
            _check_reachable(str(address))
        ray.init(
            address="local" if address is True else str(address), log_to_driver=False, logging_level=logging.WARNING
        )
    DataContext.get_current().enable_progress_bars = progress and sys.stderr.isatty()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if half and not gpus:
        raise ValueError("half: there is no GPU in the cluster, and on a CPU float32 is faster")
    model = ray.put(extractor)  # in Ray's store: other users may be able to replace a pickle in a file

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        return {"batch": pickle.dumps(decoder(list(row["paths"])))}

    rows = ray.data.from_items([{"paths": batch} for batch in batches], override_num_blocks=len(batches))
    vectors = rows.map(decode).map_batches(
        _Actor,
        fn_constructor_args=(model,),
        batch_size=1,
        compute=ActorPoolStrategy(size=gpus or sum(node["Alive"] for node in ray.nodes())),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else 1,
    )
    try:
        yield vectors
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"ray: {str(error).splitlines()[0]}") from error


def _check_reachable(address: str) -> None:
    """Raises an OSError unless something listens at `host:port`; Ray would try for minutes, then exit the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"ray: expected an address, host:port. Received: {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"ray: no cluster at {address} ({error}); `ray start --head` starts one and prints its address"
        ) from None
