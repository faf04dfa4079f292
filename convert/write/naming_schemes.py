"""Where torchvision's and timm's VGGs have the tensors of ours: other names, and in timm the dense layers as convolutions.

The values are the same. Their models take images of Keras's preprocessing then, and return logits.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..network.network import Network

# The dense layers' names, and the shape that a kernel of `(out, in)` has there: kernel sizes after the channels.
_TOPS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "torchvision": {"fc1": ("classifier.0", ()), "fc2": ("classifier.3", ()), "predictions": ("classifier.6", ())},
    "timm": {"fc1": ("pre_logits.fc1", (7, 7)), "fc2": ("pre_logits.fc2", (1, 1)), "predictions": ("head.fc", ())},
}


def to_house(tensors: Mapping[str, Tensor], network: Network, house: str) -> dict[str, Tensor]:
    """The tensors of a plain VGG under the names, and in the shapes, of another house's model."""
    if house == "torchvgg":
        return dict(tensors)
    places = _places(network, house)
    moved = {}
    for key, tensor in tensors.items():
        layer, parameter = key.split(".")
        name, window = places[layer]
        moved[f"{name}.{parameter}"] = tensor.unflatten(1, (-1, *window)) if window and tensor.dim() == 2 else tensor
    return moved


def from_house(tensors: Mapping[str, Tensor], network: Network, house: str) -> dict[str, Tensor]:
    """The inverse: the tensors of another house's model under our names, in our shapes."""
    if house == "torchvgg":
        return dict(tensors)
    back = {}
    for layer, (name, window) in _places(network, house).items():
        for parameter in ("weight", "bias"):
            tensor = tensors[f"{name}.{parameter}"]
            back[f"{layer}.{parameter}"] = tensor.flatten(1) if window and tensor.dim() == 4 else tensor
    return back


def _places(network: Network, house: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Where each of our layers is there: a name, and the kernel sizes of a dense layer that is a convolution."""
    places: dict[str, tuple[str, tuple[int, ...]]] = {}
    number = 0  # in `features`, where each convolution is followed by its ReLU
    for layer in network.layers:
        if layer.class_name == "Conv2D":
            places[layer.name] = (f"features.{number}", ())
            number += 2
        elif layer.class_name == "MaxPooling2D":
            number += 1
        elif layer.class_name == "Dense":
            places[layer.name] = _TOPS[house][layer.name]
    return places


def check_house(network: Network, house: str) -> None:
    """Raises a ValueError unless the house's model can take the network: its top is made for 7×7 features."""
    height, width, _ = network.input_shape
    if "fc1" in (layer.name for layer in network.layers) and (height, width) != (224, 224):
        raise ValueError(
            f"{house}'s VGG has a top for images of 224×224. Received: one for {height}×{width}; "
            "--base-only leaves it out"
        )
