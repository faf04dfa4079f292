"""An ONNX file, as tf2onnx or PyTorch makes it of a chain of Keras's layers → its `Network`.

The nodes are followed from the input on, each fed by the one before. What only moves axes is no layer: Keras's images are
channels-last, ONNX's channels-first, and it's known at each node where the channels are.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..layout import CONV2D_KERNEL, UNCHANGED, Layout
from ..read.onnx_file import OnnxFile, OnnxNode
from .assemble import assemble
from .from_tensors import TorchArray
from .graph import Described, chain, chained, uniquely_named
from .kinds import KINDS, Features, Shape
from .network import Network
from .settings import read_settings
from .vgg_architecture import vgg_chain
from .vgg_base import base_of, convolutions_among

LONGEST = 16  # numbers of a shape, and what is computed of it
BATCH, UNKNOWN = "batch", "?"  # numbers of a shape that aren't in the file
_TYPES: dict[str, Any] = {  # of the attributes that are read
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "perm", "axes"), list),
    **dict.fromkeys(("group", "axis", "keepdims", "ceil_mode", "storage_order", "count_include_pad"), int),
    **dict.fromkeys(("transA", "transB", "to", "training_mode"), int),
    **dict.fromkeys(("alpha", "beta", "epsilon"), float),
    **dict.fromkeys(("auto_pad", "mode"), str),
    "value": float | Tensor,
}
_INNER = ("batchnorm", "convolution", "Conv2D", "BiasAdd", "Cast", "MatMul", "Add")  # within a layer's scope


def network_of_onnx_file(file: OnnxFile, base_only: bool) -> Network:
    """Makes the network of an ONNX file, or of the VGG in it. Raises a ValueError for what is no chain of known operators."""
    if base_only:
        return _base_of_onnx_file(file)
    if len(file.inputs) != 1 or len(file.outputs) != 1:
        raise ValueError(f"a graph of {len(file.inputs)} inputs and {len(file.outputs)} outputs; expected a chain")
    ((name, sizes),) = file.inputs.items()
    if len(sizes) != 4:
        raise ValueError(f"{name}: expected images, an input of 4 axes. Received: {sizes}")
    reader = _Reader(file, name, _first_order(file.nodes), sizes)
    for node in file.nodes:
        reader.read(node)
    if reader.current != file.outputs[0]:
        raise ValueError(f"the output {file.outputs[0]!r} isn't the end of a chain from the input {name!r}")
    return reader.network()


def _first_order(nodes: list[OnnxNode]) -> str:
    """Tells how the images come: channels-last if what first depends on that is a Transpose to channels-first."""
    moves = ("Transpose", "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization")
    for node in nodes:
        if node.operator in moves:
            return "NHWC" if node.attributes.get("perm") == [0, 3, 1, 2] else "NCHW"
    return "NHWC"


def _base_of_onnx_file(file: OnnxFile) -> Network:
    """Follows the nodes from each convolution that may be a VGG's first, as far as they are understood.

    Raises a ValueError unless there is exactly one VGG.
    """
    found, problem = [], ValueError("no VGG in it: there is no convolution like its first")
    for place, node in enumerate(file.nodes):
        kernel = file.tensors.get(node.inputs[1]) if node.operator == "Conv" and len(node.inputs) > 1 else None
        if kernel is None or kernel.dim() != 4 or kernel.shape[::2] != (64, 3):
            continue
        reader = _Reader(file, node.inputs[0], "NCHW", [None, kernel.shape[1], None, None])
        for following in file.nodes[place:]:
            if reader.current in following.inputs:
                with suppress(ValueError):
                    reader.read(following)
        try:
            found.append(base_of(reader.network()))
        except ValueError as error:
            problem = error
    if len(found) > 1:
        raise ValueError(f"{len(found)} VGGs in it; expected one")
    if not found:
        raise problem
    return found[0]


@dataclass
class _Layer:
    """A layer that nodes have made so far: its class, configuration, and arrays in Keras's order."""

    class_name: str
    scope: str
    config: dict[str, Any]
    arrays: list[TorchArray] = field(default_factory=list)

    @property
    def lacks_activation(self) -> bool:
        return self.class_name in ("Conv2D", "Dense") and "activation" not in self.config

    @property
    def lacks_bias(self) -> bool:
        return self.lacks_activation and not self.config["use_bias"]


