"""The VGG's own convolutions in a larger network: U-Nets, other heads, models of models.

Where the architecture is known, the layers from the first convolution to the last pool have to be a VGG's; where it isn't, the
arrays' shapes have to do, and arrays of other layers between the convolutions are refused.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

from ..layout import CONV2D_KERNEL, TURNED_KERNEL
from ..read.keras_file import KerasFile
from .architecture_json import Entry, read_entry
from .from_keras_weights import vgg_of_arrays, vgg_of_pairs
from .from_tensors import network_of_layers
from .graph import INPUT, Described, Node
from .kernel_parts import StoredArray, whole_kernels
from .kinds import KINDS
from .kinds.regularization import Regularization
from .network import Layer, Network
from .settings import read_settings, shortened
from .unfolding import read_graph
from .vgg_architecture import NETWORKS, POOLINGS, vgg_chain

LONGEST_WAY = 300  # layers looked at, backwards from any one: enough for VGG19 with paddings, activations and dropouts


def base_of(network: Network) -> Network:
    """Returns the VGG's own part of a network, under Keras's names, without what is in front and without the head.

    Raises a ValueError if there is no whole VGG in it.
    """
    layers = {layer.name: layer for layer in network.layers}
    base = [layers[name] for name in _convolutions(network.name, network.nodes, layers)]
    chain = vgg_chain(len(base), (None, None, base[0].weights[0].shape[1]), None)
    return network_of_layers(chain, base)


def base_of_keras_file(file: KerasFile) -> Network:
    """Returns the VGG's own part of what a Keras file holds. Raises a ValueError if there is no whole VGG in it."""
    kernels = TURNED_KERNEL if file.turned else CONV2D_KERNEL
    arrays = [array for array in file.arrays if array.dtype.is_floating_point]
    model = None if file.config is None else read_entry(file.config)
    if model and model.layers:
        convolutions = _described_convolutions(model, file)
        pairs = [_arrays_of(file, layer) for layer in convolutions]
        if all(len(pair) == 2 for pair in pairs):
            return vgg_of_pairs([(kernel, bias) for kernel, bias in pairs], kernels)
        # The layers of a nested model were renamed: its group holds their arrays under their old names.
        arrays = next((group.arrays for group in file.layers if group.name == convolutions[0].path[0]), arrays)
    return vgg_of_arrays(arrays, None, base_only=True, kernels=kernels, in_order=file.in_order)


def _described_convolutions(model: Entry, file: KerasFile) -> list[Described]:
    """Finds the convolutions of the VGG in a model. Raises a ValueError unless there is exactly one."""
    graph = read_graph(model, file.keras_version, group_names=file.group_names)
    layers = {layer.name: layer for layer in graph.layers}
    understood = {name: _as_layer(layer, file.keras_version) for name, layer in layers.items()}
    return [layers[name] for name in _convolutions(model.name, graph.nodes, understood)]


def _convolutions(name: str, nodes: Sequence[Node], layers: Mapping[str, Layer]) -> list[str]:
    """Finds the names of the convolutions of the VGG in a network. Raises a ValueError unless there is exactly one."""
    differences = [_Difference(0, False, "there is no convolution")]
    networks: dict[str, list[str]] = {}
    for row in _rows(nodes):
        found = _find_convolutions(layers[own] for own in row)
        if isinstance(found, _Difference):
            differences.append(found)
        else:
            networks.setdefault(row[found[0]], [row[number] for number in found])
    if len(networks) > 1:
        raise ValueError(f"{name}: more than one VGG in it, from {' and from '.join(list(networks)[:2])} on")
    for convolutions in networks.values():
        return convolutions
    closest = max(differences, key=lambda difference: difference[:2])
    raise ValueError(f"{name}: no whole VGG16 or VGG19 in it: {closest.text}")


def _rows(nodes: Sequence[Node]) -> Iterator[list[str]]:
    """Yields rows of layers, each fed by the one before alone, backwards from where the next has other inputs, or is none."""
    by_name = {node.name: node for node in nodes}
    uses = Counter(name for node in nodes for name in node.inputs)
    inside = {node.inputs[0] for node in nodes if len(node.inputs) == 1 and uses[node.inputs[0]] == 1}
    for end in nodes:
        if end.name not in inside:
            row: list[str] = []
            node: Node | None = end if len(end.inputs) == 1 else None
            while node and len(node.inputs) == 1 and len(row) < LONGEST_WAY:
                row.insert(0, node.layer)
                node = by_name.get(node.inputs[0])
            yield row


def as_plain_vgg(network: Network, purpose: str) -> Network:
    """Returns a network as Keras's own VGG, under its names, with its arrays in Keras's layout, without dropouts.

    Raises a ValueError if it is another network, which names the first layer that is different, and what the VGG was
    wanted for, `purpose`.
    """
    layers = [layer for _, layer in simplified(network.layers)]
    if layers and layers[-1].class_name in POOLINGS:  # at the end it has no weights, and Keras adds it as asked
        layers.pop()
    convolutions = sum(layer.class_name == "Conv2D" for layer in layers)
    classes = next((layer.settings["units"] for layer in reversed(layers) if layer.class_name == "Dense"), None)
    shape = network.input_shape if network.is_chain else (None, None, 3)
    chain = vgg_chain(convolutions if convolutions in NETWORKS else min(NETWORKS), shape, classes)
    pairs = [*zip_longest(layers, chain.layers)]
    different = next(((own, plain) for own, plain in pairs if not (own and plain and is_like(own, plain))), None)
    if different or not network.is_chain:
        layer, plain = different or (network.layers[-1], None)
        name = layer.name if layer else plain.name if plain else ""
        what = "isn't there" if layer is None else f"({layer.class_name}) isn't part of it"
        advice = ""
        with suppress(ValueError):
            base_of(network)
            advice = "; --base-only (include_top=False) leaves the head out"
        raise ValueError(f"{purpose} takes Keras's own VGG16 and VGG19, and layer {name!r} {what}{advice}")
    if network.kernels is not CONV2D_KERNEL:
        return network_of_layers(chain, layers)
    own = [
        replace(layer, name=plain.name, trainable=True, path=(), place="")
        for layer, plain in zip(layers, chain.layers, strict=True)
    ]
    return Network(chain.name, {INPUT: network.input_shape}, own, chain.nodes, chain.outputs)


