"""PyTorch tensors → a `Network`: those of a file that `convert` wrote, or of any VGG's `state_dict`."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..array import Units
from ..errors import listed
from ..layout import CONV2D_KERNEL, DENSE_KERNEL, UNCHANGED, Layout
from ..read.torch_file import TorchFile
from .architecture_json import counted, flattened, is_structure
from .assemble import assemble
from .from_keras_weights import check_between
from .graph import Described, Graph, Node, chain
from .kinds import KINDS, Shape, Spec
from .kinds.validators import whole
from .naming_schemes import recognise
from .network import Layer, Network, channels_last
from .unfolding import MOST_CALLS
from .vgg_architecture import CONVOLUTION_NAME, NETWORKS, square_input, vgg_chain

OTHER_PREPROCESSING = (
    "if these are torchvision's or timm's own ImageNet weights, or fine-tuned from them, they want RGB in [0, 1], minus mean "
    "(0.485, 0.456, 0.406), divided by std (0.229, 0.224, 0.225), `--preprocess torchvision`, and not preprocess_input; "
    "weights that `--layout` wrote want preprocess_input"
)
PLACE = re.compile(r"(\w+(/\w+)*)?")  # a group of a `.weights.h5`


@dataclass(frozen=True)
class TorchArray:
    """A tensor as the Keras array that it would be."""

    name: str
    tensor: Tensor
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.to_keras(torch.empty(self.tensor.shape, device="meta")).shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read(self, units: Units = ...) -> Tensor:
        return self.layout.to_keras(self.tensor[units])


def network_of_torch_file(file: TorchFile, input_shape: tuple[int, int] | None, base_only: bool) -> Network:
    """Makes the network of a file of tensors. Raises a ValueError if one is missing or left over, or they are no VGG's.

    Args:
        file: the tensors.
        input_shape: `(height, width)` of the images, for a `state_dict` with a top whose flatten isn't square.
        base_only: of a `state_dict`, take no more than the convolutions.
    """
    if file.architecture is not None:
        return network_of_tensors(read_architecture(file.architecture), file.tensors)
    tensors = vgg_tensors(file.tensors, base_only)
    own = {key: tensor for key, tensor in tensors.items() if not base_only or CONVOLUTION_NAME.match(key)}
    network = network_of_tensors(_chain_of_state_dict(own, input_shape), own)
    if base_only:
        _check_base(tensors, network)
    return network


def vgg_tensors(tensors: Mapping[str, Tensor], base_only: bool) -> dict[str, Tensor]:
    """Returns the tensors of a VGG's `state_dict`, ours, torchvision's or timm's, under the names of ours.

    Raises a ValueError for a head that isn't Keras's three dense layers, unless `base_only` leaves it out.
    """
    found = recognise(tensors)
    if found.head and not base_only:
        kernels = [f"{key} {tuple(tensor.shape)}" for key, tensor in found.head.items() if not key.endswith(".bias")]
        raise ValueError(
            f"a VGG of torchvision's or timm's with another head than their three dense layers ({listed(kernels)}), and "
            "how its layers are connected isn't in a file of tensors; from_torchvision takes torchvision's model itself, and "
            "include_top=False, or --base-only, leaves the head out"
        )
    return found.tensors


def preprocessing_of(file: TorchFile) -> str:
    """Returns a sentence on the preprocessing of a file whose weights may be torchvision's or timm's own, else ""."""
    # `convert` says so of weights that it had from such a file.
    is_unknown = file.metadata.get("preprocessing") == "unknown"
    if file.architecture is None and "layout" not in file.metadata:
        is_unknown |= recognise(file.tensors).naming_scheme != "torchvgg"
    return OTHER_PREPROCESSING if is_unknown else ""


def _check_base(tensors: Mapping[str, Tensor], network: Network) -> None:
    """Raises a ValueError if some of a `state_dict`'s tensors may belong to layers between the VGG's convolutions."""
    layouts = {2: DENSE_KERNEL, 4: CONV2D_KERNEL}
    named = ((key.replace(".", "/"), tensor) for key, tensor in tensors.items() if tensor.is_floating_point())
    arrays = [TorchArray(name, tensor, layouts.get(tensor.dim(), UNCHANGED)) for name, tensor in named]
    by_name = {array.name: array for array in arrays}
    names = [layer.name for layer in network.layers if layer.weights]
    base = [(by_name[f"{name}/weight"], by_name[f"{name}/bias"]) for name in names]
    for in_order in (True, False):  # of a `.pt` the order is the layers', of a `.safetensors` it needn't be
        check_between(arrays, base, in_order)


def network_of_tensors(graph: Graph, tensors: Mapping[str, Tensor]) -> Network:
    """Makes the network of a graph whose arrays are PyTorch tensors, `block1_conv1.weight` and so on.

    Raises a ValueError for a tensor that is missing, left over, or of another shape.
    """
    left = dict(tensors)

    def pick(name: str, spec: Spec) -> TorchArray:
        key = f"{name}.{spec.name}"
        if key not in left:
            raise ValueError(f"missing: {key}")
        expected = tuple(spec.layout.to_torch(torch.empty(spec.shape, device="meta")).shape)  # type: ignore[arg-type]
        if left[key].shape != expected:
            raise ValueError(f"{key}: expected shape {expected}. Received: {tuple(left[key].shape)}")
        return TorchArray(key, left.pop(key), spec.layout)

    network = assemble(
        graph, lambda layers: ([pick(layer.described.name, spec) for spec in layer.specs] for layer in layers)
    )
    if left:
        raise ValueError(f"tensors that belong to no layer: {listed(left)}")
    return network


def read_architecture(architecture: Mapping[str, Any]) -> Graph:
    """Reads what `Network.architecture` returned. Raises a ValueError if `convert` didn't write it."""
    match architecture:
        case {"name": str(name), "input_shape": [_, _, _] as shape, "layers": list(entries)}:
            graph = chain(name, _read_shape(shape), [_read_layer(entry) for entry in counted(entries)])
        case {
            "name": str(name),
            "inputs": dict(shapes),
            "layers": list(entries),
            "nodes": list(calls),
            "outputs": outputs,
        } if shapes:
            inputs = {own: _read_shape(shape) for own, shape in shapes.items()}
            layers = [_read_layer(entry) for entry in counted(entries)]
            graph = Graph(
                name,
                {own: (None, *shape) for own, shape in inputs.items()},
                layers,
                _read_nodes(calls, inputs, layers),
                outputs,
            )
            known = {*inputs, *(node.name for node in graph.nodes)}
            if not is_structure(outputs) or not set(flattened(outputs)) <= known:
                raise _not_ours("outputs out of the nodes")
        case _:
            raise _not_ours("a name, an input_shape and layers")
    class_name = architecture.get("class_name", "")
    if class_name not in ("", "Sequential", "Functional"):
        raise _not_ours("a Sequential or a Functional")
    counts = Counter(str(entry.get("name")) for entry in entries)
    if wrong := [name for name, count in counts.items() if count > 1 or not name or "." in name]:
        raise _not_ours(f"other names than {', '.join(map(repr, wrong))}")
    return graph._replace(class_name=class_name)


