"""Layers of sequences by themselves: masks, older configurations, and what is refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from torch import Tensor

from torchvgg.convert.network.kinds import KINDS, Features
from torchvgg.convert.network.settings import read_settings
from torchvgg.loading import from_config, load_model

from ...helpers.heads import L, chain, with_random_weights
from ...helpers.keras_models import relative_error

TOLERANCE = 1e-6  # one layer, in float32

CELLS: dict[str, Callable[..., Any]] = {
    "LSTM": L.LSTM,
    "LSTM with other activations": lambda units, **k: L.LSTM(
        units, activation="relu", recurrent_activation="hard_sigmoid", **k
    ),
    "GRU": L.GRU,
    "GRU that resets before": lambda units, **k: L.GRU(units, reset_after=False, use_bias=False, **k),
    "SimpleRNN": L.SimpleRNN,
}
FLAGS = ("return_sequences", "go_backwards", "zero_output_for_mask")

MASKS = {  # of three samples, five steps
    "at the end": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "at the beginning": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "anywhere": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]],
}


def sequence(layer: Any, shape: tuple[int, ...] = (3, 5, 4)) -> tuple[Any, Tensor]:
    """A Keras layer with random weights, and an input for it."""
    model = with_random_weights(keras.Sequential([keras.Input(shape[1:]), layer]))
    return model.layers[0], torch.randn(shape, generator=torch.Generator().manual_seed(0))


def ours(theirs: Any, shape: tuple[int, ...], version: str = "3") -> tuple[Any, Callable[..., Tensor]]:
    """The PyTorch layer of a Keras layer, and its kind's reference computation."""
    class_name = type(theirs).__name__
    kind = KINDS[class_name]
    settings = read_settings(class_name, theirs.get_config(), shape, version)
    specs = list(kind.arrays(settings, Features(shape)))
    arrays = [torch.as_tensor(array) for array in theirs.get_weights()]
    assert [spec.shape for spec in specs] == [array.shape for array in arrays]
    tensors = {spec.name: spec.layout.to_torch(array) for spec, array in zip(specs, arrays, strict=True)}
    layer = from_config(class_name, settings, {name: tensor.shape for name, tensor in tensors.items()})
    layer.load_state_dict(tensors)
    return layer.eval(), lambda *x: kind.reference(settings, arrays, *x)


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("flags", [(), *((flag,) for flag in FLAGS), FLAGS])
@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_skips_steps_as_in_keras(cell: str, flags: tuple[str, ...], mask: str) -> None:
    theirs, x = sequence(CELLS[cell](6, **dict.fromkeys(flags, True)))
    layer, reference = ours(theirs, (5, 4))
    masked = torch.tensor(MASKS[mask]).bool()
    expected = theirs(x, mask=masked)
    assert relative_error(layer(x, masked), expected) <= TOLERANCE
    assert relative_error(reference(x, masked), expected) <= TOLERANCE
    assert relative_error(layer(x), theirs(x)) <= TOLERANCE
    assert relative_error(layer(x, torch.ones(3, 5).bool()), layer(x)) == 0


