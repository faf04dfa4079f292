"""torchvision's and timm's VGG16 and VGG19 as this package's, with the same numbers."""

import copy
from collections import OrderedDict

import torch
from torch import nn

from .describing import Description, unwrapped
from .loading import build
from .model import Model
from .saving import at_inference, run_on_cpu

USUAL = (nn.Sequential, nn.Linear, nn.ReLU, nn.Dropout)  # what torchvision's head consists of


@torch.no_grad()
def from_torchvision(model: nn.Module, include_top: bool = True) -> Model:
    """Returns a VGG16 or VGG19 with copies of the weights of torchvision's or timm's model, and with its outputs, logits.

    With another `classifier` than torchvision's it is a `Model`, if that is made of layers that `save_model` takes.

    It takes the same images. For torchvision's and timm's own ImageNet weights these are RGB in [0, 1], minus mean
    (0.485, 0.456, 0.406), divided by std (0.229, 0.224, 0.225), not those of `preprocess_input`. With the top they are 224×224:
    Keras's VGG doesn't resize its maps. The outputs of both models for random images are compared.

    Args:
        model: torchvision's or timm's `vgg16` or `vgg19`, for any number of classes, or torchvision's with a head of your own.
        include_top: take the three dense layers too. False takes only `model.features`, whatever the head is.

    Returns:
        The model, images `(N, C, H, W)` → logits `(N, classes)`, or maps without the top; in `eval()`, in float32, on the device of
        `model`.

    Raises:
        ValueError: it is another model, or has a head that can't be expressed in Keras's layers, or the outputs differ.
    """
    from .convert.check import relative_error
    from .convert.network.from_tensors import network_of_torch_file, vgg_tensors
    from .convert.network.naming_schemes import recognise
    from .convert.read.torch_file import TorchFile

    model = unwrapped(model)
    features = getattr(model, "features", None)
    if not isinstance(features, nn.Module):
        raise ValueError(
            f"expected torchvision's or timm's VGG16 or VGG19. Received: {type(model).__name__}, which has no features; a file of its "
            "state_dict is for VGG16(weights=path)"
        )
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    head = getattr(model, "classifier", None) if include_top else None
    if head is not None and "predictions.weight" in recognise(state).tensors:
        head = None if all(isinstance(layer, USUAL) for layer in head.modules()) else head  # a softmax, or no ReLU
    if head is not None or not include_top:
        state = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    tensors = vgg_tensors(state, base_only=False)
    input_shape = None if head is None else (224, 224)
    architecture = network_of_torch_file(TorchFile(tensors, {}), input_shape, base_only=False).architecture()
    has_top = "predictions.weight" in tensors
    if has_top:
        architecture["layers"][-1]["config"]["activation"] = "linear"
    own = build(architecture, tensors)
    if head is not None:
        own, has_top = _with_head(own, getattr(model, "avgpool", nn.Identity()), head), True
    own.preprocessing_is_unknown = True
    size, theirs = (224, model) if has_top else (64, features)
    x = torch.randn(1, own.input_shape[1], size, size, generator=torch.Generator().manual_seed(0))
    # Weights that were never trained make next to nothing of small numbers, a sigmoid 1 of large ones.
    for scale in (1, 1e6):
        with at_inference(model):
            expected, received = (run_on_cpu(each, [scale * x], torch.float32) for each in (theirs, own))
        is_alike = getattr(expected, "shape", None) == received.shape
        error = relative_error(received, expected) if is_alike else torch.inf
        if not error <= torch.finfo(torch.float32).eps ** 0.5:
            advice = "" if head is None else "; include_top=False leaves the head out"
            raise ValueError(
                f"{type(model).__name__}: it has a VGG's tensors and computes something else (relative error {error:.1e}){advice}"
            )
    return own


def _with_head(base: Model, pool: nn.Module, head: nn.Module) -> Model:
    """Returns a base for 224×224 images with a head on it. torchvision's own pooling leaves the 7×7 maps as they are."""
    from .convert.network.from_tensors import network_of_tensors

    if getattr(pool, "output_size", None) in (7, (7, 7)):
        pool = nn.Identity()
    try:
        parts = {"features": base, "avgpool": pool, "flatten": nn.Flatten(), "classifier": copy.deepcopy(head)}
        described = Description(nn.Sequential(OrderedDict(parts)))
        network = network_of_tensors(described.graph, described.tensors)
    except ValueError as error:
        reason = str(error).removeprefix("save_model: ")
        raise ValueError(f"{reason}; include_top=False leaves the head out") from None
    return build(network.architecture(), described.tensors)
