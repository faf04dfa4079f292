"""`optimize_for_inference`: returns a frozen copy of a model that computes the same outputs faster."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial, wraps
from types import MethodType
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..layers.reshaping import in_keras_order, order_after
from ..layers.shared import check_like_weights
from ..model import Inputs, Model, Node, check_is_model, flattened, mapped
from .fast_layers import Engine, Features, Memory, optimize_layer, tensor_of
from .native import MissingError, kernels
from .winograd import Operators

M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


def optimize_for_inference(model: Model, native: bool | None = None) -> OptimizedModel | Model:
    """Returns a frozen copy of a model: the same outputs, `extract` and errors, but faster, and without gradients.

    On a CPU, 3×3 convolutions are computed in float32 by Winograd's algorithm (see `winograd`), in C++ kernels that the
    machine's compiler builds once, in a second or two, or in PyTorch's operators. That is faster and more accurate than half
    precision and bfloat16 too; such a model's inputs and outputs keep its type. On other devices the copy is channels-last
    and compiled by `torch.compile`, where that has the compilers that it needs.

    Processes that are forked from this one afterwards use one thread of PyTorch's: for more they would wait forever.

    The copy may stand before layers that are trained, `nn.Sequential(optimize_for_inference(base), head)`. Gradients stop at
    its output, and `train()` leaves it in `eval()`. On a CPU it has no parameters and an empty `state_dict`: the weights
    stay the model's, so save `nn.Sequential(base, head)`. An input that requires gradients gets none there, with a warning.

    Args:
        model: a model from `VGG16`, `VGG19` or `load_model`. It isn't changed, and later changes of it have no effect.
        native: True requires the kernels, False uses PyTorch's operators, None the kernels if they can be built.

    Returns:
        The copy, with the model's `extract`, `summary` and shapes, in `eval()`. It takes up to 1.5 times the model's memory.

    Raises:
        ValueError: `model` is none of these. In an `nn.Sequential` the VGG alone is optimized, and put in its place.
        RuntimeError: `native=True`, and the kernels can't be built or can't compute this model.
    """
    check_is_model(model)
    kinds = {(parameter.dtype, parameter.device.type) for parameter in model.parameters()}
    fast = {(dtype, "cpu") for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    if len(kinds) > 1 or not kinds <= fast:
        if native:
            received = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise RuntimeError(
                "native=True: the kernels are for models of float32, bfloat16 or float16 throughout, on a CPU. "
                f"Received: one of {received}"
            )
        twin = copy.deepcopy(model).requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        twin.train = MethodType(_stay_in_eval, twin)
        if any(device != "cpu" for _, device in kinds):
            _compile(twin)
        return twin
    _survive_forks()
    return OptimizedModel(model, _engine(native))


def _compile(twin: nn.Module) -> None:
    """Compiles a module. If that fails when it is first called, as without a C compiler, it is computed uncompiled from then on."""
    compiled = torch.compile(twin._call_impl)

    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return compiled(*arguments, **keywords)
        except Exception as error:
            y = twin._call_impl(*arguments, **keywords)  # raises again what is the caller's mistake
            twin._compiled_call_impl = None
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            warnings.warn(f"this model is computed without torch.compile: {reason}", stacklevel=2)
            return y

    twin._compiled_call_impl = call


@cache
def _survive_forks() -> None:
    """Makes forked processes compute in one thread: OpenMP would wait forever for others, which a fork doesn't copy."""
    if hasattr(os, "register_at_fork"):  # Windows doesn't fork
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def _stay_in_eval(model: M, mode: bool = True) -> M:
    """Stands for a frozen model's `train`, which a model that it is a part of calls."""
    return model


def _engine(native: bool | None) -> Engine:
    if native is not False:
        try:
            return kernels()
        except MissingError as error:
            if native:
                raise RuntimeError(f"native=True: {error}") from None
    return Operators()


