"""The arrays of a Keras file → the convolutions, dense layers and normalizations that they belong to, in order.

For a module of the user's own. With an architecture each layer is known. Without one, names and shapes have to tell: layers that
aren't a plain chain, each as wide as the next takes it, are refused.
"""

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ..layout import CONV2D_KERNEL, DENSE_KERNEL, TURNED_KERNEL, UNCHANGED, Layout, flattened_dense_kernel
from ..layout import flattened as flattened_features
from ..read.keras_file import KerasArray, KerasFile
from .from_keras_model import STATISTICS, network_of_keras_model
from .from_keras_weights import is_numbered
from .network import Layer, Weight
from .vgg_architecture import CONVOLUTION_NAME

KERNELS = {2: ("Dense", DENSE_KERNEL), 4: ("Conv2D", CONV2D_KERNEL)}  # by rank
MOVED = ("Reshape", "Permute", "RepeatVector", "GetItem", "Stack")  # which PyTorch's modules would move in another way
WHOLE = "save the whole model, model.save('x.keras'), or give its architecture"


def plain_layers(file: KerasFile, flattened: tuple[int, int] | None = None) -> list[Layer]:
    """Finds the layers that have arrays; their settings are known if the file has an architecture.

    Args:
        file: an open file.
        flattened: the `(height, width)` of the maps that are flattened for a dense layer, if the file has no architecture; (1, 1)
            says that nothing is. By default it is found by the number of features, with a warning.

    Raises:
        ValueError: an array is of no such layer, or the layers are no plain chain; the message names what is in the way.
    """
    if file.config is None:
        return list(_in_pytorchs_order(file, [_layer(file, name, arrays) for name, arrays in _groups(file)], flattened))
    network = network_of_keras_model(file, file.config)
    if outside := [layer.name for layer in network.layers if layer.class_name in ("Rescaling", "PreprocessInput")]:
        warnings.warn(f"{', '.join(outside)}: in the file's model, and for the module to do itself", stacklevel=4)
    for layer in network.layers:
        if layer.class_name in MOVED or layer.settings.get("order") == "channels_last":
            raise ValueError(
                f"layer {layer.name!r} ({layer.class_name}): it orders features as Keras does, and a module of PyTorch's "
                "wouldn't; load_model makes one that does"
            )
    return [layer for layer in network.layers if layer.weights]


def _groups(file: KerasFile) -> Iterator[tuple[str, list[KerasArray]]]:
    """Yields each layer's name and arrays, in order.

    A nested model is one group, first of what is trained: its layers' names have to tell that nothing is frozen, or the order.
    """
    for group in file.unshared:
        owners: dict[str, list[KerasArray]] = {}
        for array in group.arrays:
            if array.dtype.is_floating_point:  # a Dropout may have its random generator's state
                owners.setdefault(array.owner if file.is_named else "", []).append(array)
        if all(CONVOLUTION_NAME.fullmatch(owner) for owner in owners):
            owners = dict(sorted(owners.items()))
        by_shape: dict[tuple[int, ...], KerasArray] = {}
        for first, *_ in owners.values():
            before = by_shape.setdefault(first.shape, first)
            if before is not first and not (is_numbered(before, first) and _numbers(before) < _numbers(first)):
                raise ValueError(f"{before.name} and {first.name}: it isn't known which comes first; {WHOLE}")
            by_shape[first.shape] = first
        yield from ((owner or group.name, arrays) for owner, arrays in owners.items())


def _numbers(array: KerasArray) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", array.owner)]


def _layer(file: KerasFile, name: str, arrays: list[KerasArray]) -> Layer:
    ranks = [len(array.shape) for array in arrays]
    own = name.rpartition("/")[2]
    parts = [array.name.rpartition("/")[2].partition(":")[0] for array in arrays]
    others = ("embedding", "transpose", "depthwise", "separable")
    if ranks[0] in KERNELS and ranks[1:] in ([], [1]) and not any(other in f"{own}{parts[0]}" for other in others):
        class_name, kernel = KERNELS[ranks[0]]
        kernel = TURNED_KERNEL if file.turned and class_name == "Conv2D" else kernel
        return _with_weights(class_name, name, arrays, ["weight", "bias"], [kernel, UNCHANGED])
    if {*ranks} == {1} and len({array.shape for array in arrays}) == 1:
        is_batch = "batch_norm" in own or {"moving_mean", "moving_variance"} <= {*parts}
        if len(arrays) == 4:
            return _with_weights("BatchNormalization", name, arrays, list(STATISTICS.values()))
        if is_batch and len(arrays) == 2:  # neither scaled nor shifted
            return _with_weights("BatchNormalization", name, arrays, list(STATISTICS.values())[2:])
        if is_batch and {*parts} <= STATISTICS.keys():
            return _with_weights("BatchNormalization", name, arrays, [STATISTICS[part] for part in parts])
        if "layer_norm" in own or parts == ["gamma", "beta"]:
            return _with_weights("LayerNormalization", name, arrays, ["weight", "bias"])
    shapes = ", ".join(str(array.shape) for array in arrays[:5])
    raise ValueError(f"{name}: arrays {shapes}, of which it isn't known what they are; {WHOLE}")


