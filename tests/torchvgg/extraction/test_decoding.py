"""Images are decoded by as many processes as the machine lets run at once."""

import os

import pytest
from torch.utils.data import get_worker_info

from torchvgg.extraction.decoding import decode_batches


def processes(_: object) -> int:
    return getattr(get_worker_info(), "num_workers", 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_a_process_for_each_core_that_may_be_used() -> None:
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert list(decode_batches([["a"], ["b"], ["c"]], processes, None)) == [1, 1, 1]
    finally:
        os.sched_setaffinity(0, cores)
