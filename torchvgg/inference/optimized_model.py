"""`optimize_for_inference`: a model's twin that computes the same, faster, and can do no more than that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from ..layers.reshaping import KerasOrder
from ..model import Model
from .fast_layers import Features, Memory, fast
from .winograd import Operators

if TYPE_CHECKING:
    from .fast_layers import Engine

Function = TypeVar("Function", bound=Callable[..., Any])


def optimize_for_inference(model: Model, native: bool | None = None) -> OptimizedModel | Model:
    """A twin of a model for inference: the same outputs, `extract` and refusals, without gradients.

    On a CPU, 3×3 convolutions are computed by Winograd's algorithm (see `winograd`), in float32: by kernels that the machine's
    C++ compiler builds in a second or two, once, or in PyTorch's operators. So are those of a model in half precision or
    bfloat16, since that is faster than the shorter type, and more exact; what goes in and comes out is of the model's
    type. On other devices the twin is channels-last and compiled by `torch.compile`.

    Args:
        model: what `VGG16`, `VGG19` or `load_model` made. It is left as it was; later changes of it don't reach the twin.
        native: True for the kernels, or an error that says what is missing; False for PyTorch's operators; None for the
            kernels where they can be built.

    Returns:
        The twin, with the model's `extract`, `summary` and shapes, in `eval()`. Its memory is up to 1.5 times the model's.

    Raises:
        RuntimeError: `native=True`, and the kernels can't be built.
    """
    kinds = {(parameter.dtype, parameter.device.type) for parameter in model.parameters()}
    if len(kinds) > 1 or kinds - {(dtype, "cpu") for dtype in _DTYPES}:
        if native:
            received = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise RuntimeError(
                "native=True: the kernels are for models of float32, bfloat16 or float16 throughout, on a CPU. "
                f"Received: one of {received}"
            )
        return _plain(model)
    return OptimizedModel(model, _engine(native))


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _plain(model: Model) -> Model:
    twin = copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if any(parameter.device.type != "cpu" for parameter in twin.parameters()):
        twin.compile()
    return twin


def _engine(native: bool | None) -> Engine:
    """What computes: the kernels, or PyTorch's operators, with the same functions."""
    if native is not False:
        from .native import MissingError, kernels

        try:
            return kernels()
        except MissingError as error:
            if native:
                raise RuntimeError(f"native=True: {error}") from None
    return Operators()


def _plainly(function: Function) -> Function:
    """Lets a function compute in the tensors' own types, without gradients, in memory that may be kept and used again."""
    without_autocast = torch.autocast("cpu", enabled=False)(function)
    return torch.inference_mode(False)(torch.no_grad()(without_autocast))


class OptimizedModel(nn.Module):
    """What `optimize_for_inference` makes on a CPU: the same chain, most of whose layers are computed in another way."""

    def __init__(self, model: Model, engine: Engine) -> None:
        super().__init__()
        # The model without its numbers: it says what goes in, and how it looks.
        memo = {id(t): t.detach().to("meta") for t in model.buffers()}
        memo |= {id(t): nn.Parameter(t.detach().to("meta"), t.requires_grad) for t in model.parameters()}
        self.__dict__["described"] = copy.deepcopy(model, memo).eval()  # which is no part of this module
        self._dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        model = model if self._dtype == torch.float32 else copy.deepcopy(model).float()
        self.layers = nn.ModuleList(fast(layer, engine) for layer in model.children())
        self._engine = engine
        self._free: dict[torch.Size, list[Memory]] = {}
        self.requires_grad_(False).eval()

    described: Model

    name = property(lambda self: self.described.name)
    input_shape = property(lambda self: self.described.input_shape)
    output_shape = property(lambda self: self.described.output_shape)

    def extra_repr(self) -> str:
        return f"computed by {self._engine.name}"

    @_plainly
    def forward(self, x: Tensor) -> Tensor:
        """As the model's `forward`."""
        self._check_input(x)
        free = self._free.setdefault(x.shape, [])
        if len(self._free) > 1:  # only maps of the last size are kept
            self._free = {x.shape: free}
        try:
            memory = free.pop()  # one for each thread that is in here
        except IndexError:
            memory = Memory()
        features = Features(x.float(), memory)
        for layer in self.layers:
            features = layer(features)
        y = features.tensor()
        free.append(memory)
        return y.to(self._dtype)

    @_plainly
    def extract(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """As the model's `extract`."""
        wanted = self.described._check_names(layers)
        self._check_input(x)
        features = Features(x.float(), Memory())
        outputs: dict[str, Tensor] = {}
        in_keras_order = KerasOrder()
        for (name, described), layer in zip(self.described.named_children(), self.layers, strict=True):
            if len(outputs) == len(wanted):
                break
            in_keras_order.enter(described, features.shape)
            features = layer(features)
            if name in wanted:
                features = Features(features.tensor(), features.memory)
                outputs[name] = in_keras_order(features.tensor())
        return {name: output.to(self._dtype) for name, output in outputs.items()}

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
        if x.dtype != self._dtype or x.device.type != "cpu":
            raise ValueError(
                f"expected a tensor like the weights, {self._dtype} on cpu. Received: {x.dtype} on {x.device}"
            )
