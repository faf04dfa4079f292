"""`Array`: one array in Keras's layout, of whatever file it comes from."""

from __future__ import annotations

from types import EllipsisType
from typing import Protocol

import torch
from torch import Tensor

Units = slice | EllipsisType  # some units of a kernel, or all that there is of any array


class Array(Protocol):
    """An array with a name, which is read when its numbers are needed."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, units: Units = ...) -> Tensor:
        """Read all of it, or of a kernel the part for some units, Keras's last axis."""
