"""Keras's weights in a module of the user's own."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import nn

from torchvgg import load_keras_weights

from ..helpers.heads import base, chain, with_random_weights
from ..helpers.keras_models import relative_error

TOLERANCE = 1e-5  # see test_vgg_parity
OLD = Path(__file__).parents[1] / "data" / "old_keras"


def theirs(height: int = 64, width: int = 64) -> Any:
    head = [
        L.Flatten(),
        L.BatchNormalization(),
        L.Dense(6),
        L.LayerNormalization(),
        L.ReLU(),
        L.Dropout(0.5),
        L.Dense(3),
    ]
    return with_random_weights(chain(base(height, width), *head))


def ours(height: int = 64, width: int = 64, **normalization: Any) -> nn.Module:
    features: list[nn.Module] = []
    channels = 3
    for layer in base(32, 32).layers:
        if isinstance(layer, L.Conv2D):
            features += [nn.Conv2d(channels, layer.filters, 3, padding=1), nn.ReLU()]
            channels = layer.filters
        elif isinstance(layer, L.MaxPooling2D):
            features.append(nn.MaxPool2d(2))
    flat = channels * (height // 32) * (width // 32)
    normalization = {"eps": 1e-3, **normalization}
    head = [
        nn.Flatten(),
        nn.BatchNorm1d(flat, **normalization),
        nn.Linear(flat, 6),
        nn.LayerNorm(6, **normalization),
        nn.ReLU(),
    ]
    return nn.Sequential(nn.Sequential(*features), *head, nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "old.h5", "model.weights.h5", "model.json"])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_any_module_gives_what_keras_gives(file: str, size: tuple[int, int], tmp_path: Path) -> None:
    model, module = theirs(*size), ours(*size)
    path = tmp_path / file
    options: dict[str, Any] = {}
    if file == "old.h5":  # weights alone, in the older format
        keras.src.legacy.saving.legacy_h5_format.save_weights_to_hdf5_group(h5py.File(path, "w"), model)
    elif file == "model.json":
        path.write_text(model.to_json())
        options = {"architecture": path}
        model.save_weights(path := tmp_path / "alone.weights.h5")
    else:
        (model.save_weights if "weights" in file else model.save)(path)
    if "weights" in file or file == "old.h5":
        options = {"flattened": (size[0] // 32, size[1] // 32)} if size[0] != size[1] else {}
    loaded = load_keras_weights(module, path, **options)
    assert len(loaded) == len(model.get_weights())
    assert loaded[0].keras_shape == (*loaded[0].shape[2:], *loaded[0].shape[1::-1])
    x = torch.rand(2, *size, 3) * 255
    assert relative_error(module(x.permute(0, 3, 1, 2)), model(x)) <= TOLERANCE


@pytest.mark.parametrize("folder", sorted(OLD.iterdir()), ids=lambda folder: folder.name)
def test_files_of_old_versions(folder: Path) -> None:
    """Weights alone, in each format; the layers of one kind come in one order in all of them."""
    found = []
    for weights in ("weights.h5", "checkpoint", "saved_model"):
        if (folder / weights).exists():
            module = nn.ModuleList(
                [
                    nn.Conv2d(3, 3, 3),
                    nn.Conv2d(3, 4, 3),
                    nn.Linear(96, 4),
                    nn.BatchNorm1d(4, eps=1e-3),
                    nn.Linear(4, 2),
                    nn.Linear(4, 2),
                ]
            )
            loaded = load_keras_weights(module, folder / weights, architecture=folder / "model.json")
            assert len(loaded) == 14
            found.append(module.state_dict())
    for other in found[1:]:
        assert all(torch.equal(tensor, other[key]) for key, tensor in found[0].items())
    assert found[0]["0.weight"].abs().max() > 0.3


def altered(change: Callable[[nn.Module], Any]) -> nn.Module:
    module = ours()
    change(module)
    return module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.append(nn.Linear(3, 3)),
            r"2 layers for Linear in the file \(dense.*, and 3 in the module \(3, 6, 7\)",
        ),
        (lambda m: m.append(nn.LSTM(3, 3)), r"7.weight_ih_l0: of no convolution, dense layer"),
        (
            lambda m: m.__setitem__(6, nn.Linear(6, 4)),
            r"6.weight: expected shape \(4, 6\). Received: \(3, 6\), of .*dense_1",
        ),
        (lambda m: m.__setitem__(6, nn.Linear(6, 3, bias=False)), r"6 has no bias, and dense.* in the file has"),
        (
            lambda m: setattr(m[2], "eps", 1e-5),
            r"2: eps=1e-05, and batch_norm.* in the file has 0.001; make it with that",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_changes_nothing(change: Any, message: str, tmp_path: Path) -> None:
    model = theirs()
    for name, layer in {"dense": model.layers[-5], "dense_1": model.layers[-1], "batch_norm": model.layers[-6]}.items():
        layer.name = name
    model.save(path := tmp_path / "model.keras")
    module = altered(change)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=message) as raised:
        load_keras_weights(module, path)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_what_weights_alone_do_not_say(tmp_path: Path) -> None:
    theirs().save_weights(path := tmp_path / "model.weights.h5")
    with pytest.warns(UserWarning, match="2: eps=1e-05; Keras's is 0.001, unless the model's author"):
        load_keras_weights(ours(eps=1e-5), path)
    with pytest.raises(ValueError, match=r"takes 32 features of maps with 8 channels, which aren't flattened=\(1, 2\)"):
        load_keras_weights(ours(), path, flattened=(1, 2))
    model, module = theirs(32, 96), ours(32, 96)
    model.save_weights(path)
    with pytest.warns(
        UserWarning, match="the flatten of maps with 8 channels and 3 places; if it does, say flattened="
    ):
        load_keras_weights(module, path)
    x = torch.rand(2, 32, 96, 3)
    assert relative_error(module(x.permute(0, 3, 1, 2)), model(x)) <= TOLERANCE
    nested = keras.Sequential([keras.Input((64, 64, 3)), base(64, 64), L.Conv2D(8, 1), L.Flatten(), L.Dense(3)])
    nested.save_weights(path)
    with pytest.raises(
        ValueError,
        match=r"layers/conv2d and layers/functional/.*: it isn't known which comes first; save the whole model",
    ):
        load_keras_weights(ours(), path)
    keras.Sequential([keras.Input((6, 3)), L.LSTM(4)]).save_weights(path)
    with pytest.raises(
        ValueError,
        match=r"layers/lstm/cell: arrays \(3, 16\), \(4, 16\), \(16,\), of which it isn.t known what they are",
    ):
        load_keras_weights(ours(), path)


class Named(keras.Model):  # type: ignore[misc]
    """HDF5 sorts its layers by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.final = L.Dense(4), L.Dense(4)

    def call(self, x: Any) -> Any:
        return self.final(self.hidden(x))


