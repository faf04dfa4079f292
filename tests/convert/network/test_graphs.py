"""Models that are no chain: branches, several inputs and outputs, shared layers, sequences; every output against Keras's."""

from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchvgg import load_model, optimize_for_inference
from torchvgg.convert import convert
from torchvgg.layers.shared import channels_first, channels_last

from ...helpers.graphs import GRAPHS
from ...helpers.heads import with_random_weights
from ...helpers.keras_models import relative_error
from ...helpers.round_trip import check_round_trip

TOLERANCE = 1e-5  # see test_vgg_parity


@pytest.fixture(scope="module", params=GRAPHS)
def theirs(request: pytest.FixtureRequest) -> Any:
    keras.utils.set_random_seed(0)
    return with_random_weights(GRAPHS[request.param]())


def name_of(tensor: Any) -> str:
    """An input layer's name, which the file has; without a name of its own the tensor is called otherwise."""
    return str(tensor._keras_history.operation.name)


def inputs_of(model: Any) -> dict[str, Tensor]:
    """Two samples of each input, channels-last: images in [0, 255], else small whole numbers, which are words as well."""
    torch.manual_seed(0)
    inputs = {}
    for x in model.inputs:
        shape = (2, *(size or 48 for size in x.shape[1:]))
        is_image = len(shape) > 3
        inputs[name_of(x)] = torch.rand(shape) * 255 if is_image else torch.randint(0, 5, shape).float()
    return inputs


