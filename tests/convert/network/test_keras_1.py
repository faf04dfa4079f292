"""Whole models of Keras 1, written here as Keras 1.2.2 wrote them, and compared with today's Keras layer by layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch

from torchvgg import load_model
from torchvgg.convert import convert
from torchvgg.layers.shared import channels_last

from ...helpers.heads import L, chain, outputs_of, with_random_weights
from ...helpers.keras_models import relative_error

TOLERANCE = 1e-5  # see test_vgg_parity
SIZE = (20, 28, 3)
NO_CONSTRAINTS = dict.fromkeys(
    ("W_regularizer", "b_regularizer", "activity_regularizer", "W_constraint", "b_constraint")
)

# The names of a layer's arrays, in order.
ARRAYS = {
    **dict.fromkeys(("Convolution2D", "AtrousConvolution2D", "Deconvolution2D", "Dense"), ("W", "b")),
    "SeparableConvolution2D": ("depthwise_kernel", "pointwise_kernel", "b"),
    "BatchNormalization": ("gamma", "beta", "running_mean", "running_std"),
    "PReLU": ("alphas",),
}


def convolution(
    filters: int, rows: int, columns: int, mode: str, strides: tuple[int, int] = (1, 1), **more: Any
) -> Any:
    size = {"nb_filter": filters, "nb_row": rows, "nb_col": columns, "border_mode": mode, "subsample": strides}
    return {**size, "init": "glorot_uniform", "activation": "linear", "dim_ordering": "tf", "bias": True} | more


def dense(units: int, activation: str = "linear") -> dict[str, Any]:
    return {"output_dim": units, "init": "uniform", "activation": activation, "bias": True, "input_dim": None}


def pooling(size: tuple[int, int], strides: tuple[int, int], mode: str) -> dict[str, Any]:
    return {"pool_size": size, "strides": strides, "border_mode": mode, "dim_ordering": "tf"}


def rows() -> list[tuple[Any, str, dict[str, Any]]]:
    """Today's layers, the classes that they were in Keras 1, and their configurations there."""
    sides = {"top_pad": 2, "right_pad": 3}
    normalization = {"epsilon": 1e-5, "mode": 0, "axis": -1, "momentum": 0.9}
    hard_sigmoid = L.Activation(lambda x: keras.ops.clip(0.2 * x + 0.5, 0, 1))
    deep = {"depth_multiplier": 2, "activation": "softplus", "bias": False}
    return [
        (L.ZeroPadding2D((1, 2)), "ZeroPadding2D", {"padding": [1, 2]}),
        (
            L.Conv2D(4, (3, 2), (2, 1), "same", activation="relu"),
            "Convolution2D",
            convolution(4, 3, 2, "same", (2, 1), activation="relu"),
        ),
        (
            L.Conv2D(6, 2, dilation_rate=(2, 1), use_bias=False),
            "AtrousConvolution2D",
            convolution(6, 2, 2, "valid", atrous_rate=[2, 1], bias=False),
        ),
        (L.ZeroPadding2D(((2, 0), (0, 3))), "ZeroPadding2D", {"padding": sides}),
        (L.BatchNormalization(epsilon=1e-5, momentum=0.9), "BatchNormalization", normalization),
        (L.ELU(0.7), "ELU", {"alpha": 0.7}),
        (
            L.SeparableConv2D(5, (2, 3), padding="same", depth_multiplier=2, activation="softplus", use_bias=False),
            "SeparableConvolution2D",
            convolution(5, 2, 3, "same", **deep),
        ),
        (L.MaxPooling2D((3, 2), (2, 1), "same"), "MaxPooling2D", pooling((3, 2), (2, 1), "same")),
        (L.Cropping2D(((1, 0), (2, 3))), "Cropping2D", {"cropping": [[1, 0], [2, 3]]}),
        (
            L.Conv2DTranspose(5, 4, 2, "same"),  # as many filters as channels
            "Deconvolution2D",
            convolution(5, 4, 4, "same", (2, 2), output_shape=[None, 10, 58, 5]),
        ),
        (L.LeakyReLU(0.2), "LeakyReLU", {"alpha": 0.2}),
        (
            L.Conv2DTranspose(4, (3, 4), (2, 3), "same", output_padding=(0, 2), activation="tanh"),
            "Deconvolution2D",
            convolution(4, 3, 4, "same", (2, 3), output_shape=[None, 19, 173, 4], activation="tanh"),
        ),
        (L.AveragePooling2D((2, 5)), "AveragePooling2D", pooling((2, 5), (2, 5), "valid")),
        (
            L.Conv2DTranspose(3, 2, 3, output_padding=(1, 0), use_bias=False),
            "Deconvolution2D",
            convolution(3, 2, 2, "valid", (3, 3), output_shape=[2, 27, 101, 3], bias=False),
        ),
        (L.SpatialDropout2D(0.3), "SpatialDropout2D", {"p": 0.3}),
        (L.PReLU(), "PReLU", {"init": "zero"}),
        (L.ZeroPadding2D(((1, 2), (3, 4))), "ZeroPadding2D", {"padding": [1, 2, 3, 4]}),
        (L.AveragePooling2D(10), "AveragePooling2D", pooling((10, 10), (10, 10), "valid")),
        (L.UpSampling2D((2, 1)), "UpSampling2D", {"size": [2, 1]}),
        (L.Reshape((-1, 3)), "Reshape", {"target_shape": [-1, 3]}),
        (
            L.MaxPooling1D(3, 2, "same"),
            "MaxPooling1D",
            {"pool_length": 3, "stride": 2, "border_mode": "same"},
        ),
        (
            L.AveragePooling1D(2),
            "AveragePooling1D",
            {"pool_length": 2, "stride": 2, "border_mode": "valid"},
        ),
        (L.ZeroPadding1D(2), "ZeroPadding1D", {"padding": 2}),
        (L.Cropping1D((1, 0)), "Cropping1D", {"cropping": [1, 0]}),
        (L.SpatialDropout1D(0.2), "SpatialDropout1D", {"p": 0.2}),
        (L.Permute((2, 1)), "Permute", {"dims": [2, 1]}),
        (L.Dense(4, "softsign"), "Dense", dense(4, "softsign")),
        (L.Flatten(), "Flatten", {}),
        (L.Dense(5), "Dense", dense(5)),
        (L.ReLU(threshold=0.1), "ThresholdedReLU", {"theta": 0.1}),
        (L.Dropout(0.5), "Dropout", {"p": 0.5}),
        (L.RepeatVector(3), "RepeatVector", {"n": 3}),
        (L.GlobalMaxPooling1D(), "GlobalMaxPooling1D", {}),
        (L.GaussianNoise(0.1), "GaussianNoise", {"sigma": 0.1}),
        (L.GaussianDropout(0.1), "GaussianDropout", {"p": 0.1}),
        (L.Dense(4), "Dense", dense(4)),
        (hard_sigmoid, "Activation", {"activation": "hard_sigmoid"}),
        (L.Dense(3, "softmax"), "Dense", dense(3, "softmax")),
    ]


