"""The interface of an array in a file of any kind."""

from types import EllipsisType
from typing import Protocol

import torch
from torch import Tensor

Units = slice | EllipsisType  # some units of a kernel, or the whole array


class Array(Protocol):
    """One array in Keras's layout, whose numbers are read on demand."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, units: Units = ...) -> Tensor:
        """Reads the array, or the part of a kernel for some units, Keras's last axis."""
