"""."""

from __future__ import annotations

from types import EllipsisType
from typing import Protocol

import torch
from torch import Tensor

Units = slice | EllipsisType  # some units of a kernel, or all that there is of any array


class Array(Protocol):
    """One array in Keras's layout, read when it is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, units: Units = ...) -> Tensor:
        """All of it, or of a kernel the part for some units, Keras's last axis."""
