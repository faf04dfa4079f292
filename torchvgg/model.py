"""`Model`: layers called in order, with a summary as Keras prints it and access to every layer's output."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layers.reshaping import in_keras_order, order_after
from .layers.shared import pair
from .summary import for_encoding, summary_table
from .summary import in_keras_order as layers_in_keras_order

Shape = tuple[int | None, ...]
Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

INPUT = "input_layer"


class Node(NamedTuple):
    """One call of a layer: the name of its output, the layer's name, and the outputs, or inputs of the model, that feed it.

    The name is the layer's; from a second call on it has a number, `dense:1`. `last` are those that no later call needs.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    last: tuple[str, ...] = ()


class InKeras(NamedTuple):
    """What a file says of a layer: its class, its name, its path through nested models, and its group in a `.weights.h5`."""

    class_name: str
    name: str
    path: tuple[str, ...]
    group: str


class Model(nn.Module):
    """Keras's layers as direct children, each called with the outputs of others: by default that of the one before.

    Args:
        layers: the layers by name, in order. A name that is an attribute of modules or models already, `type` or `summary`
            say, or begins with two underscores, gets one at its end: `type_`.
        input_shape: `(channels, height, width)` of one image, None for an open size; or the shapes of several inputs by name.
        name: the title of the summary.
        nodes: the calls in order, each `(name, layer, inputs)`, if the layers aren't a chain.
        outputs: the name of the node that is the output, or lists or mappings of such.
    """

    min_size: int | tuple[int, int] = 1  # the smallest height and width of an image

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        input_shape: Sequence[int | None] | Mapping[str, Sequence[int | None]],
        name: str,
        nodes: Iterable[Sequence[Any]] | None = None,
        outputs: Any = None,
    ) -> None:
        super().__init__()
        self.name = name
        shapes = input_shape if isinstance(input_shape, Mapping) else {INPUT: input_shape}
        self._input_shapes: dict[str, Shape] = {own: (None, *shape) for own, shape in shapes.items()}
        # For `save_model`: the model's class in Keras, "" if it isn't known, and what the file that it comes from says of its layers;
        # and whether the weights may be torchvision's or timm's own, which want another preprocessing.
        self.keras_class = "Functional"
        self.preprocessing_is_unknown = False
        self.in_keras: dict[str, InKeras] = {}
        self._nodes: list[Node] | None = None
        self._outputs: Any = None
        names: dict[str, str] = {}
        taken = {*dir(self)}  # hasattr would compute properties
        for own, layer in layers.items():
            # Python and PyTorch look for `__deepcopy__` and others that aren't there.
            names[own] = own + "_" * own.startswith("__")
            while names[own] in taken or (names[own] != own and names[own] in shapes):
                names[own] += "_"
            taken.add(names[own])
            self.add_module(names[own], layer)
        if nodes is not None:
            self._nodes, self._outputs = _renamed(nodes, outputs, names)

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """The shapes of the inputs by name, batch first; of images, with as many channels as the first layer takes now."""
        shapes = dict(self._input_shapes)
        for node in self.nodes:
            name = node.inputs[0]
            if len(shapes.get(name, ())) == 4:
                layer = self._modules[node.layer]
                while isinstance(layer, nn.Sequential) and len(layer):
                    layer = layer[0]
                channels = getattr(layer, "in_channels", None) or shapes[name][1]
                shapes[name] = (None, channels, *shapes[name][2:])
        return shapes

    @property
    def input_shape(self) -> Any:
        """The shape of the input, batch first, None for open sizes; of several inputs a dict by name."""
        shapes = self.input_shapes
        return shapes if len(shapes) > 1 else next(iter(shapes.values()))

    @property
    def nodes(self) -> list[Node]:
        """The calls of the layers, in order."""
        if self._nodes is not None:
            return self._nodes
        return [Node(name, name, (before,), (before,)) for before, name in pairwise((INPUT, *self._modules))]

    @property
    def outputs(self) -> Any:
        """The name of the node that is the output, or lists or dicts of such, in Keras's structure."""
        return [INPUT, *self._modules][-1] if self._nodes is None else self._outputs

    def forward(self, x: Inputs) -> Any:
        """Returns the output for images `x`, `(N, C, H, W)`, float.

        Several inputs are a list in order, or a dict by name; several outputs come in Keras's structure.

        Raises:
            ValueError: `x` isn't a dense floating-point tensor of the shape `input_shape`, or its type or device isn't that
                of the weights. (The shape isn't checked while `torch.jit.trace` records.)
        """
        values = self._named_inputs(x)
        for _ in self._calls(values):
            pass
        return mapped(values.__getitem__, self.outputs)

    def _calls(self, values: dict[str, Tensor]) -> Iterator[tuple[Node, list[Tensor]]]:
        """Calls the layers in order, whose outputs come into `values`, and yields each call with its inputs."""
        kept = flattened(self.outputs)
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = self._modules[node.layer](*inputs)  # type: ignore[misc]  # children aren't None
            yield node, inputs
            for name in node.last:
                if name not in kept:
                    del values[name]

    def extract(self, x: Inputs, layers: Iterable[str]) -> dict[str, Tensor]:
        """Returns the outputs of some layers, computed no further than the deepest of them.

        Args:
            x: images, or several inputs, as for `forward`.
            layers: names of layers, in any order; `dense:1` is the second call of `dense`.

        Returns:
            Each layer's output (its activation included) by its name, in the order of depth. Flattened features are in
            Keras's order, `(H, W, C)`.

        Raises:
            ValueError: a name isn't one of this model's layers; or `x` is refused, as by `forward`.
        """
        values = self._named_inputs(x)
        wanted = self._check_names(layers)
        outputs: dict[str, Tensor] = {}
        orders: dict[str, tuple[int, ...] | None] = {}
        for node, inputs in self._calls(values) if wanted else ():
            layer = self.get_submodule(node.layer)
            orders[node.name] = order_after(layer, inputs[0].shape, orders.get(node.inputs[0]))
            if node.name in wanted:
                outputs[node.name] = in_keras_order(values[node.name], orders[node.name])
            if len(outputs) == len(wanted):
                break
        return outputs

    def _check_names(self, layers: Iterable[str]) -> set[str]:
        """Returns the names as a set. Raises a ValueError if one isn't a layer of this model."""
        wanted = {layers} if isinstance(layers, str) else set(layers)
        names = [node.name for node in self.nodes]
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"unknown layers: expected names out of {', '.join(names)}. Received: {unknown}")
        return wanted

    @property
    def output_shape(self) -> Any:
        """The shape of the output, batch first, None for open sizes; computed on the meta device, so hooks fire.

        Several outputs have their shapes in Keras's structure.
        """
        return mapped((self.input_shapes | self._output_shapes()).__getitem__, self.outputs)

    def count_params(self) -> int:
        """Returns the number of weights, counted as Keras does."""
        return sum(weight.numel() for weight in self.state_dict().values())

    def summary(self, data_format: str = "channels_first", print_fn: Callable[[str], object] = print) -> None:
        """Prints Keras's table: each layer's name, type, output shape and number of weights, and the totals.

        Args:
            data_format: "channels_first" for PyTorch's shapes, "channels_last" for Keras's.
            print_fn: called with each line.

        Raises:
            ValueError: `data_format` is neither.
        """
        from .convert.errors import printable

        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"data_format: expected 'channels_first' or 'channels_last'. Received: {data_format!r}")

        def text(shape: Shape) -> str:
            is_moved = data_format == "channels_last" and len(shape) > 3
            return str((*shape[:-3], *shape[-2:], shape[-3]) if is_moved else shape)

        shapes = self._output_shapes()
        fed_by: dict[str, Sequence[str]] = dict.fromkeys(self.input_shapes, ())
        fed_by |= {node.name: node.inputs for node in self.nodes}
        owners = {name: name for name in self.input_shapes} | {node.name: node.layer for node in self.nodes}
        connections: dict[str, list[str]] = {}
        for node in self.nodes:
            calls = ((owners[name], name[len(owners[name]) + 1 :]) for name in node.inputs)
            connections.setdefault(node.layer, []).extend(f"{own}[{number or 0}][0]" for own, number in calls)
        rows = []
        for own in layers_in_keras_order(fed_by, owners, flattened(self.outputs)):
            layer = dict(self.named_children()).get(own)
            kind = type(layer).__name__ if layer else "InputLayer"
            count = sum(weight.numel() for weight in layer.state_dict().values()) if layer else 0
            row = (f"{own} ({kind})", text((self.input_shapes | shapes)[own]), f"{count:,}")
            rows.append(row if self._nodes is None else (*row, ", ".join(connections.get(own, "-"))))
        for line in summary_table(self.name, rows, list(self.state_dict(keep_vars=True).values())):
            line = printable(line)
            print_fn(for_encoding(line, getattr(sys.stdout, "encoding", None)) if print_fn is print else line)

    def _output_shapes(self) -> dict[str, Shape]:
        """Runs the layers on the meta device at two sizes; a size of a layer's output that differs is open, None."""
        size = max(224, *pair(self.min_size))
        small, large = self._shapes_at(2, size), self._shapes_at(3, 2 * size)
        return {
            name: tuple(a if a == b else None for a, b in zip(small[name], large[name], strict=True)) for name in small
        }

    @torch.no_grad()
    def _shapes_at(self, batch: int, open_size: int) -> dict[str, torch.Size]:
        values = {
            name: torch.empty(batch, *(size or open_size for size in shape[1:]), device="meta")
            for name, shape in self.input_shapes.items()
        }
        for node in self.nodes:
            layer = self.get_submodule(node.layer)
            tensors = (*layer.named_parameters(), *layer.named_buffers())  # the state_dict lacks some buffers
            inputs = tuple(values[name] for name in node.inputs)
            values[node.name] = functional_call(layer, {key: _on_meta(tensor) for key, tensor in tensors}, inputs)
        return {node.name: values[node.name].shape for node in self.nodes}

    def _flattened_shape(self) -> tuple[int, ...] | None:
        """Returns the `(C, H, W)` of a model that ends in flattened features in PyTorch's order, else None."""
        shapes = self.input_shapes | self._output_shapes()
        orders: dict[str, tuple[int, ...] | None] = {}
        for node in self.nodes:
            layer = self.get_submodule(node.layer)
            before = node.inputs[0]
            orders[node.name] = order_after(layer, shapes[before], orders.get(before))
        return orders.get(self.outputs)

    def _named_inputs(self, x: Inputs) -> dict[str, Tensor]:
        """Returns the inputs by their names. Raises a ValueError unless each is a tensor that the model takes."""
        shapes = self.input_shapes
        names = list(shapes)
        if isinstance(x, Mapping) and len(x) == len(names) == 1:
            x = next(iter(x.values()))
        if isinstance(x, Mapping):
            if x.keys() != shapes.keys():
                raise ValueError(
                    f"expected the inputs {', '.join(names)}. Received: {', '.join(map(str, x)) or 'none'}"
                )
            values = {name: x[name] for name in names}
        elif isinstance(x, (list, tuple)):
            if len(x) != len(names):
                raise ValueError(f"expected {len(names)} inputs, {', '.join(names)}. Received: {len(x)}")
            values = dict(zip(names, x, strict=True))
        elif len(names) > 1:
            raise ValueError(
                f"expected a list of {len(names)} tensors, or a dict, for {', '.join(names)}. Received: one"
            )
        else:
            values = {names[0]: x}  # type: ignore[dict-item]  # one tensor
        for name, value in values.items():
            self._check_input(value, shapes[name])
        return values

    def _check_input(self, x: Any, shape: Shape) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined]  # a trace would record the result for its example, and warn
            return
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            received = x.layout if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected a dense torch.Tensor. Received: {received}")
        is_image = len(shape) == 4
        least = (1, *pair(self.min_size)) if is_image else [1] * (len(shape) - 1)
        if x.dim() != len(shape) or not all(
            size >= smallest if fixed is None else size == fixed
            for size, fixed, smallest in zip(x.shape[1:], shape[1:], least, strict=True)
        ):
            expected = ", ".join(str(size or f"{few} or more") for size, few in zip(shape[1:], least, strict=True))
            advice = ", which lacks the batch axis: x.unsqueeze(0)" if x.dim() == len(shape) - 1 else ""
            if is_image and x.dim() == 4 and x.shape[3] == shape[1]:
                advice = ", which looks channels-last: x.permute(0, 3, 1, 2)"
            raise ValueError(f"expected a tensor of shape (N, {expected}). Received: {tuple(x.shape)}{advice}")
        if is_image and not x.is_floating_point():
            raise ValueError(f"expected a floating-point tensor; call preprocess_input first. Received: {x.dtype}")


