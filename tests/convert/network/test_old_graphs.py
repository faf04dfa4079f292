"""Models that are no chain, as older Keras writes them: `data/make_keras2.py` made the files, with the outputs of Keras 2."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers as L
from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchvgg import load_model
from torchvgg.convert import convert
from torchvgg.convert.network.architecture_json import read_entry
from torchvgg.convert.network.unfolding import read_graph
from torchvgg.layers.shared import channels_first, channels_last
from torchvgg.model import Model

from ...helpers.keras_models import relative_error

KERAS2 = Path(__file__).parents[2] / "data" / "keras2"
TOLERANCE = 1e-5  # see test_vgg_parity


def inputs_of(model: Model) -> dict[str, Tensor]:
    """What `data/make_keras2.py` gave Keras 2, its `numbers`, channels-first."""
    inputs = {}
    for which, name in enumerate(sorted(model.input_shapes)):
        like = channels_last(torch.empty(2, *(size or 0 for size in model.input_shapes[name][1:])))
        numbers = (np.arange(like.numel()) + which) * 37 % (256 if like.dim() > 3 else 5)
        inputs[name] = channels_first(torch.from_numpy(numbers.astype(np.float32)).reshape(like.shape))
    return inputs


@torch.no_grad()
@pytest.mark.parametrize("path", sorted(KERAS2.glob("*.npz")), ids=lambda path: path.stem)
def test_every_output_is_that_of_keras_2(path: Path, tmp_path: Path) -> None:
    expected = [torch.from_numpy(array) for array in np.load(path).values()]
    assert expected
    for source in (found for found in sorted(KERAS2.glob(f"{path.stem}.*")) if found.suffix in (".h5", ".keras")):
        report = convert(source, tmp_path / "model.safetensors")
        assert report.max_relative_error is not None
        assert report.max_relative_error <= TOLERANCE
        for model in (load_model(source), load_model(tmp_path / "model.safetensors")):
            x = inputs_of(model)
            received = tree_leaves(model(x if len(x) > 1 else next(iter(x.values()))))
            for own, other in zip(received, expected, strict=True):
                assert channels_last(own).shape == other.shape
                assert relative_error(channels_last(own), other) <= TOLERANCE


@pytest.mark.parametrize("wrap", [lambda layer: layer, L.Bidirectional], ids=["alone", "in_both_directions"])
def test_an_initial_state_is_no_mask(wrap: Any, tmp_path: Path) -> None:
    steps, state = keras.Input((6, 2)), keras.Input((3,))
    states = [state] * (2 if wrap is L.Bidirectional else 1)
    keras.Model([steps, state], wrap(L.GRU(3))(steps, initial_state=states)).save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="initial state"):
        load_model(tmp_path / "model.h5")


def test_configurations_of_older_keras() -> None:
    """Before 2.2.3 a Sequential was a list, and its first layer had the input's shape; a Functional was a Model."""
    convolution = {"name": "a", "filters": 2, "kernel_size": [3, 3], "batch_input_shape": [None, 8, 8, 3]}
    sequential = {"class_name": "Sequential", "config": [{"class_name": "Conv2D", "config": convolution}]}
    found = read_graph(read_entry(sequential))
    assert list(found.inputs.values()) == [[None, 8, 8, 3]]
    assert [layer.class_name for layer in found.layers] == ["Conv2D"]
    image = {"class_name": "InputLayer", "config": {"name": "i", "batch_input_shape": [None, 8, 8, 3]}}
    layers = [
        {**image, "name": "i", "inbound_nodes": []},
        {**sequential, "name": "sequential", "inbound_nodes": [[["i", 0, 0, {}]]]},
    ]
    model = {"layers": layers, "input_layers": [["i", 0, 0]], "output_layers": [["sequential", 1, 0]], "name": "m"}
    found = read_graph(read_entry(json.loads(json.dumps({"class_name": "Model", "config": model}))))
    assert [layer.path for layer in found.layers] == [("sequential", "a")]