def _read_shape(shape: Any) -> Shape:
    """Reads the shape of an input, as `channels_first` left it."""
    if isinstance(shape, list) and 1 <= len(shape) <= 4 and all(size is None or whole(size) for size in shape):
        keras = channels_last(shape)
        if len(shape) < 3 or keras[-1] is not None:
            return keras
    raise _not_ours(f"the shape of an input. Received: {shape!r:.100}")


def _read_nodes(calls: list[Any], inputs: Mapping[str, Any], layers: list[Described]) -> list[Node]:
    """Reads the calls of the layers. Each is fed by those before it, and every layer is called."""
    names, known, nodes = {layer.name for layer in layers}, set(inputs), []
    for call in calls:
        match call:
            case [str(name), str(layer), [*fed_by]] if layer in names and name not in known and fed_by:
                if all(isinstance(each, str) and each in known for each in fed_by) and len(calls) <= MOST_CALLS:
                    known.add(name)
                    nodes.append(Node(name, layer, tuple(fed_by)))
                    continue
        raise _not_ours(f"a node. Received: {call!r:.100}")
    if missing := names - {node.layer for node in nodes}:
        raise _not_ours(f"a call of {listed(sorted(missing))}")
    return nodes


def _read_layer(entry: Any) -> Described:
    match entry:
        case {"class_name": str(class_name), "name": str(name), "config": dict(config)} if class_name in KINDS:
            trainable = entry.get("trainable", True)
            path, place = entry.get("path", [name]), entry.get("place", "")
            is_placed = isinstance(path, list) and bool(path) and all(isinstance(part, str) for part in path)
            is_placed = is_placed and isinstance(place, str) and bool(PLACE.fullmatch(place))
            if is_placed and isinstance(trainable, bool) and config.keys() <= KINDS[class_name].settings.keys():
                return Described(class_name, name, config, trainable, path=tuple(path), place=place)
    raise _not_ours(f"a layer. Received: {entry!r:.100}")


def _not_ours(expected: str) -> ValueError:
    return ValueError(f"an architecture that `convert` didn't write: expected {expected}")


def _chain_of_state_dict(tensors: Mapping[str, Tensor], input_shape: tuple[int, int] | None) -> Graph:
    kernels = [tensor for key, tensor in tensors.items() if CONVOLUTION_NAME.match(key) and tensor.dim() == 4]
    if len(kernels) not in NETWORKS:
        raise not_a_vgg(tensors)
    height, width = input_shape or (None, None)
    classes = None
    if "predictions.weight" in tensors:
        dense = {key: tensor.shape for key, tensor in tensors.items() if tensor.dim() == 2}
        classes, _ = dense.get("predictions.weight", (0, 0))
        if input_shape is None:
            height, width = square_input("fc1.weight", dense.get("fc1.weight", (0, 0))[1])
    return vgg_chain(len(kernels), (height, width, kernels[0].shape[1]), classes)


def not_a_vgg(tensors: Mapping[str, Tensor]) -> ValueError:
    """Returns the error for tensors that no VGG has, or not under these names."""
    shown = listed(tensors, 3) or "no tensors"
    return ValueError(
        f"expected the tensors of a VGG16 or VGG19, block1_conv1.weight or features.0.weight and so on. Received: {shown}; "
        "another model's weights go into it by load_state_dict, and save_model writes it as a whole"
    )


def network_of_layers(graph: Graph, layers: Iterable[Layer]) -> Network:
    """Makes the network of a VGG from the tensors of layers in order. Raises a ValueError for another shape."""
    own = (layer.weights for layer in layers if layer.weights)
    names = [plain.name for plain in graph.layers if plain.class_name in ("Conv2D", "Dense")]
    pairs = zip(names, own, strict=True)
    return network_of_tensors(graph, {f"{name}.{w.name}": w.tensor() for name, weights in pairs for w in weights})