def write(path: Path, layers: list[tuple[Any, str, dict[str, Any]]], functional: bool) -> None:
    """What `model.save` of Keras 1.2.2 wrote: a Sequential, or a Model with its graph."""
    entries: list[dict[str, Any]] = []
    with h5py.File(path, "w") as file:
        weights = file.create_group("model_weights")
        names = ["input_1"] if functional else []
        if functional:
            weights.create_group("input_1").attrs["weight_names"] = np.array([], "S")
            start = {"batch_input_shape": [None, *SIZE], "input_dtype": "float32", "sparse": False, "name": "input_1"}
            entries.append({"class_name": "InputLayer", "config": start, "inbound_nodes": [], "name": "input_1"})
        for number, (layer, class_name, own) in enumerate(layers, start=1):
            names.append(name := f"{class_name.lower()}_{number}")
            config = {"name": name, "trainable": True, **NO_CONSTRAINTS, **own}
            if number == 1 and not functional:
                config |= {"batch_input_shape": [None, *SIZE], "input_dtype": "float32"}
            graph = {"inbound_nodes": [[[names[-2], 0, 0]]], "name": name} if functional else {}
            entries.append({"class_name": class_name, "config": config, **graph})
            group = weights.create_group(name)
            arrays = dict(zip(ARRAYS.get(class_name, ()), layer.get_weights(), strict=False))
            if class_name == "Deconvolution2D":
                arrays["W"] = arrays["W"].swapaxes(2, 3)  # (rows, columns, in, out), turned in the computation
            group.attrs["weight_names"] = np.array([f"{name}_{part}:0" for part in arrays], "S")
            for part, array in arrays.items():
                group[f"{name}_{part}:0"] = array
        weights.attrs["layer_names"] = np.array(names, "S")
        config = {"name": "model_1", "layers": entries}
        ends = {f"{end}_layers": [[name, 0, 0]] for end, name in (("input", names[0]), ("output", names[-1]))}
        model = {"class_name": "Model", "config": config | ends} if functional else None
        file.attrs["model_config"] = json.dumps(model or {"class_name": "Sequential", "config": entries}).encode()
        file.attrs["keras_version"] = b"1.2.2"


@pytest.mark.parametrize("functional", [False, True])
def test_every_layer_of_keras_1(functional: bool, tmp_path: Path) -> None:
    layers = rows()
    theirs = with_random_weights(chain(keras.Input(SIZE), *(layer for layer, *_ in layers)))
    path = tmp_path / "model.h5"
    write(path, layers, functional)
    report = convert(path)
    assert report.keras_version == "1.2.2"
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    for ours in (load_model(path), load_model(tmp_path / "model.safetensors")):
        names = [name for name, _ in ours.named_children()]
        with torch.no_grad():
            received = ours.extract(x.permute(0, 3, 1, 2), names)
        for name, (_, output) in zip(names, outputs_of(theirs, x), strict=True):
            assert relative_error(channels_last(received[name]), output) <= TOLERANCE, name


