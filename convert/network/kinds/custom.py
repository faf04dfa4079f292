"""Layers whose code the user brings: a PyTorch module in the place of a custom layer or a Lambda."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...layout import UNCHANGED, images_to_keras, images_to_torch
from .kind import Arrays, Features, Kind, Settings, Shape, Spec
from .validators import REQUIRED, Setting

OPEN_SIZES = (64, 96)  # tried where a size is open


class Custom(Kind):
    """A module, which takes and returns what PyTorch's layers do; its tensors are the layer's arrays, in Keras's order, as they are."""

    settings = {"module": Setting(REQUIRED, lambda value: isinstance(value, nn.Module))}
    inputs = (1, 1000)
    ranks = (0, 1, 2, 3, 4)
    is_steep = True

    def arrays(self, settings: Settings, x: Features) -> Iterator[Spec]:
        for name, tensor in settings["module"].state_dict().items():
            yield Spec(name, tuple(tensor.shape), UNCHANGED)

    def output(self, settings: Settings, shape: Shape, *others: Shape) -> Shape:
        """Runs the module at two sizes; what differs is open."""
        small, large = (_run(settings["module"], [shape, *others], size) for size in OPEN_SIZES)
        return tuple(a if a == b else None for a, b in zip(small, large, strict=True))

    def reference(self, settings: Settings, arrays: Arrays, x: Tensor, *others: Tensor) -> Tensor:
        """Calls the module itself: nothing else says what it computes."""
        return images_to_keras(settings["module"](*map(images_to_torch, (x, *others))))


@torch.no_grad()
def _run(module: nn.Module, shapes: list[Shape], size: int) -> Shape:
    inputs = [torch.zeros(1, *(length or size for length in shape)) for shape in shapes]
    try:
        output: Any = module(*map(images_to_torch, inputs))
    except (RuntimeError, TypeError, ValueError) as error:
        received = ", ".join(str(tuple(images_to_torch(x).shape)) for x in inputs)
        raise ValueError(f"the module for it fails on an input of {received}: {error}") from error
    if not isinstance(output, Tensor) or not output.dim() or len(output) != 1:
        raise ValueError("the module for it has to return a tensor, batch first")
    return tuple(images_to_keras(output).shape[1:])
