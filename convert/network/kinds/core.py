"""Dense, Embedding and Masking."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...layout import UNCHANGED
from .activations import ACTIVATION
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .validators import REQUIRED, Setting, flag, number, whole


class Dense(Kind):
    settings = {"units": Setting(REQUIRED, whole), "use_bias": Setting(True, flag), "activation": ACTIVATION}
    keeps_mask = True

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        yield Spec("weight", (x.channels, settings["units"]), x.dense_kernel)
        if settings["use_bias"]:
            yield Spec("bias", (settings["units"],), UNCHANGED)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return *shape[:-1], settings["units"]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        kernel, *bias = arrays
        total = x.new_zeros((), dtype=torch.float64)
        for part, rows in zip(x.split(1024, dim=-1), kernel.split(1024), strict=True):  # a float64 copy of some rows
            total = total + part.double() @ rows.double()
        return (total + bias[0] if bias else total).float()


class Embedding(Kind):
    settings = {
        "input_dim": Setting(REQUIRED, whole),
        "output_dim": Setting(REQUIRED, whole),
        "mask_zero": Setting(False, flag),
    }
    ranks = (1, 2, 3)
    is_steep = True  # it casts numbers to indices
    keeps_mask = True

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        yield Spec("weight", (settings["input_dim"], settings["output_dim"]), UNCHANGED)

    def output(self, settings: Settings, shape: Shape) -> Shape:
        return *shape, settings["output_dim"]

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays[0][x.long()]


class Masking(Kind):
    settings = {"mask_value": Setting(0.0, number)}
    ranks = (2,)
    keeps_mask = True

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor) -> Tensor:
        return torch.where((x == settings["mask_value"]).all(-1, keepdim=True), 0, x)
