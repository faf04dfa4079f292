"""The VGG alone, out of larger networks (`--base-only`, `include_top=False`): whole and right, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch

from torchvgg import VGG16
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.heads import L, chain, with_random_weights
from ...helpers.keras_models import keras_model, write_twin

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
SUFFIXES = (".h5", ".keras", ".weights.h5")


def vgg(size: int = 32) -> Any:
    return keras_model(include_top=False, input_shape=(size, size, 3))


def save(model: Any, path: Path) -> Path:
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def like_a_vgg(
    convolution: Callable[[int], list[Any]], pool: Callable[[], Any] = lambda: L.MaxPooling2D(2), size: int = 32
) -> Any:
    """A row of layers as wide as VGG16's, and a head."""
    layers: list[Any] = [keras.Input((size, size, 3))]
    for count, filters in BLOCKS:
        layers += [layer for _ in range(count) for layer in convolution(filters)]
        layers.append(pool())
    return chain(*layers, L.Flatten(), L.Dense(8, "relu"), L.Dense(3))


def plain(filters: int, activation: str | None = "relu") -> Any:
    return L.Conv2D(filters, 3, padding="same", activation=activation)


# Networks with a VGG16 in them.


def u_net() -> Any:
    base = vgg(64)
    x = base.output
    for name, filters in (("block5_conv3", 64), ("block4_conv3", 32)):
        x = L.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = L.Concatenate()([x, base.get_layer(name).output])
        x = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", activation="relu")(x))
    return keras.Model(base.input, L.Conv2D(1, 1)(x))


def three_more_convolutions() -> Any:
    """As VGG-Face's classifier, and as Faster R-CNN's: 16 in all, and no VGG19."""
    base = vgg(64)
    x = L.Conv2D(8, 2, activation="relu")(base.output)
    return keras.Model(base.input, L.Flatten()(L.Conv2D(3, 1)(L.Dropout(0.5)(L.Conv2D(8, 1)(x)))))


def over_time() -> Any:
    frames = keras.Input((2, 32, 32, 3))
    x = L.TimeDistributed(L.Flatten())(L.TimeDistributed(vgg())(frames))
    return keras.Model(frames, L.Dense(2)(L.LSTM(4)(x)))


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.base, self.pool, self.classifier = vgg(), L.GlobalAveragePooling2D(), L.Dense(3)

    def call(self, x: Any) -> Any:
        return self.classifier(self.pool(self.base(x)))


def subclassed() -> Any:
    """Compiled and trained: the optimizer's arrays look like the layers'."""
    model = Subclassed()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((1, 32, 32, 3)), np.zeros((1, 3)), verbose=0)
    return model


def flat_with_normalized_head() -> Any:
    base = vgg()
    x = L.BatchNormalization()(L.GlobalAveragePooling2D()(base.output))
    return keras.Model(base.input, L.Dense(2)(L.BatchNormalization()(L.Dense(256, "relu")(x))))


def two_towers() -> Any:
    base, images = vgg(), [keras.Input((32, 32, 3)) for _ in range(2)]
    return keras.Model(images, L.Dense(1)(L.Flatten()(L.Subtract()([base(image) for image in images]))))


def spelt_out() -> Any:
    return like_a_vgg(
        lambda filters: [L.ZeroPadding2D(1), L.Conv2D(filters, 3), L.Dropout(0.1), L.Activation("relu")], size=64
    )


def with_relu_layers() -> Any:
    return like_a_vgg(lambda filters: [plain(filters, None), L.ReLU()])


def with_a_custom_layer() -> Any:
    return chain(vgg(), Doubled(), L.Flatten(), L.Dense(3))