def changed(row: int, **settings: Any) -> Callable[[list[Any]], None]:
    return lambda layers: layers[row][2].update(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(1, dim_ordering="th"), "data_format='channels_first' can't be converted, only 'channels_last'"),
        (changed(1, dim_ordering={"tf": 1}), "data_format={'tf': 1} can't be converted, only 'channels_last'"),
        (changed(1, border_mode="full"), "padding='full' is no such setting"),
        (changed(1, nb_col=None), r"kernel_size=\(3, None\) is no such setting"),
        (changed(0, padding={"top": 1}), "padding={'top': 1} is no such setting"),
        (changed(0, padding=[1, 2, 3]), r"padding=\(1, 2, 3\) is no such setting"),
        (changed(0, padding=[-1, 2]), r"padding=\(\(-1, -1\), \(2, 2\)\) is no such setting"),
        (changed(4, mode=2), "mode=2 can't be converted, only 0"),
        (changed(4, axis=1), "axis=1 can't be converted, only -1"),
        (changed(9, output_shape=[None, 10, 59, 5]), "output_padding=.* is too much"),
        (changed(9, output_shape=[None, 10, 55, 5]), "doesn't fit an input of shape"),
        (changed(9, output_shape=[None, 10, 58, 6]), "doesn't fit an input of shape"),
        (changed(9, output_shape=[None, 10, "58", 5]), "output_shape=.* is no such setting"),
        (changed(9, output_shape=7, subsample={}), "output_shape=7, .* is no such setting"),
        (changed(13, output_shape=[2, 29, 101, 3]), "output_padding=.* is too much"),
    ],
)
def test_what_is_refused_of_keras_1(change: Callable[[list[Any]], None], message: str, tmp_path: Path) -> None:
    layers = rows()[:14]
    chain(keras.Input(SIZE), *(layer for layer, *_ in layers))
    change(layers)
    write(tmp_path / "model.h5", layers, functional=False)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "model.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["model.h5"]


MERGES: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "concat": ({"mode": "concat", "concat_axis": -1}, L.Concatenate),
    "sum": ({"mode": "sum", "concat_axis": -1}, L.Add),
    "mul": ({"mode": "mul"}, L.Multiply),
    "ave": ({"mode": "ave"}, L.Average),
    "max": ({"mode": "max"}, L.Maximum),
    "dot": ({"mode": "dot", "dot_axes": -1}, lambda: L.Dot(-1)),
    "cos": ({"mode": "cos", "dot_axes": 1}, lambda: L.Dot(1, normalize=True)),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", MERGES)
def test_branches_that_keras_1_merged(mode: str, tmp_path: Path) -> None:
    """As its graph has them: a Dense called on two inputs, and a Merge of the outputs."""
    config, merge = MERGES[mode]
    words = [keras.Input((5,)) for _ in range(2)]
    shared = L.Dense(4)
    theirs = with_random_weights(keras.Model(words, merge()([shared(each) for each in words])))
    layers: list[dict[str, Any]] = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 5], "name": name, "sparse": False},
            "name": name,
            "inbound_nodes": [],
        }
        for name in ("input_1", "input_2")
    ]
    nodes = [[["input_1", 0, 0]], [["input_2", 0, 0]]]
    own = dense(4) | {"name": "dense_1", "trainable": True}
    layers.append({"class_name": "Dense", "config": own, "name": "dense_1", "inbound_nodes": nodes})
    own = {"name": "merge_1", "mode_type": "raw", "output_shape": None, "output_mask": None, **config}
    nodes = [[["dense_1", 0, 0], ["dense_1", 1, 0]]]
    layers.append({"class_name": "Merge", "config": own, "name": "merge_1", "inbound_nodes": nodes})
    ends = {"input_layers": [["input_1", 0, 0], ["input_2", 0, 0]], "output_layers": [["merge_1", 0, 0]]}
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Model", "config": {"name": "model_1", "layers": layers, **ends}}
        )
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"input_1", b"input_2", b"dense_1", b"merge_1"]
        for name in ("input_1", "input_2", "dense_1", "merge_1"):
            arrays = (
                dict(zip(("dense_1_W", "dense_1_b"), shared.get_weights(), strict=True)) if name == "dense_1" else {}
            )
            group = weights.create_group(name)
            group.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[key] = array
    x = [torch.randn(3, 5) for _ in words]
    assert relative_error(load_model(tmp_path / "model.h5")(x), theirs(x)) <= TOLERANCE