def compare(received: Any, expected: Any) -> None:
    """Compares outputs in their structure."""
    if isinstance(expected, dict):
        assert isinstance(received, dict)
        assert received.keys() == expected.keys()
        for key in expected:
            compare(received[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(received, list)
        assert len(received) == len(expected)
        for own, other in zip(received, expected, strict=True):
            compare(own, other)
    else:
        assert channels_last(received).shape == expected.shape
        assert relative_error(channels_last(received), expected) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_every_output_is_kerass(theirs: Any, suffix: str, tmp_path: Path) -> None:
    theirs.save(path := tmp_path / f"model{suffix}")
    x = inputs_of(theirs)
    # Keras takes a dict only where the model was built of one.
    expected = theirs(x if isinstance(theirs._inputs_struct, dict) else list(x.values()), training=False)
    own = {name: channels_first(value) for name, value in x.items()}
    ours = load_model(path)
    assert ours.count_params() == theirs.count_params()
    compare(ours(own), expected)
    compare(ours(list(own.values())), expected)
    compare_layers(ours, theirs, own, x)
    for native in (None, False):
        compare(optimize_for_inference(ours, native)(own), expected)
    report = convert(path)
    assert report.max_relative_error is not None
    assert report.max_relative_error <= TOLERANCE
    again = load_model(tmp_path / "model.safetensors")
    compare(again(own), expected)
    assert str(again) == str(ours)
    if suffix == ".keras":
        check_round_trip(ours, theirs, tmp_path)


def compare_layers(ours: Any, theirs: Any, own: dict[str, Tensor], x: dict[str, Tensor]) -> None:
    """Compares what layers of the outermost model return, those of nested ones and operations aside."""
    names = {node.name for node in ours.nodes}
    layers = [layer for layer in theirs.layers if layer.name in names and isinstance(layer, keras.layers.Layer)]
    layers = [layer for layer in layers if len(layer._inbound_nodes) == 1]
    if not layers:
        return
    outputs = keras.Model(theirs.inputs, [layer.output for layer in layers])(list(x.values()), training=False)
    received = ours.extract(own, [layer.name for layer in layers])
    fast = optimize_for_inference(ours).extract(own, [layer.name for layer in layers])
    for layer, expected in zip(layers, outputs if isinstance(outputs, list) else [outputs], strict=True):
        compare(received[layer.name], expected)
        compare(fast[layer.name], expected)


@torch.no_grad()
def test_pytorchs_own_ways_to_run_it(theirs: Any, tmp_path: Path) -> None:
    theirs.save(path := tmp_path / "model.keras")
    ours = load_model(path)
    own = [channels_first(value) for value in inputs_of(theirs).values()]
    expected = ours(own)
    torch.compiler.reset()  # it counts the models compiled before
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    exported = torch.export.export(ours, (own,)).module()
    for run in (compiled, exported):
        flat = [tree_leaves(outputs) for outputs in (run(own), expected)]
        for received, wanted in zip(*flat, strict=True):
            assert relative_error(received, wanted) <= 1e-6


def test_shapes_are_kerass(theirs: Any, tmp_path: Path) -> None:
    theirs.save(path := tmp_path / "model.keras")
    ours = load_model(path)

    def moved(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: moved(part) for key, part in shape.items()}
        if isinstance(shape, list):
            return [moved(part) for part in shape]
        return (*shape[:-3], shape[-1], *shape[-3:-1]) if len(shape) > 3 else shape

    inputs = {name_of(x): moved(x.shape) for x in theirs.inputs}
    assert ours.input_shape == (inputs if len(inputs) > 1 else next(iter(inputs.values())))
    shapes = theirs.output_shape  # Keras lists a mapping's
    expected = moved(shapes if isinstance(shapes, list) else [shapes])
    assert tree_leaves(ours.output_shape, is_leaf=lambda part: isinstance(part, tuple)) == expected


@pytest.mark.parametrize(
    "name", ["two_inputs", "two_outputs", "u_net", "called_twice_in_a_row", "residual_and_squeezed"]
)
def test_the_summary_is_kerass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model = GRAPHS[name]()
    inner = [layer for layer in model.layers if hasattr(layer, "layers")]
    model.save(tmp_path / "model.keras")
    expected: list[str] = []
    model.summary(print_fn=lambda text, line_break=False: expected.append(text))
    lines: list[str] = []
    load_model(tmp_path / "model.keras").summary(data_format="channels_last", print_fn=lines.append)
    if inner or name == "residual_and_squeezed":  # nested models are unfolded; operations are layers of ours
        assert len(lines) > len("\n".join(expected).splitlines()) - 2
        return
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in "\n".join(expected).splitlines()]


def test_what_is_frozen_stays_frozen(tmp_path: Path) -> None:
    inner = GRAPHS["siamese"]()
    inner.get_layer("tower").get_layer("block1_conv1").trainable = False
    inner.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras")
    for path in tmp_path.iterdir():
        frozen = {name for name, weight in load_model(path).named_parameters() if not weight.requires_grad}
        assert frozen == {"block1_conv1.weight", "block1_conv1.bias"}


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    GRAPHS["two_inputs"]().save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    x, age = torch.rand(2, 3, 32, 32), torch.rand(2, 4)
    first, second = model.input_shape
    for wrong, message in (
        (x, f"expected a list of 2 tensors, or a dict, for {first}, {second}. Received: one"),
        ([x], f"expected 2 inputs, {first}, {second}. Received: 1"),
        ({first: x}, f"expected the inputs {first}, {second}. Received: {first}"),
        ([x, x], "expected a tensor of shape \\(N, 4\\). Received"),
        ([age, x], "expected a tensor of shape \\(N, 3, 32, 32\\). Received"),
        ([x, age[0]], "which lacks the batch axis"),
    ):
        with pytest.raises(ValueError, match=message):
            model(wrong)
    assert model({second: age, first: x}).shape == (2, 2)


def test_an_unshared_copy_of_a_layer_would_differ(tmp_path: Path) -> None:
    """Both towers have one set of weights: to change it changes both."""
    theirs = with_random_weights(GRAPHS["siamese"]())
    theirs.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    x = torch.rand(1, 3, 64, 64)
    names = ["block1_conv1", "block1_conv1:1"]
    with torch.no_grad():
        model.block1_conv1.bias.add_(1)
        first, second = model.extract([x, x], names).values()
        assert torch.equal(first, second)
    model.extract([x, x], names)["block1_conv1:1"].sum().backward()
    assert model.block1_conv1.weight.grad is not None
