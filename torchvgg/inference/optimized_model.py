"""`optimize_for_inference`: returns a frozen copy of a model that computes the same outputs faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from ..layers.reshaping import KerasOrder
from ..model import Model
from .fast_layers import Features, Memory, optimize_layer
from .winograd import Operators

if TYPE_CHECKING:
    from .fast_layers import Engine

Function = TypeVar("Function", bound=Callable[..., Any])


def optimize_for_inference(model: Model, native: bool | None = None) -> OptimizedModel | Model:
    """Returns a copy of a model for inference, without gradients: the same outputs, `extract` and errors, but faster.

    On a CPU, 3×3 convolutions are computed in float32 by Winograd's algorithm (see `winograd`), in C++ kernels that the
    machine's compiler builds once, in a second or two, or in PyTorch's operators. That is faster and more accurate than half
    precision and bfloat16 too; such a model's inputs and outputs keep its type. On other devices the copy is channels-last
    and compiled by `torch.compile`.

    Args:
        model: a model from `VGG16`, `VGG19` or `load_model`. It isn't changed, and later changes of it have no effect.
        native: True requires the kernels, False uses PyTorch's operators, None the kernels if they can be built.

    Returns:
        The copy, with the model's `extract`, `summary` and shapes, in `eval()`. It takes up to 1.5 times the model's memory.

    Raises:
        RuntimeError: `native=True`, and the kernels can't be built or can't compute this model.
    """
    kinds = {(parameter.dtype, parameter.device.type) for parameter in model.parameters()}
    if len(kinds) > 1 or kinds - {(dtype, "cpu") for dtype in _DTYPES}:
        if native:
            received = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise RuntimeError(
                "native=True: the kernels are for models of float32, bfloat16 or float16 throughout, on a CPU. "
                f"Received: one of {received}"
            )
        return _compiled_copy(model)
    return OptimizedModel(model, _engine(native))


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _compiled_copy(model: Model) -> Model:
    twin = copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if any(parameter.device.type != "cpu" for parameter in twin.parameters()):
        twin.compile()
    return twin


def _engine(native: bool | None) -> Engine:
    """Chooses the kernels or PyTorch's operators."""
    if native is not False:
        from .native import MissingError, kernels

        try:
            return kernels()
        except MissingError as error:
            if native:
                raise RuntimeError(f"native=True: {error}") from None
    return Operators()


def _in_plain_mode(function: Function) -> Function:
    """Turns autocast, gradients and inference mode off in a function: memory made in inference mode couldn't be reused."""
    without_autocast = torch.autocast("cpu", enabled=False)(function)
    return torch.inference_mode(False)(torch.no_grad()(without_autocast))


class OptimizedModel(nn.Module):
    """The result of `optimize_for_inference` on a CPU: the model's layers in order, most of them in a faster form."""

    def __init__(self, model: Model, engine: Engine) -> None:
        super().__init__()
        # The model on the meta device, for its names, shapes, summary and input checks.
        memo = {id(t): t.detach().to("meta") for t in model.buffers()}
        memo |= {id(t): nn.Parameter(t.detach().to("meta"), t.requires_grad) for t in model.parameters()}
        self.__dict__["described"] = copy.deepcopy(model, memo).eval()  # not a submodule
        self._dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        model = model if self._dtype == torch.float32 else copy.deepcopy(model).float()
        self.layers = nn.ModuleList(optimize_layer(layer, engine) for layer in model.children())
        self._engine = engine
        self._free: dict[torch.Size, list[Memory]] = {}
        self.requires_grad_(False).eval()

    described: Model

    name = property(lambda self: self.described.name)
    input_shape = property(lambda self: self.described.input_shape)
    output_shape = property(lambda self: self.described.output_shape)

    def extra_repr(self) -> str:
        return f"computed by {self._engine.name}"

    @_in_plain_mode
    def forward(self, x: Tensor) -> Tensor:
        """Returns what the model's `forward` returns."""
        self._check_input(x)
        free = self._free.setdefault(x.shape, [])
        if len(self._free) > 1:  # keep only maps of the last size
            self._free = {x.shape: free}
        try:
            memory = free.pop()  # each thread in here has its own
        except IndexError:
            memory = Memory()
        features = Features(x.float(), memory)
        for layer in self.layers:
            features = layer(features)
        y = features.tensor()
        free.append(memory)
        return y.to(self._dtype)

    @_in_plain_mode
    def extract(self, x: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Returns what the model's `extract` returns."""
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
            raise RuntimeError("an optimized model can't be trained; train the model itself")
        return super().train(False)

    def __deepcopy__(self, memo: object) -> OptimizedModel:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an optimized model can't be saved; save the model itself, and optimize it again")

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("an optimized model can't be changed; move or cast the model itself, and optimize it again")

    def _check_input(self, x: Tensor) -> None:
        self.described._check_input(x)
        if x.dtype != self._dtype or x.device.type != "cpu":
            raise ValueError(
                f"expected a tensor like the weights, {self._dtype} on cpu. Received: {x.dtype} on {x.device}"
            )