@torch.no_grad()
@pytest.mark.parametrize("flags", [{}, {"return_sequences": True}, {"go_backwards": True, "return_sequences": True}])
@pytest.mark.parametrize("class_name", ["LSTM", "GRU"])
def test_layers_of_cudnn(class_name: str, flags: dict[str, bool]) -> None:
    """They need a GPU and Keras 2, which itself turns an LSTM's arrays into theirs like this (`_convert_rnn_weights`)."""
    theirs, x = sequence(CELLS[class_name](6, **flags))
    kernel, recurrent, bias = (np.asarray(array) for array in theirs.get_weights())
    gates = recurrent.shape[1] // 6
    first = np.linspace(-1, 1, bias.size, dtype=np.float32)
    given = [
        np.hstack([part.T.reshape(part.shape) for part in np.hsplit(kernel, gates)]),
        np.hstack([part.T for part in np.hsplit(recurrent, gates)]),
        bias.reshape(-1) if class_name == "GRU" else np.concatenate([first, bias - first]),
    ]
    kind = KINDS[f"CuDNN{class_name}"]
    settings = read_settings(f"CuDNN{class_name}", {"units": 6, **flags}, (5, 4), "2.2.4")
    specs = list(kind.arrays(settings, Features((5, 4))))
    arrays = [torch.from_numpy(array) for array in given]
    assert [spec.shape for spec in specs] == [array.shape for array in arrays]
    tensors = {spec.name: spec.layout.to_torch(array) for spec, array in zip(specs, arrays, strict=True)}
    for spec, array in zip(specs, arrays, strict=True):
        assert torch.equal(spec.layout.to_keras(tensors[spec.name]), array)
    layer = from_config(f"CuDNN{class_name}", settings, {name: tensor.shape for name, tensor in tensors.items()})
    layer.load_state_dict(tensors)
    assert relative_error(layer(x), theirs(x)) <= TOLERANCE
    assert relative_error(kind.reference(settings, arrays, x), theirs(x)) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_mask_is_left_out_of_the_mean(keepdims: bool) -> None:
    theirs, x = sequence(L.GlobalAveragePooling1D(keepdims=keepdims))
    layer, reference = ours(theirs, (5, 4))
    masked = torch.tensor(MASKS["anywhere"]).bool()
    expected, *received = theirs(x, mask=masked), layer(x, masked), reference(x, masked)
    for output in received:
        assert output[2].isnan().all()  # a mean of nothing, in Keras too
        assert expected[2].isnan().all()
        assert relative_error(output[:2], expected[:2]) <= TOLERANCE
    assert layer.half()(x.half(), masked).dtype == torch.float16


@torch.no_grad()
def test_padding_does_not_count_in_an_average() -> None:
    """As Keras has it on TensorFlow; on PyTorch it counts what it pads."""
    x = torch.randn(2, 5, 3)
    layer, reference = ours(L.AveragePooling1D(4, 3, padding="same"), (5, 3))
    expected = torch.stack([x[:, :3].mean(1), x[:, 2:].mean(1)], 1)  # one step of padding on either side
    assert relative_error(layer(x), expected) <= TOLERANCE
    assert relative_error(reference(x), expected) <= TOLERANCE


LAYERS: dict[str, Callable[[], Any]] = {
    **{name: partial(make, 6, return_sequences=True) for name, make in CELLS.items()},
    "Conv1D": lambda: L.Conv1D(6, 3, padding="causal", activation="relu"),
    "MaxPooling1D": lambda: L.MaxPooling1D(2, padding="same"),
    "AveragePooling1D": lambda: L.AveragePooling1D(2, padding="same"),
    "GlobalAveragePooling1D": L.GlobalAveragePooling1D,
    "Embedding": lambda: L.Embedding(3, 2),
    "Permute": lambda: L.Permute((2, 1)),
    "Cropping1D": L.Cropping1D,
    "ZeroPadding1D": L.ZeroPadding1D,
}


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_works_in_every_way_that_pytorch_runs_it(name: str) -> None:
    theirs, x = sequence(LAYERS[name]())
    x = x.abs().clamp_max(2)
    layer, _ = ours(theirs, (5, 4))
    expected = layer(x)
    assert layer.to("meta")(x.to("meta")).shape == expected.shape
    layer, _ = ours(theirs, (5, 4))
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("N")},)).module()
    assert relative_error(exported(x[:1]), expected[:1]) <= TOLERANCE
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert relative_error(compiled(x), expected) <= TOLERANCE
    for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 5e-2)):
        output = layer.to(dtype)(x.to(dtype))
        assert output.dtype == dtype
        assert relative_error(output.float(), expected) <= tolerance


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Embedding"])
def test_gradients_are_kerass(name: str) -> None:
    theirs, x = sequence(LAYERS[name]())
    if name == "AveragePooling1D":
        theirs.padding = "valid"
    layer, _ = ours(theirs, (5, 4))
    gradients = []
    for function in (layer, theirs):
        own = x.clone().requires_grad_()
        function(own).square().sum().backward()
        gradients.append(own.grad)
    assert relative_error(*gradients) <= 1e-5


