"""`Model`: layers called in order, with a summary as Keras prints it and access to every layer's output."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layers.reshaping import KerasOrder
from .summary import summary_table

Shape = tuple[int | None, ...]


class Model(nn.Module):
    """Keras's layers as direct children, each called with the output of the one before.

    Args:
        layers: the layers by name, in order. A name that is an attribute of modules or models already, `type` or `summary`
            say, gets an underscore: `type_`.
        input_shape: `(channels, height, width)` of one image, None for an open size.
        name: the title of the summary.
    """

    min_size = 1  # the smallest height and width of an image

    def __init__(self, layers: Mapping[str, nn.Module], input_shape: Shape, name: str) -> None:
        super().__init__()
        self.name = name
        self.input_shape: Shape = (None, *input_shape)
        for layer_name, layer in layers.items():
            while layer_name in dir(self):  # hasattr would compute properties
                layer_name += "_"
            self.add_module(layer_name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the last layer for images `x`, `(N, C, H, W)`, float.

        Raises:
            ValueError: `x` isn't a dense floating-point tensor of the shape `input_shape`, or its type or device isn't that
                of the weights. (The shape isn't checked while `torch.jit.trace` records.)
        """
        self._check_input(x)
        for layer in self.children():
            x = layer(x)
        return x

    def extract(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Returns the outputs of some layers, computed no further than the deepest of them.

        Args:
            x: images, as for `forward`.
            layers: names of layers, in any order.

        Returns:
            Each layer's output (its activation included) by its name, in the order of depth. Flattened features are in
            Keras's order, `(H, W, C)`.

        Raises:
            ValueError: a name isn't one of this model's layers; or `x` is refused, as by `forward`.
        """
        wanted = self._check_names(layers)
        self._check_input(x)
        outputs: dict[str, Tensor] = {}
        in_keras_order = KerasOrder()
        for name, layer in self.named_children():
            if len(outputs) == len(wanted):
                break
            in_keras_order.enter(layer, x.shape)
            x = layer(x)
            if name in wanted:
                outputs[name] = in_keras_order(x)
        return outputs

    def _check_names(self, layers: Iterable[str]) -> set[str]:
        """Returns the names as a set. Raises a ValueError if one isn't a layer of this model."""
        wanted = {layers} if isinstance(layers, str) else set(layers)
        names = dict(self.named_children())
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"unknown layers: expected names out of {', '.join(names)}. Received: {unknown}")
        return wanted

    @property
    def output_shape(self) -> Shape:
        """The shape of the output, batch first, None for open sizes; computed on the meta device, so hooks fire."""
        return list(self._output_shapes().values())[-1]

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
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"data_format: expected 'channels_first' or 'channels_last'. Received: {data_format!r}")

        def row(name: str, kind: str, shape: Shape, count: int) -> tuple[str, str, str]:
            if data_format == "channels_last":
                shape = (shape[0], *shape[2:], shape[1])
            return f"{name} ({kind})", str(shape), f"{count:,}"

        rows = [row("input_layer", "InputLayer", self.input_shape, 0)]
        shapes = self._output_shapes()
        for name, layer in self.named_children():
            count = sum(weight.numel() for weight in layer.state_dict().values())
            rows.append(row(name, type(layer).__name__, shapes[name], count))
        for line in summary_table(self.name, rows, list(self.state_dict(keep_vars=True).values())):
            print_fn(line)

    def _output_shapes(self) -> dict[str, Shape]:
        """Runs the layers on the meta device at two sizes; a size of a layer's output that differs is open, None."""
        small, large = (self._shapes_at(batch, size) for batch, size in ((2, 224), (3, 448)))
        return {
            name: tuple(a if a == b else None for a, b in zip(small[name], large[name], strict=True)) for name in small
        }

    @torch.no_grad()
    def _shapes_at(self, batch: int, open_size: int) -> dict[str, torch.Size]:
        x = torch.empty(batch, *(size or open_size for size in self.input_shape[1:]), device="meta")
        shapes = {}
        for name, layer in self.named_children():
            tensors = (*layer.named_parameters(), *layer.named_buffers())  # the state_dict lacks some buffers
            x = functional_call(layer, {key: _on_meta(tensor) for key, tensor in tensors}, x)
            shapes[name] = x.shape
        return shapes

    def _flattened_shape(self) -> tuple[int, ...] | None:
        """Returns the `(C, H, W)` of a model that ends in flattened features in PyTorch's order, else None."""
        in_keras_order, shape = KerasOrder(), self.input_shape
        for layer, output in zip(self.children(), self._output_shapes().values(), strict=True):
            in_keras_order.enter(layer, shape)
            shape = output
        return in_keras_order.flattened

    def _check_input(self, x: Tensor) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined]  # a trace would record the result for its example, and warn
            return
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            received = x.layout if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected a dense torch.Tensor. Received: {received}")
        if x.dim() != 4 or not all(
            size >= self.min_size if fixed is None else size == fixed
            for size, fixed in zip(x.shape[1:], self.input_shape[1:], strict=True)
        ):
            expected = ", ".join(f"{size or f'{self.min_size} or more'}" for size in self.input_shape[1:])
            advice = ", which lacks the batch axis: x.unsqueeze(0)" if x.dim() == 3 else ""
            if x.dim() == 4 and x.shape[3] == self.input_shape[1]:
                advice = ", which looks channels-last: x.permute(0, 3, 1, 2)"
            raise ValueError(f"expected a tensor of shape (N, {expected}). Received: {tuple(x.shape)}{advice}")
        if not x.is_floating_point():
            raise ValueError(f"expected a floating-point tensor; call preprocess_input first. Received: {x.dtype}")


def _on_meta(tensor: Tensor) -> Tensor:
    """Returns an empty tensor of the same shape on the meta device, in PyTorch's default type, which shapes don't depend on."""
    dtype = torch.get_default_dtype() if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, device="meta", dtype=dtype)
