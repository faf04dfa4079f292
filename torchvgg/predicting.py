"""Class scores by name: what a model predicts for an image, and how to pick a class."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .activations import get_activation
from .imagenet import labels
from .layers.activations import Softmax
from .model import Model


class Score(NamedTuple):
    """A class, its index in the model's output, its WordNet id if it is ImageNet's, and its score."""

    number: int
    name: str
    wnid: str | None
    score: float


@torch.no_grad()
def scores_of(model: Model, x: Tensor, names: Sequence[str] | None = None) -> list[Score]:
    """Computes the score of every class of an image `(1, C, H, W)`, in the order of the model's output `(N, classes)`.

    By default, 1000 classes have ImageNet's names, others "class 0" and so on.

    Raises:
        ValueError: the model's output has another shape, or the number of names is wrong.
    """
    check_classes(model)
    scores = model(x)[0].float().tolist()
    classes = class_names(len(scores), names)
    return [Score(i, name, wnid, score) for i, ((wnid, name), score) in enumerate(zip(classes, scores, strict=True))]


def check_classes(model: Model) -> None:
    """Raises a ValueError unless a model's output is `(N, classes)`."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(shape[1], int):
        raise ValueError(
            f"expected a model that ends in classes, (N, classes). Received: one that ends in {shape}; `extract` writes features"
        )


def class_names(number: int, names: Sequence[str] | None = None) -> Sequence[tuple[str | None, str]]:
    """Returns the WordNet id, if it is ImageNet's, and the name of each of a model's classes.

    Raises:
        ValueError: the number of names is wrong.
    """
    if names is None and number == len(labels()):
        return labels()
    classes = [(None, name) for name in ([f"class {index}" for index in range(number)] if names is None else names)]
    if len(classes) != number:
        raise ValueError(f"labels: expected a name for each of the {number} classes. Received: {len(classes)}")
    return classes


def likeliest(scores: Sequence[Score], top: int) -> list[Score]:
    """Returns the classes with the highest scores, the highest first."""
    return sorted(scores, key=lambda score: -score.score)[:top]


def by_name(scores: Sequence[Score], wanted: str) -> Score:
    """Finds a class by its name, WordNet id or number. Raises a ValueError unless there is exactly one."""
    if wanted.isdecimal() and int(wanted) < len(scores):
        return scores[int(wanted)]
    found = [score for score in scores if wanted in (score.name, score.wnid)]
    if not found:
        raise ValueError(f"{wanted}: no such class; expected a name, or a number from 0 to {len(scores) - 1}")
    if len(found) > 1:
        numbers = ", ".join(str(score.number) for score in found)
        raise ValueError(f"{wanted}: several classes have this name; give a number, {numbers}")
    return found[0]


def gives_probabilities(model: Model) -> bool:
    """Tells whether a model ends in a softmax or a sigmoid."""
    last = model.get_submodule(model.nodes[-1].layer)
    activation = getattr(last, "activation", None)
    return isinstance(last, Softmax) or activation in (get_activation("softmax"), get_activation("sigmoid"))
