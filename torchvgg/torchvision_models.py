"""torchvision's and timm's VGG16 and VGG19 as this package's, with the same numbers."""

from typing import Any

import torch
from torch import nn

from .describing import unwrapped
from .loading import build
from .saving import at_inference
from .vgg16 import VGG16
from .vgg19 import VGG19


@torch.no_grad()
def from_torchvision(model: nn.Module, include_top: bool = True) -> VGG16 | VGG19:
    """Returns a VGG16 or VGG19 with copies of the weights of torchvision's or timm's model, and with its outputs, logits.

    It takes the same images. For torchvision's and timm's own ImageNet weights these are RGB in [0, 1], minus mean
    (0.485, 0.456, 0.406), divided by std (0.229, 0.224, 0.225), not those of `preprocess_input`. With the top they are 224×224:
    Keras's VGG doesn't resize its maps. The outputs of both models for a random image are compared.

    Args:
        model: torchvision's or timm's `vgg16` or `vgg19`, for any number of classes.
        include_top: take the three dense layers too. False takes only `model.features`, whatever the head is.

    Returns:
        The model, in `eval()`, in float32, on the device of `model`.

    Raises:
        ValueError: it is another model, or has another head, or the outputs differ.
    """
    from .convert.check import relative_error
    from .convert.network.from_tensors import network_of_torch_file, vgg_tensors
    from .convert.read.torch_file import TorchFile

    model = unwrapped(model)
    features = getattr(model, "features", None)
    if not isinstance(features, nn.Module):
        raise ValueError(
            f"expected torchvision's or timm's VGG16 or VGG19. Received: {type(model).__name__}, which has no features"
        )
    tensors = vgg_tensors(
        {key: tensor.clone() for key, tensor in model.state_dict().items()}, base_only=not include_top
    )
    architecture = network_of_torch_file(TorchFile(tensors, {}), None, base_only=not include_top).architecture()
    has_top = "predictions.weight" in tensors
    if has_top:
        architecture["layers"][-1]["config"]["activation"] = "linear"
    own: Any = build(architecture, tensors)
    kernel, size = tensors["block1_conv1.weight"], 224 if has_top else 64
    x = torch.randn(1, kernel.shape[1], size, size, generator=torch.Generator().manual_seed(0))
    with at_inference(model):
        expected = (model if has_top else features)(x.to(kernel))
    error = relative_error(own(x.to(kernel.device)), expected)
    if not error <= max(torch.finfo(dtype).eps for dtype in (kernel.dtype, torch.float32)) ** 0.5:
        raise ValueError(
            f"{type(model).__name__}: it has a VGG's tensors and computes something else (relative error {error:.1e})"
        )
    return own