class Doubled(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2


def attention() -> Any:
    """Its kernels have three axes, as those of Conv1D below."""
    base = vgg(64)
    x = L.Reshape((4, 512))(base.output)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 64)(x, x))
    return keras.Model(base.input, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def over_sequences() -> Any:
    base = vgg(64)
    return keras.Model(base.input, L.Dense(3)(L.Flatten()(L.Conv1D(64, 2)(L.Reshape((4, 512))(base.output)))))


def stacked_features() -> Any:
    """As `preprocess_input` begins: a Stack along the last axis, and a constant."""
    base = vgg()
    pools = L.GlobalAveragePooling2D()(base.output), L.GlobalMaxPooling2D()(base.output)
    both = keras.ops.stack([L.Concatenate()(pools), L.Concatenate()(pools[::-1])], axis=-1) + 1.0
    return keras.Model(base.input, L.Dense(2)(L.Flatten()(both)))


WITHIN = [
    attention,
    over_sequences,
    stacked_features,
    u_net,
    three_more_convolutions,
    over_time,
    subclassed,
    flat_with_normalized_head,
    two_towers,
    spelt_out,
]
WITHIN += [with_relu_layers, with_a_custom_layer]
NOT_UNDERSTOOD = [attention, subclassed, with_a_custom_layer]  # as a whole


def convolutions_of(model: Any) -> list[Any]:
    """The first 13 convolutions, in order, of a model or of the models in it."""
    found: list[Any] = []
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        found += convolutions_of(inner) if hasattr(inner, "layers") else [inner] if type(inner) is L.Conv2D else []
    return found[:13]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("build", WITHIN)
def test_the_vgg_within(build: Callable[[], Any], suffix: str, tmp_path: Path) -> None:
    theirs = with_random_weights(build()) if build in (spelt_out, with_relu_layers) else build()
    path = save(theirs, tmp_path / f"model{suffix}")
    report = convert(path, tmp_path / "base.safetensors", base_only=True)
    assert report.params == 14_714_688
    for weights in (path, tmp_path / "base.safetensors"):
        ours = VGG16(weights=weights, include_top=False)
        mine = [layer for name, layer in ours.named_children() if "conv" in name]
        for layer, other in zip(mine, convolutions_of(theirs), strict=True):
            kernel, bias = (torch.from_numpy(np.array(array)) for array in other.get_weights())
            assert torch.equal(layer.weight, kernel.permute(3, 2, 0, 1))
            assert torch.equal(layer.bias, bias)
    if build in NOT_UNDERSTOOD or suffix == ".weights.h5":
        with pytest.raises(ValueError, match="--base-only"):  # the advice is what helps
            convert(path, tmp_path / "whole.safetensors")


def test_a_vgg_that_keras_1_saved(tmp_path: Path) -> None:
    theirs = vgg()
    path = write_twin(tmp_path / "keras1.h5", theirs)

    def entry(layer: Any) -> dict[str, Any]:
        name = {"name": layer.name, "trainable": True}
        if isinstance(layer, L.MaxPooling2D):
            config: dict[str, Any] = {"pool_size": [2, 2], "strides": [2, 2], "border_mode": "valid", **name}
            return {"class_name": "MaxPooling2D", "config": config | {"dim_ordering": "tf"}}
        size = {"nb_filter": layer.filters, "nb_row": 3, "nb_col": 3, "subsample": [1, 1], "border_mode": "same"}
        config = {**size, "activation": "relu", "dim_ordering": "tf", "bias": True, **name}
        return {"class_name": "Convolution2D", "config": config}

    entries = [entry(layer) for layer in theirs.layers[1:]]
    for change, message in (
        (lambda entries: None, None),
        (
            lambda entries: entries[3]["config"].update(activation="elu"),
            r"'block2_conv1' \(Conv2D\) isn't like block2_conv1",
        ),
        (lambda entries: entries[2]["config"].update(strides=[1, 1]), r"'block1_pool' \(MaxPooling2D\) isn't like"),
    ):
        changed = json.loads(json.dumps(entries))
        change(changed)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": changed})
        if message:
            with pytest.raises(ValueError, match=message):
                VGG16(weights=path, include_top=False)
        else:
            ours = VGG16(weights=path, include_top=False)
            expected = torch.from_numpy(theirs.get_layer("block5_conv3").get_weights()[0])
            assert torch.equal(ours.block5_conv3.weight, expected.permute(3, 2, 0, 1))


# Networks as wide as a VGG16 that aren't one.


def normalized() -> Any:
    return like_a_vgg(lambda filters: [plain(filters, None), L.BatchNormalization(), L.ReLU()])


def cifar_vgg() -> Any:
    return like_a_vgg(lambda filters: [plain(filters), L.BatchNormalization(), L.Dropout(0.3)])


def normalized_once() -> Any:
    base, image = vgg(), keras.Input((32, 32, 3))
    x = image
    for layer in base.layers[1:]:
        x = layer(x) if layer.name != "block4_conv2" else L.BatchNormalization()(layer(x))
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))


