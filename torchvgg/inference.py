"""`optimize_for_inference`: a model's twin that computes the same, faster, and can do no more than that."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from . import winograd
from .activations import linear
from .layers import Conv2D, Dense, MaxPooling2D, relu_in_place
from .model import Model
from .winograd import Map, padded_shape

FEW = 16  # channels up to which a convolution is computed straight from its patches


def optimize_for_inference(model: Model, native: bool | None = None) -> OptimizedModel | Model:
    """A twin of a model for inference: the same outputs, `extract` and refusals, without gradients.

    On a CPU, 3×3 convolutions are computed by Winograd's algorithm (see `winograd`), in float32: by kernels that the machine's
    C++ compiler builds in a second or two, once, or in PyTorch's operators. In other types and on other devices the twin
    is channels-last, and compiled by `torch.compile` where there is no CPU.

    Args:
        model: what `VGG16`, `VGG19` or `load_model` made. It is left as it was; later changes of it don't reach the twin.
        native: True for the kernels, or an error that says what is missing; False for PyTorch's operators; None for the
            kernels where they can be built.

    Returns:
        The twin, with the model's `extract`, `summary` and shapes, in `eval()`. Its memory is up to 1.5 times the model's.

    Raises:
        RuntimeError: `native=True`, and the kernels can't be built.
    """
    parameter = next(model.parameters(), torch.empty(0))
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        if native:
            raise RuntimeError(
                f"native=True: the kernels are for float32 on a CPU. Received: a model of {parameter.dtype} on {parameter.device}"
            )
        return _plain(model)
    return OptimizedModel(model, _engine(native))


def _plain(model: Model) -> Model:
    twin = copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if next(twin.parameters(), torch.empty(0)).device.type != "cpu":
        twin.compile()
    return twin


def _engine(native: bool | None) -> Any:
    """What computes: the kernels, or PyTorch's operators, with the same functions."""
    if native is not False:
        from .native import MissingError, kernels

        try:
            return kernels()
        except MissingError as error:
            if native:
                raise RuntimeError(f"native=True: {error}") from None
    return winograd.Operators()


class Memory:
    """The padded maps of one forward pass, which the next one of the same size finds again: their zeros stay."""

    def __init__(self) -> None:
        self._maps: dict[tuple[int, ...], list[Map]] = {}

    def map_for(self, features: Features) -> Map:
        """A map with these features in it. The one that they are computed from stays as it is."""
        n, channels, height, width = features.shape
        maps = self._maps.setdefault((n, channels, height, width), [])
        free = [found for found in maps if found is not features.source]
        if not free:
            free = [Map(torch.zeros(padded_shape(n, height, width, channels)), height, width)]
            maps += free
        features.write(free[0].image)
        return free[0]


class Features:
    """What goes from layer to layer: a tensor, `(N, C, H, W)` or `(N, C)`."""

    source: object = None

    def __init__(self, tensor: Tensor, memory: Memory) -> None:
        self._tensor, self.memory = tensor, memory

    @property
    def shape(self) -> torch.Size:
        return self._tensor.shape

    def tensor(self) -> Tensor:
        return self._tensor

    def write(self, y: Tensor) -> None:
        """Into a view `(N, H, W, C)`."""
        y.copy_(self._tensor.permute(0, 2, 3, 1))


