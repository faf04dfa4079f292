"""The names and shapes of tensors in torchvision's and timm's VGGs; timm's dense layers are convolutions.

The values are the same, so these models then take Keras's preprocessing; they return logits.
"""

from collections.abc import Mapping

from torch import Tensor

from ..network.network import Network

# The dense layers' names, and the shape that a kernel of `(out, in)` has there: kernel sizes after the channels.
_TOPS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "torchvision": {"fc1": ("classifier.0", ()), "fc2": ("classifier.3", ()), "predictions": ("classifier.6", ())},
    "timm": {"fc1": ("pre_logits.fc1", (7, 7)), "fc2": ("pre_logits.fc2", (1, 1)), "predictions": ("head.fc", ())},
}


def to_scheme(tensors: Mapping[str, Tensor], network: Network, naming_scheme: str) -> dict[str, Tensor]:
    """Renames and reshapes the tensors of a plain VGG for another project's model."""
    if naming_scheme == "torchvgg":
        return dict(tensors)
    places = _places(network, naming_scheme)
    moved = {}
    for key, tensor in tensors.items():
        name, window = places[key]
        moved[name] = tensor.unflatten(1, (-1, *window)) if window else tensor
    return moved


def from_scheme(tensors: Mapping[str, Tensor], network: Network, naming_scheme: str) -> dict[str, Tensor]:
    """Renames and reshapes the tensors of another project's model back: the inverse of `to_scheme`."""
    if naming_scheme == "torchvgg":
        return dict(tensors)
    places = _places(network, naming_scheme)
    return {key: tensors[name].flatten(1) if window else tensors[name] for key, (name, window) in places.items()}


def _places(network: Network, naming_scheme: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns each tensor's name in a scheme, and the kernel size of a dense kernel that is a convolution's there."""
    places: dict[str, tuple[str, tuple[int, ...]]] = {}
    number = 0  # in `features`, where a ReLU follows each convolution
    for layer in network.layers:
        is_dense = layer.class_name == "Dense"
        name, window = _TOPS[naming_scheme][layer.name] if is_dense else (f"features.{number}", ())
        if layer.weights:
            places[f"{layer.name}.weight"] = (f"{name}.weight", window)
            places[f"{layer.name}.bias"] = (f"{name}.bias", ())
        number += {"Conv2D": 2, "MaxPooling2D": 1}.get(layer.class_name, 0)
    return places


def check_scheme(network: Network, naming_scheme: str) -> None:
    """Raises a ValueError unless the scheme's model can take the network: its top is made for 7×7 features."""
    height, width, _ = network.input_shape
    if "fc1" in (layer.name for layer in network.layers) and (height, width) != (224, 224):
        raise ValueError(
            f"{naming_scheme}'s VGG has a top for images of 224×224. Received: one for {height}×{width}; "
            "--base-only leaves it out"
        )
