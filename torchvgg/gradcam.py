"""Where a network looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .layers.activations import Activation, Softmax
from .layers.convolutional import Conv2D
from .layers.core import Dense

if TYPE_CHECKING:
    from .model import Model

HEAD = 2  # layers at the end that have no maps to show: the last one, and the one that its scores are computed from


def grad_cam(model: Model, x: Tensor, classes: Tensor | None = None, layer: str | None = None) -> Tensor:
    """How much each place of the images speaks for a class.

    The maps of a layer are weighted by the mean gradient of the class's score, before the softmax, with respect to each; what is
    negative counts as 0.

    Args:
        model: one with a head, `(N, classes)`.
        x: images as the model takes them, `(N, C, H, W)`.
        classes: the class of each image, `(N,)`; by default the likeliest.
        layer: whose maps; by default those of the last convolution.

    Returns:
        `(N, h, w)`, of the layer's height and width, each image's largest value 1 (or all 0).

    Raises:
        ValueError: the model has no head, the layer no maps, a class isn't there, or `x` is refused, as by `forward`.
    """
    layer = layer or last_convolution(model, before=HEAD)
    *_, before, last = [name for name, _ in model.named_children()]
    with torch.inference_mode(False), torch.enable_grad():
        outputs = model.extract(x.clone().detach().requires_grad_(x.is_floating_point()), [layer, before, last])
        maps, scores = outputs[layer], _scores(model, outputs[before], outputs[last])
        if maps.dim() != 4 or layer in (before, last):
            raise ValueError(f"layer: expected one with maps, (N, C, H, W), before the head. Received: {layer!r}")
        if scores.dim() != 2:
            raise ValueError(
                f"expected a model that ends in classes, (N, classes). Received: one of {model.output_shape}"
            )
        classes = scores.argmax(1) if classes is None else classes.to(scores.device)
        if classes.shape != (len(x),) or not ((classes >= 0) & (classes < scores.shape[1])).all():
            raise ValueError(
                f"classes: expected one for each image, 0 to {scores.shape[1] - 1}. Received: {classes.tolist()}"
            )
        chosen = scores.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1))  # (N, h, w)
    return cam / cam.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


def last_convolution(model: Model, before: int = 0) -> str:
    """The name of a model's last convolution, before the last few layers. Raises a ValueError if there is none."""
    layers = list(model.named_children())
    for name, layer in reversed(layers[: len(layers) - before]):
        if isinstance(layer, Conv2D):
            return name
    raise ValueError(f"{model.name} has no convolution; name a layer")


def _scores(model: Model, before: Tensor, output: Tensor) -> Tensor:
    """What the last layer computes before its activation: of a softmax's own gradient the other classes are a part."""
    *_, last = model.children()
    if isinstance(last, Dense):
        return F.linear(before, last.weight, last.bias)
    return before if isinstance(last, Softmax | Activation) else output
