"""Class scores by name: what a model predicts for an image, and how to pick a class."""

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS, linear
from .imagenet import labels
from .layers.activations import Activation, Softmax
from .layers.merging import Average, Concatenate
from .layers.operations import Clip
from .layers.pooling import GlobalAveragePooling2D, GlobalMaxPooling2D
from .layers.regularization import Dropout
from .layers.reshaping import Flatten, Reshape
from .model import Model
from .vgg import VGG

LAYERS: dict[str, tuple[type[nn.Module], ...]] = {"softmax": (Softmax, nn.Softmax), "sigmoid": (nn.Sigmoid,)}
FUNCTIONS = {
    "softmax": [ACTIVATIONS["softmax"]],
    "sigmoid": [ACTIVATIONS[f"{kind}sigmoid"] for kind in ("", "hard_", "keras2_hard_", "sparse_")],
}
GLOBAL = (GlobalAveragePooling2D, GlobalMaxPooling2D)
# Their outputs are in [0, 1] where their inputs are.
KEEPING = (Average, Clip, Concatenate, Dropout, Flatten, Reshape, nn.Dropout, nn.Flatten, nn.Identity)


class Score(NamedTuple):
    """A class, its index in the model's output, its WordNet id if it is ImageNet's, and its score."""

    number: int
    name: str
    wnid: str | None
    score: float


@torch.no_grad()
def scores_of(model: Model, x: Tensor, names: Sequence[str] | None = None) -> list[Score]:
    """Computes the score of every class of an image `(1, C, H, W)`, in the order of the model's output `(N, classes)`.

    By default, 1000 classes have ImageNet's names, others "class 0" and so on. A single output after a sigmoid is the
    probability of class 1; class 0 has the rest.

    Raises:
        ValueError: the model's output has another shape, or the number of names is wrong.
    """
    check_classes(model)
    return named(both_classes(model, model(x)[0]), names)


def both_classes(model: Model, output: Tensor) -> Tensor:
    """Puts the scores of class 0 before those of a single output after a sigmoid, `(1, …)`; others, `(classes, …)`, stay."""
    is_binary = len(output) == 1 and ends_in(model, "sigmoid")
    return torch.cat((1 - output, output)) if is_binary else output


def named(output: Tensor, names: Sequence[str] | None = None) -> list[Score]:
    """Names the scores of every class, `(classes,)`, as `scores_of` does.

    Raises:
        ValueError: the number of names is wrong, or a score isn't a number.
    """
    if not output.isfinite().all():
        raise ValueError("the model's scores aren't numbers; its weights are damaged")
    scores = output.float().tolist()
    classes = class_names(len(scores), names)
    return [Score(i, name, wnid, score) for i, ((wnid, name), score) in enumerate(zip(classes, scores, strict=True))]


def check_classes(model: Model) -> None:
    """Raises a ValueError unless a model's output is `(N, classes)`, and not a VGG's features, which may be pooled."""
    shape: Any = model.output_shape
    if isinstance(model, VGG) and shape == (None, 512) and isinstance([*model.children()][-1], GLOBAL):
        shape = "pooled features, without its top"
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise ValueError(
            f"expected a model that ends in classes, (N, classes). Received: one that ends in {shape}; `extract` writes features"
        )


def class_names(number: int, names: Sequence[str] | None = None) -> Sequence[tuple[str | None, str]]:
    """Returns the WordNet id, if it is ImageNet's, and the name of each of a model's classes.

    Raises:
        ValueError: the number of names is wrong, or they are in no list.
    """
    if isinstance(names, str | os.PathLike):
        raise ValueError(
            f"labels: expected a list of names. Received: {os.fspath(names)!r}; for a file, pass its lines, Path(…).read_text().splitlines()"
        )
    if names is None and number == len(labels()):
        return labels()
    classes = [
        (None, str(name)) for name in ([f"class {index}" for index in range(number)] if names is None else names)
    ]
    if len(classes) != number:
        raise ValueError(f"labels: expected a name for each of the {number} classes. Received: {len(classes)}")
    return classes