def shared() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def frozen_within() -> Any:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4)])
    inner.layers[0].trainable = False
    return keras.Sequential([keras.Input((4,)), inner])


def save_old(model: Any, path: Path) -> None:
    with h5py.File(path, "w") as file:
        keras.src.legacy.saving.legacy_h5_format.save_weights_to_hdf5_group(file, model)


def linears(*widths: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


@pytest.mark.parametrize(
    ("build", "save", "module", "message"),
    [
        (Named, "weights", lambda: linears(4, 4, 4), "final and hidden: it isn't known which comes first"),
        (frozen_within, "old", lambda: linears(4, 4, 4), "it isn't known which comes first"),
        (
            lambda: keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4)]),
            "whole",
            shared,
            "two layers of the module share a tensor",
        ),
        (
            lambda: chain(base(64, 64), L.Reshape((-1,)), L.Dense(3)),
            "whole",
            ours,
            r"layer 'reshape.*' \(Reshape\): it orders features as Keras does",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), L.Conv2DTranspose(3, 2)]),
            "weights",
            lambda: nn.ConvTranspose2d(3, 3, 2),
            "of which it isn't known what they are",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(3), L.BatchNormalization(), L.Dense(7)]),
            "weights",
            lambda: nn.Sequential(linears(4, 5), linears(5, 3), nn.BatchNorm1d(3, eps=1e-3), linears(3, 6)),
            r"expected shape \(6, 3\). Received: \(7, 3\)",
        ),
    ],
)
def test_what_would_be_wrong_without_a_word(build: Any, save: str, module: Any, message: str, tmp_path: Path) -> None:
    model = build()
    if save == "whole":
        model.save(path := tmp_path / "model.keras")
    elif save == "old":
        save_old(model, path := tmp_path / "model.h5")
    else:
        model(np.zeros((1, *(model.input_shape[1:] if save == "weights" and build is not Named else (4,))), np.float32))
        model.save_weights(path := tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=message):
        load_keras_weights(module(), path)


def test_layers_that_are_no_chain_are_refused(tmp_path: Path) -> None:
    """A branch takes fewer features than the layer before gives, and no whole number of places."""
    x = keras.Input((4,))
    both = L.Concatenate()([L.Dense(9)(x), L.Dense(5)(x)])
    keras.Model(x, L.Dense(2)(both)).save_weights(path := tmp_path / "branches.weights.h5")
    with pytest.raises(ValueError, match="takes 4 features of maps with 9 channels, which aren't flattened whole"):
        load_keras_weights(nn.ModuleList([nn.Linear(4, 9), nn.Linear(4, 5), nn.Linear(14, 2)]), path)
    grouped = with_random_weights(keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Conv2D(6, 3, groups=2)]))
    grouped.save_weights(path)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, groups=2))
    load_keras_weights(module, path)
    x = torch.rand(2, 8, 8, 3)
    assert relative_error(module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), grouped(x)) <= TOLERANCE


def test_features_that_are_only_as_many_as_flattened_ones(tmp_path: Path) -> None:
    """Four poolings side by side: it has to be said that nothing is flattened."""
    inner = base(64, 64)
    pooled = [L.GlobalAveragePooling2D()(inner.output), L.GlobalMaxPooling2D()(inner.output)] * 2
    with_random_weights(keras.Model(inner.input, L.Dense(3)(L.Concatenate()(pooled)))).save_weights(
        tmp_path / "x.weights.h5"
    )
    head = nn.Sequential(ours()[0], nn.Linear(32, 3))
    with pytest.warns(UserWarning, match="maps with 8 channels and 4 places"):
        load_keras_weights(head, tmp_path / "x.weights.h5")
    moved = head[1].weight.clone()
    load_keras_weights(head, tmp_path / "x.weights.h5", flattened=(1, 1))
    assert torch.equal(head[1].weight.unflatten(1, (4, 8)).transpose(1, 2).flatten(1), moved)