def check_is_model(model: Any) -> None:
    """Raises a ValueError unless it is a `Model`."""
    if not isinstance(model, Model):
        raise ValueError(
            "expected a model from VGG16, VGG19 or load_model, which also reads what save_model wrote of an nn.Sequential, before "
            f"`optimize_for_inference`. Received: {type(model).__name__}"
        )


def _renamed(nodes: Iterable[Sequence[Any]], outputs: Any, names: Mapping[str, str]) -> tuple[list[Node], Any]:
    """Returns the nodes and the outputs with the layers' final names, and which outputs no later node needs."""
    calls = [Node(name, layer, tuple(inputs)) for name, layer, inputs in nodes]
    final = {node.name: names[node.layer] + node.name[len(node.layer) :] for node in calls}
    renamed: list[Node] = []
    later: set[str] = set()
    for node in reversed(calls):
        inputs = tuple(final.get(name, name) for name in node.inputs)
        last = tuple(name for name in dict.fromkeys((*inputs, final[node.name])) if name not in later)
        later |= {*inputs}
        renamed.append(Node(final[node.name], names[node.layer], inputs, last))
    return renamed[::-1], mapped(lambda name: final.get(name, name), outputs)


def mapped(function: Callable[[str], Any], structure: Any) -> Any:
    """Applies a function to each name in lists and dicts of names."""
    if isinstance(structure, Mapping):
        return {key: mapped(function, part) for key, part in structure.items()}
    return [mapped(function, part) for part in structure] if isinstance(structure, list) else function(structure)


def flattened(structure: Any) -> list[str]:
    """Lists the names in lists and dicts of names."""
    found: list[str] = []
    mapped(found.append, structure)
    return found


def _on_meta(tensor: Tensor) -> Tensor:
    """Returns an empty tensor of the same shape on the meta device, in PyTorch's default type, which shapes don't depend on."""
    dtype = torch.get_default_dtype() if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, device="meta", dtype=dtype)
