"""People's own models, whole: every head that is usual, in every format of today's Keras, layer by layer."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor

from torchvgg import load_model
from torchvgg.convert import convert
from torchvgg.layers.shared import channels_last

from ...helpers.heads import HEADS, L, base, chain, flattened_layers, outputs_of, with_random_weights
from ...helpers.keras_models import relative_error
from ...helpers.round_trip import check_round_trip

TOLERANCE = 1e-5  # see test_vgg_parity

IN_THE_GRAPH = (
    "preprocessed_in_the_graph",
    "arithmetic_in_the_graph",
    "functions_in_the_graph",
)  # operations, which are no layers in Keras


def pixels(model: Any) -> Tensor:
    """Two images, RGB in [0, 255], channels-last."""
    _, height, width, channels = model.input_shape
    return torch.rand(2, height or 96, width or 64, channels) * 255


@pytest.fixture(scope="module", params=HEADS)
def built(request: pytest.FixtureRequest) -> tuple[str, Any]:
    keras.utils.set_random_seed(0)
    model = HEADS[request.param]()
    return request.param, model if request.param == "trained" else with_random_weights(model)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_every_layer_gives_what_keras_gives(built: tuple[str, Any], suffix: str, tmp_path: Path) -> None:
    name, theirs = built
    if (name, suffix) == ("augmented_and_rescaled", ".h5"):
        pytest.skip("Keras itself can't write these layers to an .h5")
    path = tmp_path / f"model{suffix}"
    theirs.save(path)
    x = pixels(theirs)
    ours = load_model(path)
    assert not ours.training
    assert ours.count_params() == theirs.count_params()
    with torch.no_grad():
        expected = theirs(x, training=False)
        received = ours(x.permute(0, 3, 1, 2))
        assert relative_error(channels_last(received), expected) <= TOLERANCE
        if name not in IN_THE_GRAPH:
            compare_layers(ours, theirs, x)
        report = convert(path)
        assert report.max_relative_error is not None
        assert report.max_relative_error <= TOLERANCE
        again = load_model(tmp_path / "model.safetensors")
        # The same numbers at other addresses: alignment changes the last bits of a matrix product.
        assert relative_error(again(x.permute(0, 3, 1, 2)), received) <= 1e-6
    assert str(again) == str(ours)
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in again.state_dict().items())
    if suffix == ".keras":
        check_round_trip(ours, theirs, tmp_path)


def compare_layers(ours: Any, theirs: Any, x: Tensor) -> None:
    names = [name for name, _ in ours.named_children()]
    received = ours.extract(x.permute(0, 3, 1, 2), names)
    kept = [(layer, output) for layer, output in outputs_of(theirs, x) if "Random" not in type(layer).__name__]
    for name, (layer, expected) in zip(names, kept, strict=True):
        module = ours.get_submodule(name)
        assert type(module).__name__ == type(layer).__name__
        assert layer.name.replace(".", "_") in name
        assert relative_error(channels_last(received[name]), expected) <= TOLERANCE, name


@pytest.mark.parametrize("name", ["half_frozen_in_nested_models", "thawed_in_a_frozen_model"])
def test_what_is_frozen_stays_frozen(name: str, tmp_path: Path) -> None:
    theirs = HEADS[name]()
    trained = {weight.path.split("/")[-2] for weight in theirs.trainable_weights}
    theirs.save(tmp_path / "model.h5")
    theirs.save(tmp_path / "model.keras")
    convert(tmp_path / "model.h5")
    for path in sorted(tmp_path.iterdir()):
        ours = load_model(path)
        for layer in flattened_layers(theirs):
            for parameter in ours.get_submodule(layer.name).parameters():
                assert parameter.requires_grad == (layer.name in trained), (path, layer.name)
        lines: list[str] = []
        ours.summary(print_fn=lines.append)
        trainable = sum(int(np.prod(weight.shape)) for weight in theirs.trainable_weights)
        assert f" Trainable params: {trainable:,} " in lines[-2]


def test_names_are_kerass_but_for_what_pytorch_cannot_name(tmp_path: Path) -> None:
    theirs = with_random_weights(HEADS["names_twice"]())
    theirs.save(tmp_path / "model.keras")
    names = [name for name, _ in load_model(tmp_path / "model.keras").named_children()]
    assert names[-8:] == [
        *("block5_pool", "my_flatten", "dense", "both_h5_dense", "bn", "both_h4_dense", "both_h4_bn", "type_"),
    ]


def test_relu_at_its_threshold(tmp_path: Path) -> None:
    """Keras cuts off what is equal to it, whatever its documentation says."""
    theirs = keras.Sequential([keras.Input((5,)), L.ReLU(4.0, 0.5, 2.0)])
    theirs.save(tmp_path / "model.keras")
    x = torch.tensor([[0.0, 2.0, 3.0, 4.0, 9.0]])
    assert load_model(tmp_path / "model.keras")(x).tolist() == theirs(x).tolist() == [[-1.0, 0.0, 3.0, 4.0, 4.0]]
    convert(tmp_path / "model.keras")


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_normalization_learns_as_in_keras(frozen: bool, tmp_path: Path) -> None:
    """Keras moves its variance towards the batch's own, PyTorch's layer towards an estimate of the population's."""
    bare = L.BatchNormalization(center=False, scale=False, name="bare")
    front = [base(64, 64), L.BatchNormalization(name="images"), L.Flatten()]
    theirs = with_random_weights(chain(*front, L.Dense(3), L.BatchNormalization(momentum=0.9, name="features"), bare))
    for layer in theirs.layers:
        layer.trainable = not frozen
    theirs.save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras").train()
    x = torch.rand(4, 64, 64, 3) * 255
    before = ours.bare.running_var.clone()
    expected = theirs(x, training=True)
    received = ours(x.permute(0, 3, 1, 2))
    assert relative_error(received.detach(), expected.detach()) <= 1e-4  # a batch of four divides by small deviations
    for name in ("images", "features", "bare"):
        layer, module = theirs.get_layer(name), ours.get_submodule(name)
        for statistic, array in (("running_mean", layer.moving_mean), ("running_var", layer.moving_variance)):
            moved = torch.as_tensor(np.array(keras.ops.convert_to_numpy(array)))
            assert relative_error(module.get_buffer(statistic), moved) <= 1e-4, (name, statistic)
    assert torch.equal(ours.bare.running_var, before) == frozen


def test_dropout_is_at_work_in_training_only(tmp_path: Path) -> None:
    theirs = with_random_weights(HEADS["dropouts"]())
    theirs.save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras")
    modules = {type(module).__name__: module for module in ours.children()}
    for name in ("SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout"):
        given = torch.rand(2, 8, 4, 4)
        assert torch.equal(modules[name].eval()(given), given)
        changed = modules[name].train()(given)
        assert not torch.equal(changed, given)
        if name == "SpatialDropout2D":
            gone = (changed == 0).flatten(2)
            assert torch.equal(gone.all(2), gone.any(2))
    many = modules["GaussianDropout"].train()(torch.ones(100_000))
    assert float(many.std()) == pytest.approx((0.2 / 0.8) ** 0.5, rel=0.02)