class Promise(Features):
    """A convolution that is computed when the next layer says where to, pooled if that layer is a pooling."""

    def __init__(self, layer: FastConv2D, source: Map | Tensor, shape: tuple[int, ...], memory: Memory) -> None:
        self._layer, self.source, self._shape, self.memory, self._pool = layer, source, torch.Size(shape), memory, False

    @property
    def shape(self) -> torch.Size:
        return self._shape

    def tensor(self) -> Tensor:
        n, channels, height, width = self._shape
        y = torch.empty(n, height, width, channels)
        self.write(y)
        return y.permute(0, 3, 1, 2)

    def write(self, y: Tensor) -> None:
        self._layer.compute(self.source, self._pool, y)

    def pooled(self) -> Promise | None:
        """The same after a 2×2 max pool, if the layer can do that by the way."""
        if self._pool or not self._layer.pools:
            return None
        n, channels, height, width = self._shape
        other = Promise(self._layer, self.source, (n, channels, height // 2, width // 2), self.memory)
        other._pool = True
        return other


class FastConv2D(nn.Module):
    """A 3×3 convolution: by Winograd's algorithm, or, of few channels, straight from its patches."""

    def __init__(self, layer: Conv2D, engine: Any) -> None:
        super().__init__()
        self._engine, self._relu = engine, layer.activation is relu_in_place
        self.pools = layer.in_channels > FEW
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().clone()
        self._bias = bias
        weight = layer.weight.detach()
        self._packed = engine.pack(winograd.transformed(weight)) if self.pools else engine.pack_few(weight)

    def forward(self, features: Features) -> Features:
        n, _, height, width = features.shape
        source = features.memory.map_for(features) if self.pools else features.tensor()
        return Promise(self, source, (n, len(self._bias), height, width), features.memory)

    def compute(self, source: Any, pool: bool, y: Tensor) -> None:
        if self.pools:
            self._engine.convolve(source, self._packed, self._bias, self._relu, pool, y)
        else:
            self._engine.convolve_few(source, self._packed, self._bias, self._relu, y)


class FastDense(nn.Module):
    """A dense layer with packed weights, on flat features."""

    def __init__(self, layer: Dense, engine: Any) -> None:
        super().__init__()
        self._engine, self._units = engine, layer.out_features
        self._relu = layer.activation is relu_in_place
        self._activation = None if self._relu else layer.activation
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        self._bias, self._packed = engine.padded(bias), engine.pack_dense(layer.weight.detach())

    def forward(self, features: Features) -> Features:
        x = features.tensor()
        places = x.movedim(1, -1)  # on a map, each place by itself
        y = self._engine.dense(places.flatten(0, -2), self._packed, self._bias, self._relu)[:, : self._units]
        y = y.unflatten(0, places.shape[:-1]).movedim(-1, 1)
        return Features(self._activation(y) if self._activation else y, features.memory)


class FusedPooling(nn.Module):
    """A 2×2 max pool, computed by the convolution before it where there is one."""

    def __init__(self, layer: MaxPooling2D) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)

    def forward(self, features: Features) -> Features:
        pooled = features.pooled() if isinstance(features, Promise) else None
        return pooled or Features(self.layer(features.tensor()), features.memory)


class Plain(nn.Module):
    """Any other layer, as it is."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)

    def forward(self, features: Features) -> Features:
        return Features(self.layer(features.tensor()), features.memory)


def _twin(layer: nn.Module, engine: Any) -> nn.Module:
    """What computes a layer in the twin."""
    if isinstance(layer, Conv2D) and _is_3x3(layer):
        few = layer.in_channels <= FEW
        if engine.fits_few(layer.out_channels) if few else engine.fits(layer.in_channels, layer.out_channels):
            return FastConv2D(layer, engine)
    if isinstance(layer, Dense):
        return FastDense(layer, engine)
    if (
        isinstance(layer, MaxPooling2D)
        and (layer.kernel_size, layer.stride) == ((2, 2), (2, 2))
        and not layer.pads_as_keras
    ):
        return FusedPooling(layer)
    return Plain(layer)


def _is_3x3(layer: Conv2D) -> bool:
    """Whether it is a convolution as a VGG has them: padded, in steps of 1, with ReLU or nothing after it."""
    return (
        (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and layer.padding == "same"
        and layer.activation in (relu_in_place, linear)
    )


class OptimizedModel(nn.Module):
    """What `optimize_for_inference` makes on a CPU: the same chain, most of whose layers are computed in another way."""

    def __init__(self, model: Model, engine: Any) -> None:
        super().__init__()
        # The model without its numbers: it says what goes in, and how it looks.
        memo = {id(t): t.detach().to("meta") for t in model.buffers()}
        memo |= {id(t): nn.Parameter(t.detach().to("meta"), False) for t in model.parameters()}
        self.__dict__["described"] = copy.deepcopy(model, memo).eval()  # which is no part of this module
        self.layers = nn.ModuleDict({name: _twin(layer, engine) for name, layer in model.named_children()})
        self._engine, self._free = engine, {}
        self.requires_grad_(False).eval()

    described: Model

    name = property(lambda self: self.described.name)
    input_shape = property(lambda self: self.described.input_shape)
    output_shape = property(lambda self: self.described.output_shape)

    def extra_repr(self) -> str:
        return f"computed by {self._engine.name}"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """As the model's `forward`."""
        self._check_input(x)
        free = self._free.setdefault(x.shape, [])
        if len(self._free) > 1:  # only maps of the last size are kept
            self._free = {x.shape: free}
        memory = free.pop() if free else Memory()  # one for each thread that is in here
        features = Features(x, memory)
        for layer in self.layers.values():
            features = layer(features)
        y = features.tensor()
        free.append(memory)
        return y

    @torch.no_grad()
    def extract(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """As the model's `extract`."""
        wanted = self.described.known(layers)
        self._check_input(x)
        features = Features(x, Memory())
        outputs: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            if len(outputs) == len(wanted):
                break
            features = layer(features)
            if name in wanted:
                outputs[name] = features.tensor()
                features = Features(outputs[name], features.memory)
        return outputs

    def count_params(self) -> int:
        return self.described.count_params()

    def summary(self, *arguments: Any, **keywords: Any) -> None:
        self.described.summary(*arguments, **keywords)

    def train(self, mode: bool = True) -> OptimizedModel:
        if mode:
            raise RuntimeError("a model that is optimized for inference can't be trained; train the model itself")
        return super().train(False)

    def __deepcopy__(self, memo: object) -> OptimizedModel:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a model that is optimized for inference can't be saved; save the model itself, and optimize it again"
        )

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            "a model that is optimized for inference stays as it is; move or cast the model itself, then optimize it"
        )

    def _check_input(self, x: Tensor) -> None:
        self.described._check_input(x)
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"expected a tensor like the weights, torch.float32 on cpu. Received: {x.dtype} on {x.device}"
            )
