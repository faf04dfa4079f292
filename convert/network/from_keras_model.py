"""A Keras file with an architecture → its `Network`: each array to the layer that it belongs to."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ..errors import LayerError, listed
from ..layout import CONV2D_KERNEL, TURNED_KERNEL, UNCHANGED
from ..read.keras_file import KerasArray, KerasFile
from .architecture_json import read_entry
from .assemble import Planned, assemble
from .from_tensors import TorchArray
from .graph import Described
from .kernel_parts import StoredArray, whole_kernels
from .kinds import KINDS, Spec
from .network import Network
from .unfolding import CustomObjects, read_graph

# What Keras calls the arrays of a normalization, and PyTorch the tensors.
STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def network_of_keras_model(
    keras_file: KerasFile, config: dict[str, Any], custom_objects: CustomObjects | None = None
) -> Network:
    """Makes the network of a Keras file with an architecture, `config`.

    A `.weights.h5` and a checkpoint have a group for each layer. The older format has one for each of the model's own layers; where
    that is a nested model, the arrays of all its layers lie in it.

    Raises a ValueError if the architecture can't be converted, or an array is missing, left over, or not the layer's own.
    """
    left = {layer.name: layer.arrays for layer in keras_file.layers}

    def hand_out(planned: list[Planned]) -> Iterator[list[Any]]:
        groups: dict[str, list[Planned]] = defaultdict(list)
        for layer in planned:
            if keras_file.turned:
                _check_theano(layer)
            if layer.specs:
                group = layer.described.path[0] if keras_file.is_named else layer.described.place
                # KerasHub doesn't write a backbone's name, which may have a number.
                if group == "vgg_backbone" and group not in left:
                    group = next((name for name in left if re.fullmatch(r"vgg_backbone_\d+", name)), group)
                groups[group].append(layer)
        # Of a Sequential in a Sequential only the file has the name.
        is_unnamed = keras_file.keras_version.startswith("1")
        if (keras_file.by_order or is_unnamed) and keras_file.is_named:
            _rename(left, [entry.name for entry in model.layers if entry.name in groups])
        in_file = [name for name in left if name in groups]
        if keras_file.is_named and in_file != [group for group in groups if group in left]:
            raise ValueError(f"layers in another order than the architecture has them: {listed(in_file)}")
        found: dict[tuple[str, ...], list[Any]] = {}
        for group, layers in groups.items():
            class_name = layers[0].described.class_name
            within = [""] if keras_file.is_named else KINDS[class_name].groups
            own = [group + place for place in within]
            if class_name == "Custom":
                own = [name for name in left if name == group or name.startswith(f"{group}/")]
                if len(layers) == 1 and not any(left[name] for name in own):
                    found[layers[0].described.path] = _own_tensors(layers[0])
                    continue
            arrays = [array for name in own for array in left.pop(name, [])]
            found |= _distributed(layers, whole_kernels(arrays, (layer.described for layer in layers)))
        return (found.get(layer.described.path, []) for layer in planned)

    kernels = TURNED_KERNEL if keras_file.turned else CONV2D_KERNEL
    model = read_entry(config)
    graph = read_graph(model, keras_file.keras_version, custom_objects, keras_file.group_names)
    network = assemble(graph, hand_out, keras_file.keras_version, kernels)
    # A Dropout, and a layer that varies images, may have their random generator's state with them.
    used = {array.place for layer in keras_file.layers if layer.name not in left for array in layer.arrays}
    unused = [array for arrays in left.values() for array in arrays if array.place not in used]
    generator = re.compile("seed|random|generator")
    if surplus := [a.name for a in unused if a.dtype.is_floating_point or not generator.search(a.name)]:
        raise ValueError(f"arrays that belong to no layer: {listed(surplus)}")
    return network


def _check_theano(layer: Planned) -> None:
    """Raises a LayerError for what Theano computes in another way: other kernels, and paddings that aren't the same on both sides."""
    class_name, settings = layer.described.class_name, layer.settings
    reason = ""
    if class_name in ("Conv1D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D"):
        reason = "its kernel, by Theano, can't be converted"
    elif settings.get("padding") == "same":
        sizes = settings.get("kernel_size") or settings["pool_size"]
        if {*settings["strides"]} != {1} or any(n % 2 == 0 or (n > 3 and "pool_size" in settings) for n in sizes):
            reason = "padding='same' as Theano has it can't be converted but for odd sizes without strides"
    if reason:
        raise LayerError(layer.described.own_name, class_name, reason)


def _rename(groups: dict[str, list[KerasArray]], names: list[str]) -> None:
    """Gives the groups that have arrays these names, unless they have them already."""
    own = [group for group, arrays in groups.items() if arrays]
    if {*own} == {*names}:
        return
    if len(own) != len(names):
        raise ValueError(
            f"{len(own)} layers with arrays ({listed(own)}) for an architecture with {len(names)} such layers "
            f"({listed(names)})"
        )
    renamed = dict(zip(names, [groups[name] for name in own], strict=True))
    groups.clear()
    groups |= renamed


def _own_tensors(layer: Planned) -> list[TorchArray]:
    """Returns the tensors of a user's module as arrays, for a layer that has none in the file."""
    return [
        TorchArray(f"{layer.described.name}/{name}", tensor, UNCHANGED)
        for name, tensor in layer.settings["module"].state_dict().items()
    ]


def _distributed(layers: list[Planned], arrays: list[StoredArray]) -> dict[tuple[str, ...], list[StoredArray]]:
    """Distributes a group's arrays over its layers.

    Keras itself goes by order: first what is trained, of all layers, then the rest. (What a frozen model holds counts in
    Keras 3 as not trained, if the model is one of the file's own layers; in Keras 2 if it is not.) The names have to
    agree, where they are the layers' own; a layer that was renamed keeps its arrays' old names.
    """
    everything = [(layer.described, spec) for layer in layers for spec in layer.specs]
    in_order = sorted(everything, key=lambda own: not (own[0].comes_first and own[1].is_trained))
    by_order = {(described.path, spec.name): array for (described, spec), array in zip(in_order, arrays, strict=False)}
    names = {layer.described.own_name for layer in layers}
    are_own = all(array.owner in names for array in arrays)
    distributed = {}
    for described, _, specs in layers:
        own = [array for array in arrays if len(layers) == 1 or array.owner == described.own_name]
        if len(arrays) != len(everything):
            raise _other_arrays(described, specs, own)
        distributed[described.path] = [by_order[described.path, spec.name] for spec in specs]
        are_others = described.class_name != "Custom" and any(
            STATISTICS.get(array.name.rpartition("/")[2].partition(":")[0], spec.name) != spec.name
            for array, spec in zip(distributed[described.path], specs, strict=True)
        )
        if are_others or (are_own and any(array not in own for array in distributed[described.path])):
            raise _other_arrays(described, specs, own)
    return distributed


def _other_arrays(described: Described, specs: list[Spec], arrays: list[StoredArray]) -> LayerError:
    expected = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
    received = ", ".join(f"{array.name} {array.shape}" for array in arrays) or "none"
    reason = f"expected the arrays {expected}, in Keras's order. Received: {received}"
    return LayerError(
        described.own_name, described.class_name, reason, "weights and architecture have to be one model's"
    )
