"""Lambdas and custom layers: their code is never run; the user says what they do, or brings a module."""

from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import Tensor, nn

from torchvgg import load_model
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.heads import L, base, chain, with_random_weights
from ...helpers.keras_models import relative_error

TOLERANCE = 1e-5  # see test_vgg_parity


def l2(x: Any) -> Any:
    return x / keras.ops.sqrt(keras.ops.sum(keras.ops.square(x), axis=-1, keepdims=True))


def resized(x: Any) -> Any:
    return keras.ops.image.resize(x, (32, 64), interpolation="bilinear")


def with_lambdas() -> Any:
    front = [
        keras.Input((48, 40, 3)),
        L.Lambda(resized, output_shape=(32, 64, 3), name="size"),
        L.Lambda(keras.applications.vgg16.preprocess_input, name="prep"),
    ]
    end = [L.GlobalAveragePooling2D(), L.Lambda(lambda x: x, name="same"), L.Lambda(l2, name="unit"), L.Dense(3)]
    return with_random_weights(chain(*front, base(32, 64), *end))


WHAT = {"size": "resize:32,64", "prep": "preprocess_input", "same": "identity", "unit": "l2_normalize"}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_lambdas_are_what_the_user_says(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = with_lambdas()
    theirs.save(path := tmp_path / f"model{suffix}")
    x = torch.rand(2, 48, 40, 3) * 255
    expected = theirs(x)
    options = [option for name, what in WHAT.items() for option in ("--lambda", f"{name}={what}")]
    assert run(path, *options) == 0
    for ours in (load_model(path, custom_objects=WHAT), load_model(tmp_path / "model.safetensors")):
        assert relative_error(ours(x.permute(0, 3, 1, 2)), expected) <= TOLERANCE
    capsys.readouterr()
    assert run(path, *options[:-2], "--force") == 1
    error = capsys.readouterr().err
    assert "layer 'unit' (Lambda): code in the file, which is never run; say what it does, --lambda unit=WHAT" in error
    for wrong, message in (
        ("unit=softmax", "expected one of preprocess_input, l2_normalize, resize:H,W, identity. Received: 'softmax'"),
        ("unit=resize:0,3", "Received: 'resize:0,3'"),
        ("none=identity", "lambda: no layer is called 'none'"),
    ):
        assert run(path, *options, "--lambda", wrong, "--force") == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(path, "--lambda", "unit")
    assert "argument --lambda: expected NAME=WHAT. Received: 'unit'" in capsys.readouterr().err


@keras.saving.register_keras_serializable()
class Scaled(keras.layers.Layer):  # type: ignore[misc]
    """As SSD's L2Normalization: a weight for each channel, and a setting."""

    def __init__(self, power: float = 1.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.power = power

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma", initializer="uniform")

    def call(self, x: Any) -> Any:
        return keras.ops.abs(x * self.gamma) ** self.power

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power": self.power}


class OurScaled(nn.Module):
    def __init__(self, power: float, channels: int = 8) -> None:
        super().__init__()
        self.power, self.gamma = power, nn.Parameter(torch.full((channels,), 7.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gamma[:, None, None]).abs() ** self.power


def with_custom_layers() -> Any:
    layers = [Scaled(2.0, name="first"), L.Conv2D(8, 1), Scaled(1.0, name="second")]
    return with_random_weights(chain(base(64, 64), *layers, L.Flatten(), L.Dense(3)))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_module_stands_for_a_custom_layer(suffix: str, tmp_path: Path) -> None:
    theirs = with_custom_layers()
    theirs.save(path := tmp_path / f"model{suffix}")
    x = torch.rand(2, 64, 64, 3) * 255
    expected = theirs(x)
    for objects in ({"Scaled": OurScaled}, {"first": OurScaled(2.0), "second": lambda **config: OurScaled(1.0)}):
        ours = load_model(path, custom_objects=objects)
        assert relative_error(ours(x.permute(0, 3, 1, 2)), expected) <= TOLERANCE
        assert isinstance(ours.second, OurScaled)
        assert torch.equal(ours.second.gamma, torch.from_numpy(theirs.get_layer("second").get_weights()[0]))
        assert [node.name for node in ours.nodes][-5:-2] == ["first", theirs.layers[2].name, "second"]
    with pytest.raises(ValueError, match=r"'first' \(Scaled\): a custom layer.*custom_objects={'first': module}\)"):
        load_model(path)
    with pytest.raises(ValueError, match=r"expected shape \(5,\). Received: \(8,\)"):
        load_model(path, custom_objects={"Scaled": lambda power: Wrong()})


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_module_of_its_own_weights_and_one_that_fails(tmp_path: Path) -> None:
    theirs = chain(base(), L.Lambda(lambda x: x * 2.0, name="code"), L.Flatten(), L.Dense(3))
    theirs.save(path := tmp_path / "model.keras")
    x = torch.rand(2, 32, 32, 3) * 255
    own = nn.Conv2d(8, 8, 1, groups=8, bias=False)
    nn.init.constant_(own.weight, 2.0)
    ours = load_model(path, custom_objects={"code": own})
    assert relative_error(ours(x.permute(0, 3, 1, 2)), theirs(x)) <= TOLERANCE
    assert ours.code is not own
    for module, message in (
        (nn.Linear(7, 2), r"'code' \(Custom\): the module for it fails on an input of \(1, 8, 1, 1\)"),
        (nn.LSTM(1, 2), r"'code' \(Custom\): the module for it"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(path, custom_objects={"code": module})


def test_a_lambda_in_python(tmp_path: Path) -> None:
    with_lambdas().save(path := tmp_path / "model.keras")
    assert convert(path, lambdas=WHAT).max_relative_error <= TOLERANCE
    with pytest.raises(ValueError, match="lambda: expected one of"):
        convert(path, lambdas=WHAT | {"same": "same"}, force=True)


class Recurrent(nn.Module):
    """Stands for a GRU: three arrays in Keras's order, and the mask, as it is in the file."""

    def __init__(self, units: int, features: int) -> None:
        super().__init__()
        shapes = ((features, 3 * units), (units, 3 * units), (2, 3 * units))
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = torch.ones(x.shape[:2]) if mask is None else mask.float()
        return (x @ self.parts[0] * kept[..., None]).sum(1) + self.parts[1].sum() + self.parts[2].sum()


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_module_for_a_recurrent_layer_has_its_arrays_and_its_mask(suffix: str, tmp_path: Path) -> None:
    words = keras.Input((6,))
    theirs = with_random_weights(keras.Model(words, L.GRU(2, name="read")(L.Embedding(9, 4, mask_zero=True)(words))))
    theirs.save(path := tmp_path / f"model{suffix}")
    ours = load_model(path, custom_objects={"read": Recurrent(2, 4)})
    for own, array in zip(ours.read.parts, theirs.get_layer("read").get_weights(), strict=True):
        assert torch.equal(own, torch.from_numpy(array))
    x = torch.tensor([[1.0, 2, 0, 3, 0, 0]])
    short = torch.tensor([[1.0, 2, 3, 0, 0, 0]])
    assert torch.allclose(ours(x), ours(short))  # what is masked doesn't count
    assert not torch.allclose(ours(x), ours(x + 1))
