"""Grad-CAM: where a network looks to tell a class (Selvaraju et al. 2017, arXiv 1610.02391)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dense_evaluation import FullyConvolutional
from .layers.activations import Activation, Softmax
from .layers.convolutional import Conv2D
from .layers.core import Dense
from .model import Model
from .predicting import ends_in, has_activation

Call = tuple[nn.Module, Tensor, Tensor]  # a layer, its first input, its output

HEAD = 2  # layers at the end without maps to show: the last one and the one that it scores


def grad_cam(model: nn.Module, x: Tensor, classes: Tensor | int | None = None, layer: str | None = None) -> Tensor:
    """Computes how much each place of the images contributes to the score of a class.

    The maps of a layer are summed, each weighted by the mean gradient of the class's score before the softmax; negative sums
    become 0.

    Args:
        model: a model with an output `(N, classes)`; or any module, such as `nn.Sequential(VGG16(include_top=False), head)`; or
            the twin that `dense` makes of a model: the score is then the mean over the places.
        x: images as the model takes them, `(N, C, H, W)`.
        classes: the class of each image, `(N,)`, or one for all; by default the likeliest. A single output after a sigmoid scores class 1,
            and its negative class 0.
        layer: the layer whose maps are used, `block5_conv3`, or in other modules also `0.block5_conv3`; by default the last
            convolution before the head.

    Returns:
        `(N, h, w)`, of the layer's height and width; each image's largest value is 1 (or all are 0).

    Raises:
        ValueError: the model has no classes, the layer has no maps, a class is out of range, or `x` isn't a valid input.
    """
    if type(model).__name__ == "OptimizedModel":  # of `inference`, which stands above
        raise ValueError("grad_cam: gradients stop at an optimized model; pass the model that it was made of")
    with torch.inference_mode(False), torch.enable_grad():
        maps, scores = _run_model(model, x, layer) if isinstance(model, Model) else _run_module(model, x, layer)
        if isinstance(classes, int):
            classes = torch.full((len(x),), classes)
        if classes is not None and not isinstance(classes, Tensor):
            raise ValueError(f"classes: expected a tensor of numbers, (N,), or a number. Received: {classes!r}")
        classes = scores.argmax(1) if classes is None else classes.to(scores.device)
        last = scores.shape[1] - 1
        if classes.shape != (len(x),) or not ((classes >= 0) & (classes <= last)).all():
            raise ValueError(f"classes: expected one for each image, 0 to {last}. Received: {classes.tolist()}")
        chosen = scores.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1))  # (N, h, w)
    return cam / cam.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


def _run_model(model: Model, x: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Returns the maps of a layer, and the scores before the softmax."""
    is_dense, head = False, HEAD
    if isinstance(model, FullyConvolutional):
        is_dense, head = True, len(model.head_layers)
    layer = layer or last_convolution(model, before=head)
    model._check_names([layer])
    if len(model.input_shapes) > 1 or model.outputs != model.nodes[-1].name:
        raise ValueError(f"expected a model of images with one output. Received: {model.name}, a graph with more")
    model._named_inputs(x)
    outputs: dict[str, Tensor] = {}
    calls: list[Call] = []
    values = model._named_inputs(x.clone().detach().requires_grad_())
    for node, inputs in model._calls(values):  # `extract` would put flattened features into Keras's order
        outputs[node.name] = values[node.name]
        calls.append((model.get_submodule(node.layer), inputs[0], outputs[node.name]))
    if outputs[layer].dim() != 4 or layer in list(outputs)[-HEAD:]:
        raise _no_maps(layer)
    scores = _scores(calls, outputs[node.name], 4 if is_dense else 2, ends_in(model, "sigmoid"))
    return outputs[layer], scores.mean((2, 3)) if is_dense else scores


def _run_module(model: nn.Module, x: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Returns what `_run_model` does, of any module: hooks see what each of its layers returns."""
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    found = [name for name in leaves if layer in (name, name.rpartition(".")[2])]
    if layer is None:
        found = [name for name, module in leaves.items() if isinstance(module, nn.Conv2d)][-1:]
    if len(found) != 1:
        raise ValueError(f"layer: expected one out of {', '.join(leaves)}. Received: {layer!r}")
    calls: list[Call] = []
    handles = [
        leaf.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs[0], output)))
        for leaf in leaves.values()
    ]
    try:
        output = model(x.clone().detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    maps = [output for module, _, output in calls[:-1] if module is leaves[found[0]] and isinstance(output, Tensor)]
    if len(maps) != 1 or maps[0].dim() != 4:
        raise _no_maps(found[0])
    return maps[0], _scores(calls, output, 2)


def _no_maps(layer: str) -> ValueError:
    return ValueError(f"layer: expected one with maps, (N, C, H, W), before the head. Received: {layer!r}")


def last_convolution(model: Model, before: int = 0) -> str:
    """Returns the name of the last convolution before the last `before` layers. Raises a ValueError if there is none."""
    for name, layer in list(model.named_children())[::-1][before:]:
        if isinstance(layer, Conv2D):
            return name
    raise ValueError(f"{model.name} has no convolution; name a layer")


def _scores(calls: Sequence[Call], output: Any, axes: int, is_sigmoid: bool = False) -> Tensor:
    """Returns the scores of a model's output before the softmax, whose gradient would mix the classes.

    `is_sigmoid` says that the output is of a sigmoid, be it in front of other layers.
    """
    if not isinstance(output, Tensor) or output.dim() != axes:
        shape = ("N", *output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"expected a model that ends in classes, (N, classes). Received: one of {shape}")
    calls = [call for call in calls if isinstance(call[-1], Tensor)]  # an LSTM returns more than one
    # The first that made it: Dropout, Flatten, Reshape and others return a softmax's output, in the same memory.
    makers = [call for call in calls if call[-1].shape == output.shape and call[-1].data_ptr() == output.data_ptr()]
    last, x, y = (makers or calls[-1:])[0]
    if not makers:  # but the module's own code; perhaps it is a softmax of the last layer's
        ends = (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()) if y.shape == output.shape else ()
        found = [end for end in ends if torch.allclose(end(y), output)]
        last, x, y = (found[-1], y, output) if found else (nn.Identity(), output, output)
    if isinstance(last, Dense):
        x = F.linear(x, last.weight, last.bias)
    elif isinstance(last, Conv2D):  # of a twin, without padding
        x = F.conv2d(x, last.weight, last.bias)
    elif not isinstance(last, Softmax | Activation | nn.Softmax | nn.LogSoftmax | nn.Sigmoid):
        x = y - 0.5 if is_sigmoid else y  # of a probability, half is undecided
    is_binary = x.shape[1] == 1 and (is_sigmoid or has_activation(last, "sigmoid"))
    return torch.cat((-x, x), 1) if is_binary else x
