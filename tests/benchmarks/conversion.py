"""Conversion and loading: from a Keras file to a PyTorch file, and from a file to a model."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from .measuring import Scale, Table, in_turn, medians, memory_of


def write_keras_file(path: Path, scale: Scale) -> None:
    """A file of the published ones' structure, random numbers in it."""
    random = np.random.default_rng(0)
    model = VGG16(weights=None, classes=scale.classes, input_shape=(3, scale.size, scale.size))
    with h5py.File(path, "w") as file:
        for name, layer in model.named_children():
            names = []
            for key, parameter in layer.named_parameters():
                names.append(f"{name}_{key[0].upper()}_1:0")
                shape = parameter.shape
                in_keras = (*shape[2:], *shape[1::-1])
                file[f"{name}/{names[-1]}"] = random.random(in_keras, np.float32) - np.float32(0.5)
            file.require_group(name).attrs["weight_names"] = np.array(names, "S")
        file.attrs["layer_names"] = np.array([name for name, _ in model.named_children()], "S")


def plain_script(source: Path, target: Path) -> None:
    """What one writes by hand: read, permute, save_file."""
    tensors = {}
    with h5py.File(source) as file:
        for layer in file.attrs["layer_names"].astype(str):
            for name, key in zip(file[layer].attrs["weight_names"].astype(str), ("weight", "bias"), strict=False):
                array = torch.from_numpy(file[layer][name][()])
                if array.dim() == 4:
                    array = array.permute(3, 2, 0, 1)
                elif layer == "fc1" and array.dim() == 2:
                    side = round((len(array) // 512) ** 0.5)
                    array = array.view(side, side, 512, -1).permute(3, 2, 0, 1).flatten(1)
                elif array.dim() == 2:
                    array = array.t()
                tensors[f"{layer}.{key}"] = array.contiguous()
    save_file(tensors, target)


def our_conversion(source: Path, target: Path, check: bool) -> None:
    convert(source, target, check=check, force=True)


def conversion(folder: Path, scale: Scale) -> Table:
    """Milliseconds, and MB of memory, of what makes a PyTorch file out of a Keras file."""
    source, target = folder / "keras.h5", folder / "torch.safetensors"

    def fresh(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            target.unlink(missing_ok=True)
            function(*arguments)

        return run

    table = medians(
        in_turn(
            {
                "cp": fresh(shutil.copyfile, source, target),
                "convert --no-check": fresh(our_conversion, source, target, False),
                "convert": fresh(our_conversion, source, target, True),
                "script: read, permute, save_file": fresh(plain_script, source, target),
            },
            scale.rounds,
        )
    )
    if sys.platform == "linux":
        table["convert --no-check"]["mb"] = memory_of(our_conversion, source, target, False)
        table["convert"]["mb"] = memory_of(our_conversion, source, target, True)
        table["script: read, permute, save_file"]["mb"] = memory_of(plain_script, source, target)
    return table


def loading(folder: Path, scale: Scale) -> dict[str, Table]:
    """Milliseconds until a model is ready, and until it has done its first forward."""
    source, target, pickle = folder / "keras.h5", folder / "torch.safetensors", folder / "plain.pth"
    convert(source, target, check=False, force=True)
    convert(source, pickle, check=False, force=True)
    arguments: Any = {"classes": scale.classes, "input_shape": (3, scale.size, scale.size)}
    x = torch.rand(1, 3, scale.size, scale.size)

    def plain() -> nn.Module:
        model = _plain_model(scale)
        tensors = torch.load(pickle, weights_only=True)
        model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
        return model.eval()

    def converted_and_loaded() -> nn.Module:
        (again := folder / "again.safetensors").unlink(missing_ok=True)
        convert(source, again, check=False)
        return VGG16(weights=again, **arguments).eval()

    ways: dict[str, Callable[[], nn.Module]] = {
        "VGG16(weights=converted file)": lambda: VGG16(weights=target, **arguments).eval(),
        "load_model(converted file)": lambda: load_model(target),
        "VGG16(weights=Keras file)": lambda: VGG16(weights=source, **arguments).eval(),
        "convert, then VGG16": converted_and_loaded,
        f"{_plain_model(scale).__module__.split('.')[0]}: construct, torch.load, load_state_dict": plain,
    }

    def and_forward(way: Callable[[], nn.Module]) -> Callable[[], Tensor]:
        return lambda: way()(x)

    with torch.no_grad():
        ready = medians(in_turn(ways, scale.rounds))
        forward = medians(in_turn({name: and_forward(way) for name, way in ways.items()}, scale.rounds))
    return {"ready": ready, "ready and first forward": forward}


def _plain_model(scale: Scale) -> nn.Module:
    """torchvision's, where it is installed and the images are as its top wants them; else our own."""
    try:
        from torchvision.models import vgg16
    except ImportError:
        vgg16 = None
    if vgg16 and scale.size == 224:
        model: nn.Module = vgg16(num_classes=scale.classes)
        return model
    return VGG16(weights=None, classes=scale.classes, input_shape=(3, scale.size, scale.size))