def with_slopes() -> Any:
    return like_a_vgg(lambda filters: [plain(filters, None), L.PReLU(shared_axes=[1, 2])])


def averaged() -> Any:
    return like_a_vgg(lambda filters: [plain(filters)], lambda: L.AveragePooling2D(2))


def averaged_last() -> Any:
    pools = iter([L.MaxPooling2D] * 4 + [L.AveragePooling2D])
    return like_a_vgg(lambda filters: [plain(filters)], lambda: next(pools)(2))


def elu() -> Any:
    return like_a_vgg(lambda filters: [plain(filters, "elu")])


def with_other_pools() -> Any:
    return like_a_vgg(lambda filters: [plain(filters)], lambda: L.MaxPooling2D(3, 2, padding="same"))


def averaged_u_net() -> Any:
    base = averaged()
    pools = [layer.output for layer in base.layers if isinstance(layer, L.AveragePooling2D)]
    joined = L.Concatenate()([L.UpSampling2D(2)(pools[-1]), pools[-2]])
    return keras.Model(base.inputs, joined)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (normalized, r"'conv2d.*' \(Conv2D\) isn't like block1_conv1"),
        (cifar_vgg, r"'batch_normalization.*' \(BatchNormalization\) isn't like block1_conv2"),
        (normalized_once, r"'batch_normalization.*' \(BatchNormalization\) isn't like block4_conv3"),
        (with_slopes, r"'conv2d.*' \(Conv2D\) isn't like block1_conv1"),
        (averaged, r"'average_pooling2d.*' \(AveragePooling2D\) isn't like block1_pool"),
        (averaged_last, r"'average_pooling2d.*' \(AveragePooling2D\) isn't like block5_pool"),
        (averaged_u_net, r"'average_pooling2d.*' \(AveragePooling2D\) isn't like block1_pool"),
        (elu, r"'conv2d.*' \(Conv2D\) isn't like block1_conv1"),
        (with_other_pools, r"'max_pooling2d.*' \(MaxPooling2D\) isn't like block1_pool"),
    ],
)
def test_what_is_only_as_wide_as_a_vgg(
    build: Callable[[], Any], message: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(build(), tmp_path / f"model{suffix}")
    if suffix == ".weights.h5":
        if build not in (normalized, cifar_vgg, with_slopes):
            pytest.skip("nothing in the file tells it from a VGG16")
        message = "a layer that no VGG has, it seems between the convolutions"
    with pytest.raises(ValueError, match=message):
        VGG16(weights=path, include_top=False)
    assert run(path, "--base-only") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_between_convolutions_in_order_of_the_layers(tmp_path: Path) -> None:
    """Weights alone in the older format, whose order tells one normalisation too."""
    with pytest.raises(ValueError, match="a layer that no VGG has, it seems between the convolutions"):
        VGG16(weights=weights_alone(normalized_once(), tmp_path), include_top=False)


def weights_alone(model: Any, folder: Path) -> Path:
    """Write a file as `save_weights("x.h5")` of Keras 2 did."""
    path, alone = save(model, folder / "model.h5"), folder / "weights.h5"
    with h5py.File(path) as whole, h5py.File(alone, "w") as file:
        for name, value in whole["model_weights"].attrs.items():
            file.attrs[name] = value
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", file)
    return alone


def test_a_scale_is_no_bias(tmp_path: Path) -> None:
    """The arrays of convolutions without a bias, each followed by a LayerNormalization's gamma."""

    def convolution(filters: int) -> list[Any]:
        return [L.Conv2D(filters, 3, padding="same", use_bias=False), L.LayerNormalization(center=False), L.ReLU()]

    with pytest.raises(ValueError, match="expected the 13 convolutions of VGG16"):
        VGG16(weights=weights_alone(like_a_vgg(convolution), tmp_path), include_top=False)


def normalized_after_a_concatenation() -> Any:
    base = vgg(64)
    x = L.UpSampling2D(2)(L.Conv2D(64, 1)(base.output))
    x = L.Concatenate()([x, L.Conv2D(64, 1)(base.get_layer("block5_conv3").output)])
    return keras.Model(base.input, L.Conv2D(1, 1)(L.BatchNormalization()(x)))


def half_frozen_within() -> Any:
    base = vgg()
    inner = keras.Model(base.input, L.BatchNormalization()(L.GlobalAveragePooling2D()(base.output)))
    for layer in inner.layers:
        layer.trainable = layer.name.startswith(("block5", "batch"))
    return chain(keras.Input((32, 32, 3)), inner, L.Dense(3))


@pytest.mark.parametrize("build", [normalized_after_a_concatenation, half_frozen_within])
def test_a_normalized_head_in_the_older_format(build: Callable[[], Any], tmp_path: Path) -> None:
    assert VGG16(weights=weights_alone(build(), tmp_path), include_top=False).count_params() == 14_714_688


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_two_vggs_in_one_network(suffix: str, tmp_path: Path) -> None:
    first, second = vgg(), keras.models.clone_model(vgg())
    second.name = "second"
    images = [keras.Input((32, 32, 3)) for _ in range(2)]
    both = L.Subtract()([first(images[0]), second(images[1])])
    path = save(keras.Model(images, L.Dense(1)(L.Flatten()(both))), tmp_path / f"model{suffix}")
    with pytest.raises(
        ValueError, match=r"more than one VGG in it, from .*block1_conv1 and from second_block1_conv1 on"
    ):
        VGG16(weights=path, include_top=False)


def test_weights_of_a_whole_model_that_is_no_vgg(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = image
    for count, filters in BLOCKS:
        for _ in range(count):
            x = plain(filters, "elu")(x)
        x = L.MaxPooling2D(2)(x)
    x = L.Dense(4096, "relu")(L.Dense(4096, "relu")(L.Flatten()(x)))
    path = save(keras.Model(image, L.Dense(4, "softmax")(x)), tmp_path / "elu.keras")
    with pytest.raises(ValueError, match=r"takes Keras's own VGG16 and VGG19, and layer 'conv2d"):
        VGG16(weights=path, classes=4, input_shape=(3, 32, 32))


def test_a_converted_network_that_is_no_vgg(tmp_path: Path) -> None:
    convert(save(normalized(), tmp_path / "model.keras"), check=False)
    with pytest.raises(ValueError, match="isn't like block1_conv1"):
        convert(tmp_path / "model.safetensors", tmp_path / "base.safetensors", base_only=True)


def test_a_head_that_is_left_over_is_an_error(tmp_path: Path) -> None:
    """As in a KerasHub classifier's file of weights, beside the backbone: the head is another attribute."""
    model = Subclassed()
    model(np.zeros((1, 32, 32, 3)))
    model.save_weights(path := tmp_path / "task.weights.h5")
    with pytest.raises(ValueError, match="a head that isn't Keras's own"):
        VGG16(weights=path, classes=3, input_shape=(3, 32, 32))
    assert VGG16(weights=path, include_top=False).count_params() == 14_714_688
