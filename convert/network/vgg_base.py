"""The VGG's own convolutions in a larger network: U-Nets, other heads, models of models.

Where the architecture is known, the layers from the first convolution to the last pool have to be a VGG's; where it isn't, the
arrays' shapes have to do, and arrays of other layers between the convolutions are refused.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice, zip_longest
from typing import NamedTuple

from ..errors import LayerError
from ..layout import CONV2D_KERNEL, TURNED_KERNEL
from ..read.keras_file import KerasArray, KerasFile
from .architecture_json import Entry, read_entry
from .chain import Described, described, places_of, unfolded
from .from_keras_weights import vgg_of_arrays, vgg_of_pairs
from .from_tensors import network_of_layers
from .graph import path_to
from .kinds import KINDS
from .kinds.regularization import Regularization
from .network import Layer, Network
from .settings import read_settings, shortened
from .vgg_architecture import NETWORKS, POOLINGS, vgg_chain

LONGEST_WAY = 100  # layers looked at, backwards from any one: enough for VGG19 with paddings, activations and dropouts


def base_of(network: Network) -> Network:
    """Returns the VGG's own part of a network, under Keras's names, without what is in front and without the head.

    Raises a ValueError if there is no whole VGG in it.
    """
    found = _find_convolutions(network.layers)
    if isinstance(found, _Difference):
        raise ValueError(f"{network.name}: no whole VGG16 or VGG19 in it: {found.text}")
    base = [network.layers[number] for number in found]
    chain = vgg_chain(len(base), (None, None, base[0].weights[0].shape[1]), None)
    return network_of_layers(chain, base)


def base_of_keras_file(file: KerasFile) -> Network:
    """Returns the VGG's own part of what a Keras file holds. Raises a ValueError if there is no whole VGG in it."""
    kernels = TURNED_KERNEL if file.turned else CONV2D_KERNEL
    arrays = [array for array in file.arrays if array.dtype.is_floating_point]
    model = None if file.config is None else read_entry(file.config)
    if model and model.layers:
        convolutions = _described_convolutions(model, file.keras_version)
        pairs = [_arrays_of(file, layer) for layer in convolutions]
        if all(len(pair) == 2 for pair in pairs):
            return vgg_of_pairs([(kernel, bias) for kernel, bias in pairs], kernels)
        # The layers of a nested model were renamed: its group holds their arrays under their old names.
        arrays = next((group.arrays for group in file.layers if group.name == convolutions[0].path[0]), arrays)
    return vgg_of_arrays(arrays, None, base_only=True, kernels=kernels, in_order=file.is_named)


def _described_convolutions(model: Entry, keras_version: str) -> list[Described]:
    """Finds the convolutions of the VGG in a model. Raises a ValueError unless there is exactly one."""
    differences = []
    networks: dict[str, list[Described]] = {}
    for way in _ways(model, keras_version):
        found = _find_convolutions(_as_layer(layer, keras_version) for layer in way)
        if isinstance(found, _Difference):
            differences.append(found)
        else:
            networks.setdefault("/".join(way[found[0]].path), [way[number] for number in found])
    if len(networks) > 1:
        raise ValueError(f"{model.name}: more than one VGG in it, from {' and from '.join(list(networks)[:2])} on")
    for convolutions in networks.values():
        return convolutions
    closest = max(differences, key=lambda difference: difference[:2])
    raise ValueError(f"{model.name}: no whole VGG16 or VGG19 in it: {closest.text}")


def as_plain_vgg(network: Network, purpose: str) -> Network:
    """Returns a network as Keras's own VGG, under its names, with its arrays in Keras's layout, without dropouts.

    Raises a ValueError if it is another network, which names the first layer that is different, and what the VGG was
    wanted for, `purpose`.
    """
    layers = [layer for _, layer in simplified(network.layers)]
    if layers[-1].class_name in POOLINGS:  # at the end it has no weights, and Keras adds it as asked
        layers.pop()
    convolutions = sum(layer.class_name == "Conv2D" for layer in layers)
    classes = next((layer.settings["units"] for layer in reversed(layers) if layer.class_name == "Dense"), None)
    chain = vgg_chain(convolutions if convolutions in NETWORKS else min(NETWORKS), network.input_shape, classes)
    for layer, plain in zip_longest(layers, chain.layers):
        if layer is None or plain is None or not is_like(layer, plain):
            name = layer.name if layer else plain.name
            what = "isn't there" if layer is None else f"({layer.class_name}) isn't part of it"
            has_base = not isinstance(_find_convolutions(network.layers), _Difference)
            advice = "; --base-only (include_top=False) leaves the head out" if has_base else ""
            raise ValueError(f"{purpose} takes Keras's own VGG16 and VGG19, and layer {name!r} {what}{advice}")
    if network.kernels is not CONV2D_KERNEL:
        return network_of_layers(chain, layers)
    own = [replace(layer, name=plain.name, trainable=True) for layer, plain in zip(layers, chain.layers, strict=True)]
    return Network(chain.name, chain.input_shape, own)


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


def _ways(model: Entry, keras_version: str, outer: Described | None = None) -> Iterator[list[Described]]:
    """Yields rows of layers, each fed by the one before: a model's, if it is a chain; else the ways to each of its layers;
    and those of the models in it, and in the layers that wrap one, TimeDistributed say.
    """
    place_of, chain = places_of(model), []
    try:
        for layer in unfolded(model, keras_version, outer):
            chain.append(layer)
        yield chain
    except LayerError:
        yield chain
        by_name = {entry.name: entry for entry in model.layers}
        for name in by_name:
            way: list[Described] = []
            with suppress(LayerError):
                for entry in islice(path_to(name, by_name), LONGEST_WAY):
                    way.insert(0, described(entry, place_of.get(entry.name, ""), keras_version, outer))
            yield way
    for entry in model.layers:
        layer = described(entry, place_of[entry.name], keras_version, outer)
        if entry.layers:
            yield from _ways(entry, keras_version, layer)
        elif entry.wrapped and entry.wrapped.layers:
            yield from _ways(entry.wrapped, keras_version, replace(layer, place=f"{layer.place}/layer"))


def _arrays_of(file: KerasFile, layer: Described) -> list[KerasArray]:
    """Finds a layer's own arrays by its place or its name."""
    group = layer.path[0] if file.is_named else layer.place
    arrays = [array for found in file.layers if found.name == group for array in found.arrays]
    return arrays if not file.is_named or len(layer.path) == 1 else [a for a in arrays if a.owner == layer.own_name]