class _Reader:
    """Makes layers of nodes, one after the other. A ValueError tells of a node that isn't understood, or doesn't go on from the last.

    Attributes:
        current: the name of what the last node made.
        order: its axes, "NHWC", "NCHW", or "NC" once it is flat; `shape` is Keras's, without the batch.
        moved: the `(height, width)` of features that were flattened channels-first; None in Keras's order.
        shapes: the sizes of what each node made, in ONNX's order; `computed` is what is computed of such.
    """

    def __init__(self, file: OnnxFile, start: str, order: str, sizes: list[int | None]) -> None:
        self.file, self.current, self.order, self.batch = file, start, order, sizes[0]
        self.tensors: dict[str, Tensor] = dict(file.tensors)
        self.shape: Shape = tuple(sizes[order.index(axis)] for axis in "HWC")
        self.input_shape = self.shape
        self.moved: tuple[int, int] | None = None
        self.layers: list[_Layer] = []
        self.shapes: dict[str, list[Any]] = {start: self._sizes()}
        self.computed: dict[str, Any] = {}

    def network(self) -> Network:
        """Assembles the network, whose convolutions have Keras's names where they are a VGG's."""
        if self.moved and max(self.moved) > 1:
            raise ValueError("features that are flattened channels-first and don't go into a dense layer")
        names = _layer_names(self.layers)
        pairs = zip(self.layers, names, strict=True)
        described = [Described(layer.class_name, name, layer.config) for layer, name in pairs]
        graph = chain("model", self.input_shape, uniquely_named(described))
        network = assemble(graph, lambda planned: (layer.arrays for layer in self.layers))
        return _with_keras_names(network)

    def read(self, node: OnnxNode) -> None:
        """Reads the next node, in the file's order."""
        others = [name for name in node.inputs if name != self.current]
        are_constant = all(not name or name in self.tensors or name in self.computed for name in others)
        try:
            for name, value in node.attributes.items():
                is_right = isinstance(value, _TYPES.get(name, object))
                _need(is_right, f"its attribute {name!r} is of another type than ONNX's")
            numbers = [value for value in node.attributes.values() if isinstance(value, Tensor | list | int | float)]
            if node.operator == "Constant" and numbers:  # its attribute is value, value_ints, value_int or value_float
                self.tensors[node.outputs[0]] = torch.as_tensor(numbers[0])
            elif node.operator == "Shape" and node.inputs[0] in self.shapes and not node.attributes:
                self.computed[node.outputs[0]] = self.shapes[node.inputs[0]]
            elif node.inputs and are_constant and self.current not in node.inputs:
                self._compute(node)
            elif not are_constant or self.current not in node.inputs:
                raise ValueError(
                    "it isn't fed by the node before and numbers in the file alone; only chains can be converted"
                )
            else:
                self._follow(node)
                self.current = node.outputs[0]
                self.shapes[self.current] = self._sizes()
        except (ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, ValueError) else "inputs or outputs are missing"
            raise ValueError(f"node {node.name!r} ({node.operator}): {reason}") from None

    def _sizes(self) -> list[Any]:
        """Lists the sizes of the current tensor, in ONNX's order."""
        sizes = dict(zip("HWC" if self.order != "NC" else "C", self.shape, strict=True))
        return [BATCH if axis == "N" else UNKNOWN if sizes[axis] is None else sizes[axis] for axis in self.order]

    def _compute(self, node: OnnxNode) -> None:
        """Computes numbers of a shape; or gives a tensor another name."""
        values = [self._numbers(name) for name in node.inputs if name]
        out, first = node.outputs[0], values[0] or []
        match node.operator, values:
            case ("Identity", _) if node.inputs[0] in self.tensors:
                self.tensors[out] = self.tensors[node.inputs[0]]
            case ("Transpose", _) if node.inputs[0] in self.tensors and self.tensors[node.inputs[0]].dim() == 2:
                self.tensors[out] = self.tensors[node.inputs[0]].t()
            case (("Identity" | "Cast" | "Unsqueeze" | "Squeeze" | "Reshape"), [[*_], *_]):
                self.computed[out] = first
            case "Gather", [[*_], [*places]] if all(isinstance(place, int) for place in places):
                self.computed[out] = [first[place] for place in places]
            case "Slice", [[*_], [int(start)], [int(end)], *rest] if rest in ([], [[0]], [[0], [1]]):
                self.computed[out] = first[start:end]
            case "Concat", _ if None not in values:
                self.computed[out] = [number for value in values for number in value or []][: LONGEST + 1]
            case (("Mul" | "ReduceProd"), [[*_], *_]):
                self.computed[out] = [UNKNOWN]
            case _:
                raise ValueError("an operator that can't be converted")

    def _numbers(self, name: str) -> list[Any] | None:
        """Returns the few whole numbers of that name; None for other tensors. A scalar is a list of one."""
        if name in self.computed:
            return self.computed[name]
        tensor = self.tensors.get(name)
        if tensor is None or tensor.numel() > LONGEST or tensor.is_floating_point():
            return None
        return tensor.flatten().tolist()

    def _axes(self, node: OnnxNode) -> str:
        """Returns the axes that a node names, in an attribute, or an input of later versions, sorted, "HW" for an image's."""
        axes = node.attributes.get("axes") or (self._numbers(node.inputs[1]) if len(node.inputs) > 1 else None) or []
        rank = len(self.order)
        are_axes = axes and all(isinstance(axis, int) and -rank <= axis < rank for axis in axes)
        _need(are_axes, f"axes {axes} can't be converted")
        return "".join(sorted(self.order[axis] for axis in axes))

    def _add(
        self, class_name: str, node: OnnxNode, config: dict[str, Any], *arrays: tuple[str, Tensor, Layout]
    ) -> None:
        """Adds a layer. Its arrays are PyTorch's, each with the layout that Keras's has to it."""
        settings = read_settings(class_name, config, self.shape, "3")
        output = KINDS[class_name].output(settings, self.shape)
        scope = _scope(node.name) or next((_scope(name) for name in node.inputs if name in self.file.tensors), "")
        self.layers.append(_Layer(class_name, scope, config, [TorchArray(*array) for array in arrays]))
        self.shape = output

    def _constant(self, node: OnnxNode, place: int) -> Tensor:
        """Returns a tensor of floating-point numbers among a node's inputs."""
        tensor = self.tensors.get(node.inputs[place])
        if tensor is None or not tensor.is_floating_point():
            raise ValueError(f"{node.inputs[place]!r} is no tensor of numbers in the file")
        return tensor

    @property
    def _last(self) -> _Layer | None:
        return self.layers[-1] if self.layers else None

    def _follow(self, node: OnnxNode) -> None:
        """Reads a node that goes on from the current tensor."""
        get = node.attributes.get
        match node.operator:
            case "Conv":
                self._convolution(node)
            case "MaxPool" | "AveragePool":
                self._pooling(node)
            case "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceMax":
                self._global_pooling(node)
            case "MatMul" | "Gemm":
                self._matrix(node)
            case "Add" | "Sub" | "Mul" | "Div":
                self._arithmetic(node)
            case "BatchNormalization":
                self._normalization(node)
            case "Flatten" | "Reshape":
                self._flatten(node)
            case "Squeeze":
                _need(self._axes(node) == "HW", "only the axes of pixels can be left out")
                self._drop_pixels()
            case "Pad":
                self._padding(node)
            case "Transpose":
                order = "".join(self.order[axis] for axis in get("perm", []) if -1 < axis < len(self.order))
                _need(order in ("NHWC", "NCHW"), f"perm={get('perm')} of {self.order} can't be converted")
                self.order = order
            case "Softmax":
                channels, rank, is_new = self.order.index("C"), len(self.order), self.file.version > 12
                axis = get("axis", -1 if is_new else 1)
                is_channels = axis in (channels, channels - rank) and (is_new or rank == 2)
                _need(is_channels, f"axis={axis} can't be converted, only the channels'")
                self._activation(node, "softmax")
            case "Elu" if get("alpha", 1.0) != 1:
                self._add("ELU", node, {"alpha": get("alpha")})
            case "LeakyRelu":
                self._add("LeakyReLU", node, {"negative_slope": get("alpha", 0.01)})
            case "Relu" | "Sigmoid" | "Tanh" | "Softplus" | "Softsign" | "Elu":
                self._activation(node, node.operator.lower())
            case "Identity" | "Dropout" | "Cast" if get("to", 1) in (1, 10, 11, 16):
                pass
            case _:
                raise ValueError("an operator that can't be converted")

    def _activation(self, node: OnnxNode, name: str) -> None:
        """Joins an activation to the layer before, unless it has a scope of its own, or there is one already."""
        last = self._last
        if last and last.lacks_activation and _scope(node.name) in ("", last.scope):
            last.config["activation"] = name
        else:
            self._add("Activation", node, {"activation": name})

    def _convolution(self, node: OnnxNode) -> None:
        _need(self.order == "NCHW", "expected channels-first images")
        kernel, get = self._constant(node, 1), node.attributes.get
        bias = [self._constant(node, 2)] if len(node.inputs) > 2 and node.inputs[2] else []
        _need(kernel.dim() == 4, f"a kernel of {kernel.dim()} axes can't be converted, only an image's")
        size, strides, rates = [*kernel.shape[2:]], get("strides", [1, 1]), get("dilations", [1, 1])
        padding, margins = self._margins(node, size, strides, rates)
        if margins:
            self._add("ZeroPadding2D", OnnxNode("Pad", "", [], [], {}), {"padding": margins})
        window = {"kernel_size": size, "strides": strides, "dilation_rate": rates, "padding": padding}
        config = {"filters": len(kernel), **window, "groups": get("group", 1), "use_bias": bool(bias)}
        arrays = [(node.inputs[1], kernel, CONV2D_KERNEL), *((node.inputs[2], each, UNCHANGED) for each in bias)]
        self._add("Conv2D", node, config, *arrays)

    def _margins(self, node: OnnxNode, kernel: list[int], strides: list[int], dilations: list[int]) -> tuple[str, Any]:
        """Returns Keras's padding; or "valid", and the margins that come before."""
        pads, auto = node.attributes.get("pads", [0] * 4), node.attributes.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "VALID"):
            return auto.removesuffix("_UPPER").lower(), None
        lists = (kernel, strides, dilations)
        are_sizes = all(len(each) == 2 and min(each) > 0 for each in lists) and len(pads) == 4 and min(pads) >= 0
        _need(are_sizes and auto == "NOTSET", f"pads={pads}, auto_pad={auto} can't be converted")
        same = []
        for n, size, step, rate in zip(self.shape[:2], *lists, strict=True):
            reach = rate * (size - 1)
            total = reach if step == 1 else -1 if n is None else max((n - 1) // step * step + reach + 1 - n, 0)
            same.append((total // 2, total - total // 2))
        margins = [*zip(pads[:2], pads[2:], strict=True)]
        return ("valid", None) if not any(pads) else ("same", None) if margins == same else ("valid", margins)

    def _pooling(self, node: OnnxNode) -> None:
        _need(self.order == "NCHW", "expected channels-first images")
        get, size = node.attributes.get, node.attributes.get("kernel_shape", [])
        strides = get("strides", [1, 1])
        padding, margins = self._margins(node, size, strides, [1, 1])
        others = {"ceil_mode": 0, "storage_order": 0, "count_include_pad": 0, "dilations": [1, 1]}
        is_counted = padding == "valid" and not margins  # where nothing is padded, it is all the same
        wrong = [k for k, v in others.items() if get(k, v) != v and not (is_counted and k == "count_include_pad")]
        _need(not margins and not wrong, f"pads={margins} {' '.join(wrong)} can't be converted")
        class_name = "MaxPooling2D" if node.operator == "MaxPool" else "AveragePooling2D"
        self._add(class_name, node, {"pool_size": size, "strides": strides, "padding": padding})

    def _global_pooling(self, node: OnnxNode) -> None:
        is_reduction = node.operator.startswith("Reduce")
        if is_reduction:
            _need(self._axes(node) == "HW", "only a mean or maximum over whole images can be converted")
        else:
            _need(self.order == "NCHW", "expected channels-first images")
        is_mean = node.operator in ("GlobalAveragePool", "ReduceMean")
        self._add("GlobalAveragePooling2D" if is_mean else "GlobalMaxPooling2D", node, {"keepdims": True})
        if is_reduction and not node.attributes.get("keepdims", 1):
            self._drop_pixels()

    def _drop_pixels(self) -> None:
        """Makes flat features of an image of one pixel: Keras's global poolings do it themselves."""
        _need(self.shape[:2] == (1, 1), f"an image of {self.shape[:2]} pixels")
        if self.layers and self.layers[-1].config.get("keepdims"):
            self.layers[-1].config.clear()
        else:
            self.layers.append(_Layer("Flatten", "", {}))
        self.order, self.shape = "NC", self.shape[2:]

    def _flatten(self, node: OnnxNode) -> None:
        if node.operator == "Reshape":
            wanted = self._numbers(node.inputs[1]) or []
        else:
            wanted = [BATCH, -1] if node.attributes.get("axis", 1) in (1, 1 - len(self.order)) else []
        (total,) = KINDS["Flatten"].output({}, self.shape)
        is_each = len(wanted) == 2 and wanted[0] in (BATCH, self.batch or 0, 0) and wanted[1] in (total, -1, UNKNOWN)
        is_each |= wanted == [-1, total]
        _need(is_each, f"a reshape to {wanted} can't be converted, only a flatten of each image")
        if self.order == "NC":
            return
        if self.shape[:2] == (1, 1):
            return self._drop_pixels()
        if self.order == "NCHW":
            height, width, _ = self.shape
            if not height or not width:
                raise ValueError("the size of the images isn't in the file")
            self.moved = (height, width)
        self._add("Flatten", node, {})
        self.order = "NC"

    def _matrix(self, node: OnnxNode) -> None:
        """Reads the kernel of a dense layer, and Gemm's bias."""
        get, kernel = node.attributes.get, self._constant(node, 1)
        is_plain = get("alpha", 1.0) == get("beta", 1.0) == 1 and not get("transA") and node.inputs[0] == self.current
        is_last = len(self.order) == 2 or (self.order == "NHWC" and node.operator == "MatMul")
        is_dense = is_plain and is_last and kernel.dim() == 2
        _need(is_dense, "only a dense layer's product can be converted, features by a matrix")
        weight = kernel if get("transB") else kernel.t()
        came, taken = self.shape[-1], weight.shape[1]
        _need(came == taken, f"{came} features come, and the matrix takes {taken}")
        array = (node.inputs[1], weight, Features(self.shape, self.moved).dense_kernel)
        self._add("Dense", node, {"units": len(weight), "use_bias": False}, array)
        self.moved = None
        if len(node.inputs) > 2 and node.inputs[2]:
            self._add_bias(node.inputs[2], self._per_channel(self._constant(node, 2)))

    def _add_bias(self, name: str, bias: Tensor) -> None:
        layer = self.layers[-1]
        layer.config["use_bias"] = True
        layer.arrays.append(TorchArray(name, bias, UNCHANGED))

    def _per_channel(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that is added or multiplied as one number for each channel."""
        shape = [1] * (len(self.order) - tensor.dim()) + [*tensor.shape]
        is_each = shape == [self.shape[-1] if axis == "C" else 1 for axis in self.order]
        _need(is_each, f"a tensor of shape {tuple(tensor.shape)} can't be converted, only one number for each channel")
        return tensor.reshape(-1)

    def _arithmetic(self, node: OnnxNode) -> None:
        """Reads a bias, a Rescaling by one number, or a normalization by one number for each channel.

        tf2onnx has put a BatchNormalization's four arrays into two: a scale and a shift.
        """
        place = 1 if node.inputs[0] == self.current else 0
        tensor, is_scale = self._constant(node, place), node.operator in ("Mul", "Div")
        if node.operator in ("Sub", "Div"):
            _need(place == 1, "a number minus or by the features can't be converted")
            tensor = -tensor if node.operator == "Sub" else 1 / tensor
        name, last = node.inputs[place], self._last
        if tensor.numel() == 1 and (last is None or not last.lacks_bias or is_scale or self.shape[-1] != 1):
            number = float(str(tensor.float().numpy().reshape(())))
            if last and not is_scale and last.class_name == "Rescaling" and "offset" not in last.config:
                last.config["offset"] = number
            else:
                self._add("Rescaling", node, {"scale": number} if is_scale else {"scale": 1.0, "offset": number})
            return
        tensor = self._per_channel(tensor)
        if last and not is_scale and last.lacks_bias:
            return self._add_bias(name, tensor)
        array = (name, tensor, Features(self.shape, self.moved).per_channel)
        if last and not is_scale and last.class_name == "BatchNormalization" and not last.config.get("center", True):
            last.config["center"] = True
            last.arrays.insert(1, TorchArray(*array))
            return
        statistics = [(name, fill(tensor.shape), UNCHANGED) for fill in (torch.zeros, torch.ones)]
        config = {"epsilon": 0, "scale": is_scale, "center": not is_scale}
        self._add("BatchNormalization", node, config, array, *statistics)

    def _normalization(self, node: OnnxNode) -> None:
        is_each = self.order != "NHWC" and not node.attributes.get("training_mode")
        _need(is_each, "only a normalization of each channel, with the statistics in the file, can be converted")
        layout = Features(self.shape, self.moved).per_channel
        arrays = [(node.inputs[place], self._constant(node, place), layout) for place in (1, 2, 3, 4)]
        self._add("BatchNormalization", node, {"epsilon": node.attributes.get("epsilon", 1e-5)}, *arrays)

    def _padding(self, node: OnnxNode) -> None:
        _need(self.order == "NCHW", "expected channels-first images")
        pads = node.attributes.get("pads") or self._numbers(node.inputs[1])
        value = self.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        is_zero = node.attributes.get("value") in (None, 0.0) and (value is None or not value.any())
        is_plain = is_zero and node.attributes.get("mode", "constant") == "constant" and len(node.inputs) < 4
        if not pads or len(pads) != 8 or any(pads[place] for place in (0, 1, 4, 5)) or not is_plain:
            raise ValueError("only zeros around images can be converted")
        self._add("ZeroPadding2D", node, {"padding": [[pads[2], pads[6]], [pads[3], pads[7]]]})


def _need(condition: Any, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _scope(name: str) -> str:
    """Returns the path of a layer: `functional_1/dense_1/MatMul` → `functional_1/dense_1`, `fc1.weight` → `fc1`; or ""."""
    *parts, _ = name.strip("/").split("/")
    while parts and parts[-1] in _INNER:
        parts.pop()
    return "/".join(parts) if "/" in name else name.rpartition(".")[0]


def _layer_names(layers: list[_Layer]) -> list[str]:
    """Names the layers by their scopes; one without gets Keras's default name.

    Keras 3 adds a number to each scope, since it enters them twice: `dense_1/`, `dense_1_2/` are `dense` and `dense_1`.
    """
    scopes = [layer.scope.rpartition("/")[2] for layer in layers]
    shorter = [re.sub(r"_\d+$", "", scope) for scope in scopes]
    given = [scope for scope in scopes if scope]
    if given and all(re.search(r"_\d+$", scope) for scope in given) and len({*shorter}) == len({*scopes}):
        scopes = shorter
    counts: Counter[str] = Counter(scopes)
    names = []
    for layer, scope in zip(layers, scopes, strict=True):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer.class_name).lower()
        while not scope or (not layer.scope and counts[scope] > 1):
            scope = f"{name}_{counts[name]}" if counts[name] else name
            counts[name] += 1
        names.append(scope)
    return names


def _with_keras_names(network: Network) -> Network:
    """Names the convolutions and poolings of a VGG in the chain as Keras does."""
    found = convolutions_among(network.layers)
    if not found:
        return network
    wanted: Iterator[Described] = iter(vgg_chain(len(found), (None, None, 3), None).layers)
    following, layers = next(wanted, None), []
    for number, layer in enumerate(network.layers):
        if following and number >= found[0] and layer.class_name == following.class_name:
            layer, following = replace(layer, name=following.name), next(wanted, None)
        layers.append(layer)
    names = [layer.name for layer in layers]
    if len({*names}) < len(names):
        return network
    return replace(network, layers=layers, nodes=chained(names), outputs=names[-1])
