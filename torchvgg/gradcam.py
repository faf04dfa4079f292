"""Grad-CAM: where a network looks to tell a class (Selvaraju et al. 2017, arXiv 1610.02391)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dense_evaluation import FullyConvolutional
from .layers.activations import Activation, Softmax
from .layers.convolutional import Conv2D
from .layers.core import Dense
from .model import Model

HEAD = 2  # layers at the end without maps to show: the last one and the one that it scores


def grad_cam(model: Model, x: Tensor, classes: Tensor | None = None, layer: str | None = None) -> Tensor:
    """Computes how much each place of the images contributes to the score of a class.

    The maps of a layer are summed, each weighted by the mean gradient of the class's score before the softmax; negative sums
    become 0.

    Args:
        model: a model with an output `(N, classes)`, or the twin that `dense` makes of one: the score is then the mean over
            the places.
        x: images as the model takes them, `(N, C, H, W)`.
        classes: the class of each image, `(N,)`; by default the likeliest.
        layer: the layer whose maps are used; by default the last convolution before the head.

    Returns:
        `(N, h, w)`, of the layer's height and width; each image's largest value is 1 (or all are 0).

    Raises:
        ValueError: the model has no classes, the layer has no maps, a class is out of range, or `x` isn't a valid input.
    """
    is_dense, head = False, HEAD
    if isinstance(model, FullyConvolutional):
        is_dense, head = True, len(model.head_layers)
    layer = layer or last_convolution(model, before=head)
    model._check_names([layer])
    if len(model.input_shapes) > 1 or model.outputs != model.nodes[-1].name:
        raise ValueError(f"expected a model of images with one output. Received: {model.name}, a graph with more")
    model._named_inputs(x)
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad():
        values = model._named_inputs(x.clone().detach().requires_grad_())
        for node, inputs in model._calls(values):  # `extract` would put flattened features into Keras's order
            outputs[node.name], before = values[node.name], inputs[0]
        maps, output = outputs[layer], outputs[node.name]
        if maps.dim() != 4 or layer in list(outputs)[-HEAD:]:
            raise ValueError(f"layer: expected one with maps, (N, C, H, W), before the head. Received: {layer!r}")
        if output.dim() != (4 if is_dense else 2):
            shape = model.output_shape
            raise ValueError(f"expected a model that ends in classes, (N, classes). Received: one of {shape}")
        scores = _scores(model.get_submodule(node.layer), before, output)
        scores = scores.mean((2, 3)) if is_dense else scores
        classes = scores.argmax(1) if classes is None else classes.to(scores.device)
        last = scores.shape[1] - 1
        if classes.shape != (len(x),) or not ((classes >= 0) & (classes <= last)).all():
            raise ValueError(f"classes: expected one for each image, 0 to {last}. Received: {classes.tolist()}")
        chosen = scores.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1))  # (N, h, w)
    return cam / cam.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


def last_convolution(model: Model, before: int = 0) -> str:
    """Returns the name of the last convolution before the last `before` layers. Raises a ValueError if there is none."""
    for name, layer in list(model.named_children())[::-1][before:]:
        if isinstance(layer, Conv2D):
            return name
    raise ValueError(f"{model.name} has no convolution; name a layer")


def _scores(last: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns the scores before the softmax, whose gradient would mix the classes, from the last layer's input and output."""
    if isinstance(last, Dense):
        return F.linear(x, last.weight, last.bias)
    if isinstance(last, Conv2D):  # of a twin, without padding
        return F.conv2d(x, last.weight, last.bias)
    return x if isinstance(last, Softmax | Activation) else y