def _in_plain_mode(method: Callable[Concatenate[OptimizedModel, Inputs, P], R]) -> Callable[..., R]:
    """Turns autocast, gradients and inference mode off in a method, and warns if the input's gradients are lost so.

    Memory made in inference mode couldn't be reused, nor outputs saved for the gradients of layers after them.
    """

    @wraps(method)
    def call(self: OptimizedModel, x: Inputs, *arguments: P.args, **keywords: P.kwargs) -> R:
        inputs: Iterable[Any] = x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else [x]
        if torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in inputs):
            warnings.warn(
                "the input requires gradients, which stop at an optimized model: what comes before it isn't trained",
                stacklevel=2,
            )
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            return method(self, x, *arguments, **keywords)

    return call


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
        self._places = {name: place for place, (name, _) in enumerate(model.named_children())}
        self._nodes = model.nodes
        self._kept = {*flattened(model.outputs), *(_used_later(model.nodes))}
        self._engine = engine
        self._free: dict[tuple[tuple[int, ...], ...], list[Memory]] = {}
        super().train(False)

    described: Model

    name = property(lambda self: self.described.name)
    input_shape = property(lambda self: self.described.input_shape)
    output_shape = property(lambda self: self.described.output_shape)

    def extra_repr(self) -> str:
        return f"computed by {self._engine.name}"

    @_in_plain_mode
    def forward(self, x: Inputs) -> Any:
        """Returns what the model's `forward` returns."""
        values = self._named_inputs(x)
        shapes = tuple(value.shape for value in values.values())
        free = self._free.setdefault(shapes, [])
        if len(self._free) > 1:  # keep only maps of the last size
            self._free = {shapes: free}
        try:
            memory = free.pop()  # each thread in here has its own
        except IndexError:
            memory = Memory()
        for _ in self._calls(values, memory):
            pass
        y = mapped(lambda name: tensor_of(values[name], memory).to(self._dtype), self.described.outputs)
        free.append(memory)
        return y

    def _calls(self, values: dict[str, Features], memory: Memory) -> Iterator[tuple[Node, Any]]:
        """Calls the layers in order, whose outputs come into `values`, and yields each call with the shape of its first input."""
        kept = flattened(self.described.outputs)
        for node in self._nodes:
            first, *others = (values[name] for name in node.inputs)
            features = self.layers[self._places[node.layer]](first, memory, *others)
            # A promise is kept by the next layer only: later the maps that it needs may hold others' numbers.
            values[node.name] = tensor_of(features, memory) if node.name in self._kept else features
            yield node, first.shape
            for name in node.last:
                if name not in kept:
                    del values[name]

    @_in_plain_mode
    def extract(self, x: Inputs, layers: Iterable[str]) -> dict[str, Tensor]:
        """Returns what the model's `extract` returns."""
        wanted = self.described._check_names(layers)
        values, memory = self._named_inputs(x), Memory()
        outputs: dict[str, Tensor] = {}
        orders: dict[str, Any] = {}
        for node, shape in self._calls(values, memory) if wanted else ():
            layer = self.described.get_submodule(node.layer)
            orders[node.name] = order_after(layer, shape, orders.get(node.inputs[0]))
            if node.name in wanted:
                values[node.name] = y = tensor_of(values[node.name], memory)
                outputs[node.name] = in_keras_order(y, orders[node.name]).to(self._dtype)
            if len(outputs) == len(wanted):
                break
        return outputs

    def count_params(self) -> int:
        return self.described.count_params()

    def summary(self, *arguments: Any, **keywords: Any) -> None:
        self.described.summary(*arguments, **keywords)

    train = _stay_in_eval

    def __deepcopy__(self, memo: object) -> OptimizedModel:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an optimized model can't be saved; save the model itself, and optimize it again")

    def _apply(self, fn: Callable[[Tensor], Tensor], *_: Any, **__: Any) -> OptimizedModel:
        before = torch.empty(0, dtype=self._dtype, device="cpu")
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):  # `to("cpu")` of the whole changes nothing
            raise RuntimeError(
                "an optimized model can't be changed; move or cast the model itself, and optimize it again"
            )
        return self

    def _named_inputs(self, x: Inputs) -> dict[str, Features]:
        values = self.described._named_inputs(x)
        for value in values.values():
            if value.is_floating_point() or value.dim() == 4:
                check_like_weights(value, torch.empty(0, dtype=self._dtype, device="cpu"))
        return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}


def _used_later(nodes: Sequence[Node]) -> Iterator[str]:
    """Yields the outputs that aren't used by the next node, and by that alone."""
    following = [*nodes[1:], Node("", "", ())]
    for node, after in zip(nodes, following, strict=True):
        if after.inputs != (node.name,) or node.name not in after.last:
            yield node.name
