"""The names and shapes of tensors in torchvision's and timm's VGGs, there and back; timm's dense layers are convolutions.

The values are the same, so these models then take Keras's preprocessing; they return logits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ..vgg_blocks import BLOCKS
from .network import Network
from .vgg_architecture import CONVOLUTION_NAME

# The dense layers' names, and the shape that a kernel of `(out, in)` has there: kernel sizes after the channels.
_TOPS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "torchvision": {"fc1": ("classifier.0", ()), "fc2": ("classifier.3", ()), "predictions": ("classifier.6", ())},
    "timm": {"fc1": ("pre_logits.fc1", (7, 7)), "fc2": ("pre_logits.fc2", (1, 1)), "predictions": ("head.fc", ())},
}
_TOP_FEATURES = {"fc1": 25088, "fc2": 4096, "predictions": 4096}  # that each dense layer takes, for images of 224×224
_SIBLINGS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2)}  # convolutions in each block
# What DataParallel, Lightning and torch.compile put before names.
_WRAPPERS = re.compile(r"((module|model|_orig_mod)\.)+")


def to_scheme(tensors: Mapping[str, Tensor], network: Network, naming_scheme: str) -> dict[str, Tensor]:
    """Renames and reshapes the tensors of a plain VGG for another project's model."""
    if naming_scheme == "torchvgg":
        return dict(tensors)
    places = _places(network.name, naming_scheme)
    moved = {}
    for key, tensor in tensors.items():
        name, window = places[key]
        moved[name] = tensor.unflatten(1, (-1, *window)) if window else tensor
    return moved


def from_scheme(tensors: Mapping[str, Tensor], network: str, naming_scheme: str) -> dict[str, Tensor]:
    """Renames and reshapes the tensors of another project's `network` back, as many as there are: the inverse of `to_scheme`."""
    if naming_scheme == "torchvgg":
        return dict(tensors)
    places = {key: place for key, place in _places(network, naming_scheme).items() if place[0] in tensors}
    return {key: tensors[name].flatten(1) if window else tensors[name] for key, (name, window) in places.items()}


def _places(network: str, naming_scheme: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns each tensor's name in a scheme, and the kernel size of a dense kernel that is a convolution's there."""
    counts = [count for count, _ in BLOCKS[network]]
    names = [f"block{b}_conv{n}" for b, count in enumerate(counts, start=1) for n in range(1, count + 1)]
    layers = {name: (f"features.{n}", ()) for name, n in zip(names, _numbers(counts, 2), strict=True)}
    places: dict[str, tuple[str, tuple[int, ...]]] = {}
    for own, (name, window) in (layers | _TOPS[naming_scheme]).items():
        places |= {f"{own}.weight": (f"{name}.weight", window), f"{own}.bias": (f"{name}.bias", ())}
    return places


def _numbers(counts: Sequence[int], step: int) -> Iterator[int]:
    """Yields the number of each convolution in `features`, where it and what belongs to it are `step` layers, a pool one."""
    number = 0
    for count in counts:
        yield from range(number, number + count * step, step)
        number += count * step + 1


class StateDict(NamedTuple):
    """A VGG's `state_dict` under the names of ours.

    Attributes:
        tensors: the convolutions', and the top's if it is the standard one.
        head: those of another head, under their own names.
        naming_scheme: whose names it had: "torchvgg", "torchvision" or "timm".
    """

    tensors: dict[str, Tensor]
    head: dict[str, Tensor]
    naming_scheme: str


def recognise(tensors: Mapping[str, Tensor]) -> StateDict:
    """Finds out by their names whose VGG the tensors are. Those of no VGG stay as they are.

    Raises a ValueError for a VGG of torchvision's or timm's that torchvgg hasn't.
    """
    bare = {_WRAPPERS.sub("", key, count=1) if _WRAPPERS.match(key) else key: x for key, x in tensors.items()}
    if len(bare) == len(tensors) and any(CONVOLUTION_NAME.match(key) for key in bare):
        return StateDict(bare, {}, "torchvgg")
    features = {key for key in bare if key.startswith("features.")}
    kernels = {key for key in features if re.fullmatch(r"features\.[0-9]{1,3}\.weight", key) and bare[key].dim() == 4}
    network = _network_with(sorted(int(key.split(".")[1]) for key in kernels))
    if not network or len(bare) < len(tensors):
        return StateDict(dict(tensors), {}, "torchvgg")
    if network not in BLOCKS:
        raise ValueError(
            f"the tensors of torchvision's or timm's {network}, and torchvgg has only VGG16 and VGG19, without batch "
            f"normalization; run it in torchvision or timm"
        )
    head = {key: tensor for key, tensor in bare.items() if key not in features}
    scheme = next((name for name in _TOPS if _is_top(head, name)), "")
    own = from_scheme({key: bare[key] for key in features} | (head if scheme else {}), network, scheme or "torchvision")
    if different := features - {name for name, _ in _places(network, "torchvision").values()}:
        raise ValueError(f"{min(different)}: of no layer of {network}, whose names the other tensors have")
    return StateDict(own, {} if scheme else head, scheme or "torchvision")


def _network_with(numbers: list[int]) -> str | None:
    """Names the VGG with convolutions at these places in `features`."""
    known = _SIBLINGS | {name: [count for count, _ in blocks] for name, blocks in BLOCKS.items()}
    steps = {"": 2, "_bn": 3}  # a convolution and its ReLU; a normalization between them
    layers = {f"{name}{end}": _numbers(counts, step) for name, counts in known.items() for end, step in steps.items()}
    return next((name for name, expected in layers.items() if numbers == [*expected]), None)


def _is_top(head: Mapping[str, Tensor], naming_scheme: str) -> bool:
    """Tells whether tensors are those of the standard top, for any number of classes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for own, (name, window) in _TOPS[naming_scheme].items():
        units = head[f"{name}.bias"].numel() if own == "predictions" and f"{name}.bias" in head else 4096
        inputs = _TOP_FEATURES[own]
        shapes[f"{name}.bias"] = (units,)
        shapes[f"{name}.weight"] = (units, inputs // (window[0] * window[1]), *window) if window else (units, inputs)
    return {key: tuple(tensor.shape) for key, tensor in head.items()} == shapes


def check_scheme(network: Network, naming_scheme: str) -> None:
    """Raises a ValueError unless the scheme's model can take the network: its top is made for 7×7 features."""
    height, width, _ = network.input_shape
    if "fc1" in (layer.name for layer in network.layers) and (height, width) != (224, 224):
        raise ValueError(
            f"{naming_scheme}'s VGG has a top for images of 224×224. Received: one for {height}×{width}; "
            "--base-only leaves it out"
        )
