"""`save_model`: a trained model, its head included, as a `.safetensors` that `load_model`, the commands and `convert` take."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from .describing import Description, refused, unwrapped
from .layers import Embedding
from .loading import build
from .model import Model

if TYPE_CHECKING:
    from .convert.network.calls import Value
    from .convert.network.network import Network


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Saves a model's layers and weights as a `.safetensors`, from which `load_model` makes the same model again.

    `torchvgg-convert` takes such a file back to Keras: `nn.Sequential(VGG16(...), head)` as the weights of
    `keras.Sequential([VGG16(...), head])`, and what `load_model` made of a Keras file as those of that model.

    Before the file gets its name it is loaded, and each layer, and the whole, is compared with the model on random numbers.

    Args:
        model: a VGG16, a VGG19, or any `Model`, in which layers may have been replaced; or an `nn.Sequential` of one, of layers out of
            `torchvgg.layers`, and of PyTorch's layers that Keras has too (Linear, BatchNorm1d, Dropout, ReLU and others). Tensors
            keep their types. Which layers are frozen is saved, hooks aren't.
        path: the file, whose name ends in `.safetensors`. It is written whole or not at all; an existing one is replaced.

    Raises:
        ValueError: a layer can't be expressed in Keras's, or has NaN or infinity among its weights; the message names it.
        OSError: the file can't be written.
    """
    from .convert.atomic_files import check_output, writing
    from .convert.errors import explaining_failed_write
    from .convert.network.from_tensors import network_of_tensors
    from .convert.read.torch_file import read_torch_file
    from .convert.write.pytorch import metadata, write_safetensors

    if not isinstance(model, nn.Module):
        raise ValueError(f"save_model: expected a module. Received: {type(model).__name__}")
    path = Path(path)
    check_output(path, [".safetensors"], force=True)
    model = unwrapped(model)
    described = Description(model)
    network = network_of_tensors(described.graph, described.tensors)
    is_unknown = any(getattr(module, "preprocessing_is_unknown", False) for module in model.modules())
    with writing(path) as unfinished:
        with explaining_failed_write(path.parent):
            write_safetensors(
                network, unfinished, "torchvgg", None, metadata(network, None, preprocessing_is_unknown=is_unknown)
            )
        file = read_torch_file(unfinished)
        assert file.architecture is not None
        check_saved(model, described, network, build(file.architecture, file.tensors))
        del file  # mapped, so that Windows wouldn't rename it


@torch.no_grad()
def check_saved(model: nn.Module, described: Description, network: Network, rebuilt: Model) -> None:
    """Compares each layer of a model, and the whole, with the model that was made of its file, on random numbers at inference.

    Raises a ValueError where an output differs; the message names the layer.
    """
    from .convert.check import BOUNDS, example_inputs, relative_error
    from .convert.layout import images_to_torch

    types = {str(tensor.dtype).removeprefix("torch.") for tensor in described.tensors.values()}
    bound = max(BOUNDS.get(name, 0) for name in {"float32", *types})
    dtype = torch.get_default_dtype()
    generator = torch.Generator().manual_seed(0)
    inputs = [images_to_torch(x).to(dtype) for x in example_inputs(network).values()]
    values: dict[Value, Tensor] = dict(zip(described.inputs, inputs, strict=True))

    def differ(one: Any, other: Any) -> bool:
        return not (isinstance(one, Tensor) and one.shape == other.shape and relative_error(one, other) <= bound)

    with at_inference(model):
        for name, module, calls in described.leaves:
            own = [rebuilt.get_submodule(rebuilt.nodes[number].layer) for number in calls]
            given = [values[value] for value in described.calls[calls[0]].inputs]
            if not isinstance(own[0], Embedding):  # other numbers than the layers before give, which may all be 0
                given = [_random_like(x, generator) for x in given]
            try:
                expected = run_on_cpu(module, [x.clone() for x in given], dtype)  # some work in place
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shapes = ", ".join(str(tuple(x.shape)) for x in given)
                raise refused(name, module, f"it fails on {shapes}, which it is given in the file ({error})") from None
            for number, layer in zip(calls, own, strict=True):
                values[number] = layer(*given)
                given = [values[number]]
            if differ(expected, given[0]):
                reason = f"Keras's {' and '.join(type(layer).__name__ for layer in own)} computes something else on {tuple(values[number].shape)}"
                if isinstance(module, nn.Flatten):
                    reason = "where no Dense follows, Keras's order is (H, W, C), not (C, H, W)"
                    raise refused(name, module, reason, 'put torchvgg.layers.Flatten("channels_last") in its place')
                raise refused(name, module, reason)
        copies = [x.clone() for x in inputs]
        whole = run_on_cpu(model, [copies if len(copies) > 1 else copies[0]], dtype)
        pairs = zip(tree_leaves(whole), tree_leaves(rebuilt(inputs)), strict=False)
        if any(differ(one, other) for one, other in pairs):
            reason = "what was written computes something else; a hook may change outputs, or a `forward` of its own"
            raise refused("", model, reason)


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype) if x.is_floating_point() else x


def run_on_cpu(module: nn.Module, inputs: list[Any], dtype: torch.dtype) -> Any:
    """Calls a module on a CPU and in another type, wherever its tensors are, without moving them."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    own = {key: x.to("cpu", dtype) if x.is_floating_point() else x.cpu() for key, x in tensors.items()}
    return functional_call(module, own, tuple(inputs))


@contextmanager
def at_inference(model: nn.Module) -> Iterator[None]:
    """Puts a model's modules into `eval()` for a while, without gradients, autocast, compilation and warnings."""
    modes = [(module, module.training) for module in model.modules()]
    is_compiling = "torch._dynamo" in sys.modules  # else nothing is compiled, and its import takes a while
    stance: Any = torch.compiler.set_stance("force_eager") if is_compiling else nullcontext()
    try:
        for module, _ in modes:
            module.training = False
        with torch.autocast("cpu", enabled=False), stance, warnings.catch_warnings():
            # Random numbers aren't the pixels that a preprocess_input in the model expects.
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, mode in modes:
            module.training = mode
