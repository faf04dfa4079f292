"""From a file to a model: `load_model` makes what the file describes, `load_weights` fills a VGG that is there."""

from __future__ import annotations

import os
from pathlib import Path

from .building import assign, build
from .model import Model
from .vgg import VGG
from .vgg16 import VGG16
from .vgg19 import VGG19
from .weights import find_weights, read_model, read_weights

PUBLISHED: dict[str, type[VGG16 | VGG19]] = {"vgg16": VGG16, "vgg19": VGG19}
TOP = ("fc1", "fc2", "predictions")  # the layers with weights that a model without the top does without


def load_model(path: str | os.PathLike[str]) -> Model:
    """The model of a Keras file with an architecture, or of a `.safetensors` that `convert` wrote, ready to use.

    Args:
        path: the file.

    Returns:
        A VGG16 or VGG19 where the file holds one, else a `Model` with the file's layers, in `eval()`.

    Raises:
        ValueError: the file is damaged, or says nothing of the model's architecture.
        OSError: it can't be read.
    """
    tensors, architecture = read_model(Path(path))
    if architecture is None:
        raise ValueError(
            f"{path}: tensors without an architecture; expected a Keras file or a .safetensors that `convert` wrote. "
            "Weights alone go into a model, VGG16(weights=path), or through `convert` into a .safetensors"
        )
    try:
        return build(architecture, tensors)
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, RuntimeError) as error:
        raise ValueError(f"{path}: an architecture that `convert` didn't write ({error!r})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_model(weights: str | os.PathLike[str] = "vgg16", include_top: bool = True) -> Model:
    """The model of a file, as by `load_model`; or one with the published weights, by its name, "vgg16" or "vgg19".

    Args:
        weights: the file or the name.
        include_top: of the published one: with its classifier, or for images of any size.

    Returns:
        The model, in `eval()`.

    Raises:
        ValueError: as `load_model`.
        OSError: the file isn't there or can't be read, or the weights can't be fetched.
    """
    if weights in PUBLISHED:
        return PUBLISHED[str(weights)](include_top=include_top).eval()
    if not os.path.exists(weights):  # noqa: PTH110  # a name that is too long is none, to Path an error
        raise FileNotFoundError(f"{weights}: no such file; expected one, or {' or '.join(PUBLISHED)}")
    return load_model(weights)


def load_weights(model: VGG, weights: str | os.PathLike[str]) -> None:
    """Fills `model` with what its `weights` argument names. The tensors become its parameters, without a copy.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape. A top that the model hasn't is no error.
        OSError: the weights can't be read or fetched.
    """
    include_top = "predictions" in dict(model.named_children())
    path = find_weights(weights, model.network, include_top)
    _, _, height, width = model.input_shape
    image_size = (height, width) if height and width else None
    tensors = read_weights(path, image_size, base_only=not include_top)
    if not include_top:
        tensors = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] not in TOP}
    try:
        assign(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