def test_an_index_that_is_none_raises() -> None:
    layer, _ = ours(sequence(L.Embedding(3, 2))[0], (5,))
    with pytest.raises(IndexError):
        layer(torch.tensor([[0, 3]]))
    with pytest.raises(IndexError):
        layer(torch.tensor([[-1.0]]))
    assert torch.equal(layer(torch.tensor([[1.9, -0.9]])), layer(torch.tensor([[1, 0]])))  # cast as in Keras


OF_KERAS_1 = {"output_dim": 3, "activation": "tanh", "inner_activation": "hard_sigmoid"}
OF_KERAS_2 = {"units": 3, "activation": "tanh", "recurrent_activation": "hard_sigmoid"}


@pytest.mark.parametrize(
    ("class_name", "config", "version", "expected"),
    [
        (
            "LSTM",
            {**OF_KERAS_1, "consume_less": "gpu"},
            "1",
            {"units": 3, "recurrent_activation": "keras2_hard_sigmoid"},
        ),
        ("SimpleRNN", {"output_dim": 3, "consume_less": "cpu"}, "1", {"units": 3, "activation": "tanh"}),
        ("GRU", OF_KERAS_2, "2.1.6", {"reset_after": False, "recurrent_activation": "keras2_hard_sigmoid"}),
        ("GRU", {**OF_KERAS_2, "reset_after": True}, "2.2.4-tf", {"reset_after": True}),
        ("GRU", {"units": 3}, "3.3.3", {"reset_after": True, "recurrent_activation": "sigmoid"}),
        ("LSTM", OF_KERAS_2, "3.3.3", {"recurrent_activation": "hard_sigmoid"}),
        ("LSTM", {"units": 3, "activation": None}, "3.3.3", {"activation": "linear"}),
        ("MaxPooling1D", {"pool_size": 3, "strides": [3]}, "2.11.0", {"pool_size": (3,), "strides": None}),
        ("Conv1D", {"filters": 2, "kernel_size": 3, "strides": 2}, "2.11.0", {"kernel_size": (3,), "strides": (2,)}),
        ("ZeroPadding1D", {"padding": 2}, "1", {"padding": (2, 2)}),
        (
            "Embedding",
            {"input_dim": 4, "output_dim": 3, "mask_zero": True, "input_length": 5},
            "2.11.0",
            {"mask_zero": True},
        ),
    ],
)
def test_configurations_of_older_keras(
    class_name: str, config: dict[str, Any], version: str, expected: dict[str, Any]
) -> None:
    settings = read_settings(class_name, config, (5, 4), version)
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("class_name", "config", "version", "message"),
    [
        ("LSTM", {"units": 3, "return_state": True}, "3", "return_state=True can't be converted"),
        ("LSTM", {"units": 3, "stateful": True}, "3", "stateful=True can't be converted"),
        ("GRU", {"units": 3, "time_major": True}, "3", "time_major=True can't be converted"),
        ("CuDNNLSTM", {"units": 3, "stateful": True}, "2.2.4", "stateful=True can't be converted"),
        ("LSTM", {"units": 3}, "2.2.4", "the setting 'recurrent_activation' is missing"),
        ("LSTM", {"units": 3, "recurrent_activation": "mine"}, "3", "the activation 'mine' can't be converted"),
        (
            "GRU",
            {"units": 3, "activation": {"class_name": "Softmax", "config": {"axis": -2}}},
            "3",
            "activation: a layer Softmax can't be converted",
        ),
        ("GRU", {"units": 3, "reset_after": 1}, "3", "reset_after=1 is no such setting"),
        ("SimpleRNN", {"units": 0}, "3", "units=0 is no such setting"),
        ("SimpleRNN", {"units": 3, "go_backwards": "no"}, "3", "go_backwards='no' is no such setting"),
        ("SimpleRNN", {}, "3", "the setting 'units' is missing"),
        ("Embedding", {"input_dim": 4.0, "output_dim": 3}, "3", "input_dim=4.0 is no such setting"),
        ("Conv1D", {"filters": 2, "kernel_size": 3, "padding": "full"}, "3", "padding='full' is no such setting"),
        ("Conv1D", {"filters": 2, "kernel_size": [3, 3]}, "3", "is no such setting"),
        ("Conv1D", {"filters": 2, "kernel_size": 3, "data_format": "channels_first"}, "3", "data_format="),
        ("MaxPooling1D", {"pool_size": True}, "3", "is no such setting"),
        ("AveragePooling1D", {"pool_size": 2, "padding": "causal"}, "3", "padding='causal' is no such setting"),
        ("Permute", {"dims": [1, 1]}, "3", "is no such setting"),
        ("Permute", {"dims": [0, 1]}, "3", "is no such setting"),
        ("RepeatVector", {"n": -1}, "3", "n=-1 is no such setting"),
        ("Cropping1D", {"cropping": [1, -1]}, "3", "is no such setting"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    class_name: str, config: dict[str, Any], version: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(class_name, config, (5, 4), version)


def test_permute_needs_an_axis_for_each_number() -> None:
    with pytest.raises(ValueError, match=r"dims=\(1, 2\) don't permute the axes of \(None, 5, 4, 3\)"):
        KINDS["Permute"].output({"dims": (1, 2)}, (5, 4, 3))
    assert KINDS["Permute"].output({"dims": (3, 1, 2)}, (None, 4, 3)) == (3, None, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_shape_is_kerass(name: str) -> None:
    theirs = LAYERS[name]()
    class_name = type(theirs).__name__
    settings = read_settings(class_name, theirs.get_config(), (5, 4), "3")
    for steps in (None, 5, 8):
        assert KINDS[class_name].output(settings, (steps, 4)) == theirs.compute_output_shape((None, steps, 4))[1:]


def test_recurrent_layers_renamed_into_each_other_are_refused(tmp_path: Path) -> None:
    """In an .h5 the arrays' names say one thing, their order another; between them and the layer is its cell's name."""
    inner = keras.Sequential([L.LSTM(3, return_sequences=True, name="a"), L.LSTM(3, name="b")], name="inner")
    model = with_random_weights(chain(keras.Input((2, 2, 3)), L.Reshape((4, 3)), inner))
    model.save(tmp_path / "model.h5")
    load_model(tmp_path / "model.h5")
    for name, layer in zip("ba", inner.layers, strict=True):
        layer.name = name
    model.save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"layer 'b' .* in Keras's order"):
        load_model(tmp_path / "model.h5")


@pytest.mark.parametrize("cell", ["lstm_cell", "lstm_cell_3", None])
def test_the_names_that_keras_2_gives_arrays(cell: str | None, tmp_path: Path) -> None:
    """TensorFlow numbers the cells; Keras before it had no name for them."""
    model = with_random_weights(chain(keras.Input((2, 2, 3)), L.Reshape((4, 3)), L.LSTM(3, name="lstm")))
    model.save(tmp_path / "model.h5")
    expected = load_model(tmp_path / "model.h5").state_dict()
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        group = file["model_weights/lstm"]
        names = []
        for name in group.attrs["weight_names"]:
            folders = ["lstm", *([cell] if cell else []), name.split("/")[-1] + ":0"]
            group["/".join(folders)] = group[name][()]
            names.append("/".join(folders).encode())
        group.attrs["weight_names"] = names
    received = load_model(tmp_path / "model.h5").state_dict()
    assert all(torch.equal(received[key], tensor) for key, tensor in expected.items())


def test_a_file_of_theanos_with_a_conv1d_is_refused(tmp_path: Path) -> None:
    """Its kernels are turned."""
    with_random_weights(chain(keras.Input((2, 2, 3)), L.Reshape((4, 3)), L.Conv1D(3, 2, name="c"))).save(
        tmp_path / "model.h5"
    )
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["backend"] = file["model_weights"].attrs["backend"] = "theano"
    with pytest.raises(ValueError, match=r"layer 'c' \(Conv1D\): its kernel, by Theano, can't be converted"):
        load_model(tmp_path / "model.h5")
