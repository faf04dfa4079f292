"""`load_model(path, classifier_activation=...)`: logits, or another activation, for the softmax or sigmoid at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import torch

from torchvgg import load_model, save_model

from ..helpers.heads import L, base, with_random_weights
from ..helpers.keras_models import relative_error

ENDS: dict[str, Callable[[], Any]] = {
    "dense": lambda: [L.Dense(3, "softmax")],
    "sigmoid": lambda: [L.Dense(1, "sigmoid")],
    "activation": lambda: [L.Dense(3), L.Activation("softmax")],
    "layer": lambda: [L.Dense(3), L.Softmax()],
    "layer in a layer": lambda: [L.Dense(3, L.Softmax())],
    "kept": lambda: [L.Dense(3), L.Softmax(), L.Dropout(0.1), L.Activation("linear", dtype="float32"), L.Reshape((3,))],
}


@torch.no_grad()
@pytest.mark.parametrize("name", ENDS)
def test_logits_of_a_model_that_ends_in_a_softmax(name: str, tmp_path: Path) -> None:
    theirs = with_random_weights(keras.Sequential([base(64, 64), L.Flatten(), *ENDS[name]()]))
    theirs.save(tmp_path / "model.keras")
    as_saved = load_model(tmp_path / "model.keras")
    logits = load_model(tmp_path / "model.keras", classifier_activation=None)
    x = torch.rand(2, 3, 64, 64) * 255
    to_scores = torch.sigmoid if name == "sigmoid" else lambda z: z.softmax(1)
    assert relative_error(to_scores(logits(x)), as_saved(x)) <= 1e-6
    assert logits(x).sub(as_saved(x)).abs().max() > 0.1
    save_model(logits, tmp_path / "logits.safetensors")
    assert relative_error(load_model(tmp_path / "logits.safetensors")(x), logits(x)) <= 1e-6
    other = load_model(tmp_path / "model.keras", classifier_activation="tanh")
    assert relative_error(other(x), logits(x).tanh()) <= 1e-6


def test_an_activation_within_a_recurrent_layer_is_no_end(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4, 3)), L.GRU(2, activation="sigmoid")]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"classifier_activation: .* ends in 'gru.*' \(GRU\)"):
        load_model(tmp_path / "model.keras", classifier_activation=None)


def test_no_softmax_to_replace(tmp_path: Path) -> None:
    with_random_weights(base(64, 64)).save(tmp_path / "base.keras")
    with pytest.raises(
        ValueError, match=r"base.keras: classifier_activation: .* ends in 'block5_pool' \(MaxPooling2D\)"
    ):
        load_model(tmp_path / "base.keras", classifier_activation=None)
    with_random_weights(keras.Sequential([base(64, 64), L.Flatten(), L.Dense(3)])).save(tmp_path / "logits.keras")
    with pytest.raises(ValueError, match=r"ends in 'dense.*' \(Dense\)"):
        load_model(tmp_path / "logits.keras", classifier_activation=None)
    with pytest.raises(ValueError, match="unknown activation"):
        load_model(tmp_path / "logits.keras", classifier_activation="softmux")