def simplified(layers: Iterable[Layer]) -> list[tuple[int, Layer]]:
    """Numbers layers, and joins paddings and activations of their own to the convolutions, as Keras's VGG has them.

    Layers that are the identity at inference are left out.
    """
    done: list[tuple[int, Layer]] = []
    for number, layer in enumerate(layers):
        if isinstance(KINDS.get(layer.class_name), Regularization):
            continue
        if done and (joined := _joined(done[-1][1], layer)):
            done[-1] = (number if joined.name == layer.name else done[-1][0], joined)
        else:
            done.append((number, layer))
    return done


def _joined(before: Layer, layer: Layer) -> Layer | None:
    """Joins a convolution to the padding before it, or an activation to the convolution or Dense before it; else None."""
    is_padding = before.class_name == "ZeroPadding2D" and before.settings.get("padding") == ((1, 1), (1, 1))
    bare = {"kernel_size": (3, 3), "strides": (1, 1), "dilation_rate": (1, 1), "padding": "valid"}
    if is_padding and layer.class_name == "Conv2D" and layer.settings.items() >= bare.items():
        return replace(layer, settings=layer.settings | {"padding": "same"})
    if before.class_name in ("Conv2D", "Dense") and before.settings.get("activation") == "linear":
        if layer.class_name == "Activation":
            return replace(before, settings=before.settings | {"activation": layer.settings.get("activation")})
        if layer.class_name == "ReLU" and layer.settings and not shortened("ReLU", layer.settings):
            return replace(before, settings=before.settings | {"activation": "relu"})
    return None


def is_like(layer: Layer, plain: Described) -> bool:
    """Tells whether a layer computes what one of a VGG's does; the activation at the end may be another."""
    if layer.class_name != plain.class_name:
        return False
    wanted = read_settings(plain.class_name, plain.config, (1, 1, 1), "3")
    if plain.name == "predictions":
        del wanted["activation"]
    return layer.settings.items() >= wanted.items()


def convolutions_among(layers: Sequence[Layer]) -> list[int]:
    """Returns the numbers of a VGG's convolutions among layers in order; [] if there is no VGG."""
    found = _find_convolutions(layers)
    return [] if isinstance(found, _Difference) else found


class _Difference(NamedTuple):
    """How many layers are a VGG's, whether another one comes then, and what is wrong."""

    alike: int
    has_other: bool
    text: str


def _find_convolutions(layers: Iterable[Layer]) -> list[int] | _Difference:
    """Returns the numbers of a VGG's convolutions among layers in order; or where the layers differ, if there is no VGG.

    The last pool may be missing, but no other pooling may stand in its place.
    """
    plainly = simplified(layers)
    starts = [place for place, (_, layer) in enumerate(plainly) if layer.class_name == "Conv2D"]
    differences = [_Difference(0, False, "there is no convolution")]
    for count in NETWORKS:
        wanted = vgg_chain(count, (None, None, 3), None).layers
        for start in starts:
            pairs = list(zip_longest(plainly[start : start + len(wanted)], wanted))
            end, _ = pairs[-1]
            if not end or end[1].class_name not in ("MaxPooling2D", "AveragePooling2D"):
                pairs.pop()
            alike = next((n for n, (own, plain) in enumerate(pairs) if not (own and is_like(own[1], plain))), None)
            if alike is None:
                return [own[0] for own, plain in pairs if own and plain.class_name == "Conv2D"]
            own, plain = pairs[alike]
            reason = f"{own[1].name!r} ({own[1].class_name}) isn't like {plain.name}" if own else ""
            differences.append(_Difference(alike, own is not None, reason or f"{plain.name} is missing"))
    return max(differences, key=lambda difference: difference[:2])


def _as_layer(layer: Described, keras_version: str) -> Layer:
    """Reads a layer's settings, but leaves them out if they aren't understood.

    Channels-first images change nothing in a convolution.
    """
    class_name, config = layer.class_name, {**layer.config, "data_format": None}
    try:
        settings = read_settings(class_name, config, (None, None, 1), keras_version) if class_name in KINDS else {}
    except ValueError:
        settings = {}
    return Layer(class_name, layer.name, settings)


def _arrays_of(file: KerasFile, layer: Described) -> list[StoredArray]:
    """Finds a layer's own arrays by its place or its name."""
    group = layer.path[0] if file.is_named else layer.place
    arrays = [array for found in file.layers if found.name == group for array in whole_kernels(found.arrays, [layer])]
    return arrays if not file.is_named or len(layer.path) == 1 else [a for a in arrays if a.owner == layer.own_name]