def likeliest(scores: Sequence[Score], top: int) -> list[Score]:
    """Returns the classes with the highest scores, the highest first."""
    return sorted(scores, key=lambda score: -score.score)[:top]


def class_index(wanted: str | int) -> int:
    """Returns the number of an ImageNet class in the model's output: `class_index("tabby")` is 281.

    Args:
        wanted: its name as `decode_predictions` gives it, its WordNet id ("n02123045"), or its number.

    Raises:
        ValueError: there is no such class, or several have the name ("crane", "maillot"), as the message says.
    """
    return find_class(labels(), str(wanted))


def by_name(scores: Sequence[Score], wanted: str) -> Score:
    """Finds a class by its name, WordNet id or number. Raises a ValueError unless there is exactly one."""
    return scores[find_class([(score.wnid, score.name) for score in scores], wanted)]


def find_class(classes: Sequence[tuple[str | None, str]], wanted: str) -> int:
    """Returns the number of the class, out of `(WordNet id, name)` each, that has this name, id or number.

    Raises:
        ValueError: there is none, or there are several.
    """
    if wanted.isdecimal() and int(wanted) < len(classes):
        return int(wanted)
    found = [number for number, names in enumerate(classes) if wanted in names]
    if not found:
        expected = f"expected a name, or a number from 0 to {len(classes) - 1}"
        if all(name == f"class {number}" for number, (_, name) in enumerate(classes)):
            expected += "; --labels FILE names the classes"
        raise ValueError(f"{wanted}: no such class; {_similar(wanted, [name for _, name in classes]) or expected}")
    if len(found) > 1:
        raise ValueError(f"{wanted}: several classes have this name; give a number, {', '.join(map(str, found))}")
    return found[0]


def _similar(wanted: str, names: Sequence[str]) -> str:
    """Asks whether names were meant that have the same words, or are spelled similarly; "" if none."""
    lower = {name.lower(): name for name in names}
    plain = "_".join(wanted.lower().split())
    alike = [name for name in lower if f"_{plain}_" in f"_{name}_"] or difflib.get_close_matches(plain, lower)
    shown = [repr(lower[name]) for name in alike][:4]
    return f"did you mean {' or '.join(filter(None, [', '.join(shown[:-1]), shown[-1]]))}?" if shown else ""


def gives_probabilities(model: Model) -> bool:
    """Tells whether a model ends in a softmax or a sigmoid, or in the mean of several."""
    return ends_in(model, "softmax", "sigmoid")


def ends_in(model: Model, *activations: str) -> bool:
    """Tells whether each of the last layers that change the scores is, or includes, one of "softmax" and "sigmoid"."""
    return all(any(has_activation(layer, each) for each in activations) for layer in _last(model))


def has_activation(layer: nn.Module, activation: str) -> bool:
    """Tells whether a layer is, or includes, "softmax" or "sigmoid", also a hard one."""
    kinds, own = LAYERS[activation], getattr(layer, "activation", None)
    return isinstance(layer, kinds) or isinstance(own, kinds) or own in FUNCTIONS[activation]


def _last(model: Model) -> Iterator[nn.Module]:
    """Yields the last layers that change the scores; of several their mean is taken, or they are joined."""
    names, wanted = {node.name for node in model.nodes}, {model.nodes[-1].name}
    for node in reversed(model.nodes):
        if node.name in wanted:
            layer = model.get_submodule(node.layer)
            if _keeps_values(layer) and names.issuperset(node.inputs):
                wanted.update(node.inputs)
            else:
                yield layer


def _keeps_values(layer: nn.Module) -> bool:
    is_linear = isinstance(layer, Activation) and layer.activation == linear
    return is_linear or isinstance(layer, KEEPING)
