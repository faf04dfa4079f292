"""The arrays of a Keras file → the convolutions, dense layers and normalizations that they belong to, in order.

For a module of the user's own. With an architecture each layer is known; without one, names and shapes have to tell.
"""

import math
from collections.abc import Iterator

from ..errors import LayerError
from ..layout import (
    CONV1D_KERNEL,
    CONV2D_KERNEL,
    DECONVOLUTION_KERNEL,
    DENSE_KERNEL,
    TURNED_KERNEL,
    UNCHANGED,
    Layout,
    flattened_dense_kernel,
)
from ..layout import flattened as flattened_layout
from ..read.keras_file import GroupNames, KerasArray, KerasFile
from .from_keras_model import network_of_keras_model
from .network import Layer, Weight
from .vgg_architecture import CONVOLUTION_NAME

KERNELS = {
    "Conv1D": CONV1D_KERNEL,
    "Conv2D": CONV2D_KERNEL,
    "Conv2DTranspose": DECONVOLUTION_KERNEL,
    "Dense": DENSE_KERNEL,
}
STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
WHOLE = "save the whole model, model.save('x.keras'), or give its architecture"


def plain_layers(file: KerasFile, flattened: tuple[int, int] | None = None) -> list[Layer]:
    """Finds the layers that have arrays; their settings are known if the file has an architecture.

    Args:
        file: an open file.
        flattened: the `(height, width)` of the maps that are flattened before the first dense layer, if they aren't square and
            the file has no architecture.

    Raises:
        ValueError: an array is of no such layer, or the order isn't known; the message names it.
    """
    if file.config is not None:
        return [layer for layer in network_of_keras_model(file, file.config).layers if layer.weights]
    layers = [_layer(file, name, arrays) for name, arrays in _groups(file)]
    if file.group_names is GroupNames.CLASS:
        for class_name in {layer.class_name for layer in layers}:
            models = {layer.name.rpartition("layers/")[0] for layer in layers if layer.class_name == class_name}
            if len(models) > 1:
                raise ValueError(
                    f"{class_name} in two models, {' and '.join(sorted(models)[:2])}, in an order that isn't known; {WHOLE}"
                )
    return _reordered(layers, flattened)


def _groups(file: KerasFile) -> Iterator[tuple[str, list[KerasArray]]]:
    """Yields each layer's name and arrays. A nested model is one group of named layers, whose names may tell the order."""
    for group in file.layers:
        owners: dict[str, list[KerasArray]] = {}
        for array in group.arrays:
            if array.dtype.is_floating_point:  # a Dropout may have its random generator's state
                owners.setdefault(array.owner if file.is_named else "", []).append(array)
        if all(CONVOLUTION_NAME.fullmatch(owner) for owner in owners):
            owners = dict(sorted(owners.items()))
        yield from ((owner or group.name, arrays) for owner, arrays in owners.items())


def _layer(file: KerasFile, name: str, arrays: list[KerasArray]) -> Layer:
    ranks = [len(array.shape) for array in arrays]
    parts = [array.name.rpartition("/")[2].partition(":")[0] for array in arrays]
    class_name = None
    if ranks[1:] in ([], [1]) and ranks[0] in (2, 3, 4):
        class_name = {2: "Dense", 3: "Conv1D", 4: "Conv2D"}[ranks[0]]
        if "conv2d_transpose" in name:
            class_name = "Conv2DTranspose"
        if "embedding" in f"{name}{parts[0]}":
            class_name = "Embedding"
        if "depthwise" in f"{name}{parts[0]}":
            class_name = None
    elif set(ranks) == {1} and len({array.shape for array in arrays}) == 1:
        is_batch = "batch_norm" in name or any(part.startswith("moving") for part in parts)
        class_name = "BatchNormalization" if len(arrays) == 4 or is_batch else "LayerNormalization"
    if class_name is None:
        shapes = ", ".join(str(array.shape) for array in arrays[:5])
        raise ValueError(f"{name}: arrays {shapes}, of no convolution, dense layer or normalization; {WHOLE}")
    names = _names(name, class_name, parts)
    kernel: Layout = KERNELS.get(class_name, UNCHANGED)
    if file.turned and class_name == "Conv2D":
        kernel = TURNED_KERNEL
    layouts = [kernel if len(array.shape) > 1 else UNCHANGED for array in arrays]
    return Layer(class_name, name, {}, [Weight(*each) for each in zip(names, arrays, layouts, strict=True)])


def _names(name: str, class_name: str, parts: list[str]) -> list[str]:
    """Returns the tensors' names in PyTorch."""
    if class_name != "BatchNormalization":
        return ["weight", "bias"][: len(parts)]
    if len(parts) == 4:
        return list(STATISTICS.values())
    if len(parts) == 2:  # neither scaled nor shifted
        return list(STATISTICS.values())[2:]
    found = [STATISTICS[part] for part in parts if part in STATISTICS]
    if len(found) < len(parts) or len(parts) != 3:
        raise ValueError(f"{name}: {len(parts)} arrays, of which it isn't known what each is; {WHOLE}")
    return found


def _reordered(layers: list[Layer], flattened: tuple[int, int] | None) -> list[Layer]:
    """Gives what takes flattened maps the layout of features that PyTorch flattens in its own order."""
    convolutions = [layer for layer in layers if layer.class_name.startswith("Conv")]
    dense = next((layer for layer in layers if layer.class_name == "Dense"), None)
    if not (convolutions and dense):
        return layers
    channels, features = convolutions[-1].weights[0].shape[0], dense.weights[0].array.shape[0]
    if convolutions[-1].class_name == "Conv2DTranspose":
        channels = convolutions[-1].weights[0].shape[1]
    if features == channels:  # of a global pooling
        return layers
    places, rest = divmod(features, channels)
    side = math.isqrt(places)
    height, width = flattened or (side, side)
    if rest or height * width != places:
        expected = f"flattened=({height}, {width})" if flattened else "square ones"
        raise LayerError(
            dense.name,
            "Dense",
            f"it takes {features} features of maps with {channels} channels, which aren't {expected}",
            f"give flattened=(height, width) of the maps, or {WHOLE}",
        )
    for layer in layers:
        first = layer.weights[0].array.shape[0]
        if layer is dense or (layer.class_name == "BatchNormalization" and first == features):
            layer.weights[:] = [
                Weight(weight.name, weight.array, _flat(weight, layer is dense, height, width))
                for weight in layer.weights
            ]
    return layers


def _flat(weight: Weight, is_dense: bool, height: int, width: int) -> Layout:
    if is_dense:
        return flattened_dense_kernel(height, width) if weight.name == "weight" else weight.layout
    return flattened_layout(height, width)