def _with_weights(
    class_name: str, name: str, arrays: list[KerasArray], names: list[str], layouts: list[Layout] | None = None
) -> Layer:
    layouts = layouts or [UNCHANGED] * len(arrays)
    return Layer(class_name, name, {}, [Weight(*each) for each in zip(names, arrays, layouts, strict=False)])


def _in_pytorchs_order(file: KerasFile, layers: list[Layer], flattened: tuple[int, int] | None) -> Iterator[Layer]:
    """Yields the layers of a chain, with what takes flattened maps in PyTorch's order. Raises a ValueError if they are none."""
    if file.in_order:
        chain = _Chain(flattened)
        yield from (chain.take(layer) for layer in layers)
        return
    for class_name in {layer.class_name for layer in layers}:
        for before, after in pairwise(layer for layer in layers if layer.class_name == class_name):
            if not is_numbered(before.weights[0].array, after.weights[0].array):  # in two models, or of any name
                raise ValueError(f"{before.name} and {after.name}: it isn't known which comes first; {WHOLE}")
    # HDF5 sorts the layers by their classes: where the normalizations stand, their widths have to tell.
    chain = _Chain(flattened)
    plain = [layer for layer in layers if "Normalization" not in layer.class_name]
    for layer in sorted(plain, key=lambda layer: layer.class_name != "Conv2D"):
        yield chain.take(layer)
    for layer in (layer for layer in layers if "Normalization" in layer.class_name):
        (width,) = layer.weights[0].array.shape
        if chain.widths and (width in chain.widths) == (width in chain.flat):
            raise ValueError(f"{layer.name}: it isn't known where it stands, by its width {width}; {WHOLE}")
        yield _moved(layer, chain.flat.get(width))


class _Chain:
    """Follows how many features go from layer to layer.

    Attributes:
        width: the number of channels or features now; None before the first layer.
        moved: the size of the maps that these features were flattened from, until a dense layer takes them.
        widths: of the outputs so far; `flat` has the sizes of flattened maps by the number of features.
    """

    def __init__(self, flattened: tuple[int, int] | None) -> None:
        self.flattened = flattened
        self.width: int | None = None
        self.moved: tuple[int, int] | None = None
        self.is_flat = False
        self.widths: set[int] = set()
        self.flat: dict[int, tuple[int, int]] = {}

    def take(self, layer: Layer) -> Layer:
        """Returns the next layer in PyTorch's order. Raises a ValueError if it doesn't take what the one before gives."""
        shape = layer.weights[0].array.shape
        taken = shape[-2] if len(shape) > 1 else shape[0]
        if self.width is None:
            if layer.class_name == "Dense" and self.flattened:
                self._flatten(layer, taken, 0)
            elif layer.class_name == "Dense":
                warnings.warn(
                    f"{layer.name}: taken to follow no flatten; if it does, say flattened=(height, width)", stacklevel=5
                )
        elif layer.class_name == "Conv2D" and taken and self.width % taken == 0:
            pass  # its kernel takes all channels, or those of one group
        elif taken != self.width:
            if self.is_flat or layer.class_name == "Conv2D":
                raise ValueError(
                    f"{layer.name} takes {taken} features, and the layer before gives {self.width}: no chain; {WHOLE}"
                )
            self._flatten(layer, taken, self.width)
        layer = _moved(layer, self.moved)
        self.width = shape[-1]
        if layer.class_name == "Dense":
            self.moved = None
        if layer.class_name != "BatchNormalization":
            self.widths.add(self.width)
        return layer

    def _flatten(self, layer: Layer, features: int, channels: int) -> None:
        if self.flattened == (1, 1):
            self.is_flat = True
            return
        places = math.prod(self.flattened) if self.flattened else features // channels
        if not places or features % places or (channels and places * channels != features):
            given = f"flattened={self.flattened}" if self.flattened else "flattened whole"
            raise ValueError(
                f"{layer.name} takes {features} features of maps with {channels or 'some'} channels, which aren't {given}; give "
                f"flattened=(height, width) of the maps, or {WHOLE}"
            )
        if not self.flattened:
            warnings.warn(
                f"{layer.name}: taken to follow the flatten of maps with {channels} channels and {places} places; if it does, say "
                "flattened=(height, width), else flattened=(1, 1)",
                stacklevel=6,
            )
        self.moved, self.is_flat = (places, 1), True  # in what order the places come changes nothing
        self.flat[features] = self.moved


def _moved(layer: Layer, size: tuple[int, int] | None) -> Layer:
    """Gives a layer's arrays the layout of features that PyTorch flattens in its own order."""
    if not size:
        return layer
    weights = []
    for weight in layer.weights:
        layout = flattened_features(*size) if layer.class_name != "Dense" else weight.layout
        if layer.class_name == "Dense" and weight.name == "weight":
            layout = flattened_dense_kernel(*size)
        weights.append(replace(weight, layout=layout))
    return replace(layer, weights=weights)
