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
    if len(model.output_shape) != 2:
        raise ValueError(
            f"expected a model that ends in classes, (N, classes). Received: one that ends in {model.output_shape}; "
            "`extract` writes features"
        )
    return named(model(x)[0], names)


def named(output: Tensor, names: Sequence[str] | None = None) -> list[Score]:
    """Names the scores of every class, `(classes,)`, as `scores_of` does. Raises a ValueError if the number of names is wrong."""
    scores = output.float().tolist()
    classes: Sequence[tuple[str | None, str]] = labels()
    if names is not None or len(scores) != len(classes):
        names = [f"class {number}" for number in range(len(scores))] if names is None else names
        classes = [(None, name) for name in names]
    if len(classes) != len(scores):
        raise ValueError(f"labels: expected a name for each of the {len(scores)} classes. Received: {len(classes)}")
    return [Score(i, name, wnid, score) for i, ((wnid, name), score) in enumerate(zip(classes, scores, strict=True))]


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
