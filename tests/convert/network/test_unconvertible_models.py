"""Models that can't be converted: one clear line that names the layer, and nothing of the file is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch

from torchvgg import VGG16, load_model
from torchvgg.convert import convert

from ...helpers.command_line import run
from ...helpers.heads import HEADS, L, base, chain, with_random_weights
from ...helpers.hostile import Refused, changed_config
from ...helpers.keras_models import keras_model


class Custom(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2


def my_activation(x: Any) -> Any:
    return x * 2


def after(operation: Callable[[Any], Any]) -> Callable[[], Any]:
    """A model that begins with an operation."""

    def build() -> Any:
        image = keras.Input((32, 32, 3))
        return keras.Model(image, L.Flatten()(base()(operation(image))))

    return build


def states() -> Any:
    """An encoder's states start a decoder."""
    encoded, words = keras.Input((4, 3)), keras.Input((5, 3))
    _, *both = L.LSTM(4, return_state=True, name="words")(encoded)
    return keras.Model([encoded, words], L.LSTM(4)(words, initial_state=both))


def resized_bytes() -> Any:
    image = keras.Input((48, 48, 3), dtype="uint8")
    return keras.Model(image, L.Flatten()(base()(L.Rescaling(1 / 255)(L.Resizing(32, 32, name="smaller")(image)))))


def states_in_a_second_call() -> Any:
    """The first call of the layer is as it should be."""
    first, second = keras.Input((4, 3)), keras.Input((5, 3))
    words = L.GRU(4, name="words")
    return keras.Model([first, second], words(second, initial_state=words(first)))


def masked_product() -> Any:
    """Keras 3 multiplies by 1 where a step is masked."""
    words = keras.Input((6,))
    masked = L.Embedding(11, 4, mask_zero=True)(words)
    return keras.Model(words, L.GlobalMaxPooling1D()(L.Multiply(name="product")([masked, L.Dense(4)(masked)])))


def joined_with(join: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """A model whose steps are joined with constants."""

    def build() -> Any:
        steps = keras.Input((4, 3))
        return keras.Model(steps, L.Dense(2)(join(steps, np.ones((1, 4, 3), np.float32))))

    return build


def bytes_then(operation: Callable[[Any], Any]) -> Callable[[], Any]:
    """A model that computes with images in bytes."""

    def build() -> Any:
        image = keras.Input((32, 32, 3), dtype="uint8")
        return keras.Model(image, L.Flatten()(base()(L.Rescaling(1 / 255)(operation(image)))))

    return build


def with_mask(build: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    def model() -> Any:
        steps, mask = keras.Input((4, 3)), keras.Input((4,), dtype="bool")
        return keras.Model([steps, mask], build(steps, mask))

    return model


def told_apart() -> Any:
    """Words of sentences of documents, whose masks have two axes."""
    words = keras.Input((2, 4))
    sentences = L.TimeDistributed(L.LSTM(3))(L.Embedding(9, 3, mask_zero=True)(words))
    return keras.Model(words, L.LSTM(2, name="document")(sentences))


MEAN = np.array([-103.939, -116.779, -123.68], np.float32)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: chain(base(), Custom(name="mine"), L.Flatten()), r"layer 'mine' \(Custom\): "),
        (
            lambda: chain(base(), L.Lambda(lambda x: x * 2, name="code"), L.Flatten()),
            r"layer 'code' \(Lambda\): code in",
        ),
        (
            lambda: chain(base(), L.Flatten(), L.Dense(3, my_activation, name="end")),
            r"layer 'end' \(Dense\): the activ",
        ),
        (lambda: chain(base(64, 64), L.Reshape((4, 8)), L.Conv1DTranspose(2, 1, name="up")), r"layer 'up' .*: a kind"),
        (
            lambda: chain(base(), L.Flatten(), L.Discretization([0.0, 1.0], name="bins")),
            r"layer 'bins' \(Discretization\): a kind",
        ),
        (after(lambda x: keras.ops.add(x[..., -1:], MEAN)), r"layer 'add.*' \(Rescaling\): offset can't be"),
        (after(lambda x: x - np.ones((32, 1), np.float32)), r"layer 'subtract.*' \(Subtract\): an operation that"),
        (after(lambda x: x - np.ones((32, 32, 3), np.float32)), r"layer 'subtract.*' \(Subtract\): an operation that"),
        (after(lambda x: keras.ops.max(x, axis=0, keepdims=True)), r"layer 'max.*' \(Reduce\): axis=0 is no such"),
        (after(lambda x: keras.ops.roll(x, 1, axis=1)), r"layer 'roll.*' \(Roll\): a kind of layer"),
        (joined_with(lambda x, c: L.Add(name="sum")([x, c])), r"layer 'sum' \(Add\): called with a constant"),
        (joined_with(lambda x, c: L.Concatenate(name="both")([x, c])), r"layer 'both' .*: called with a constant"),
        (joined_with(lambda x, c: keras.ops.concatenate([x, x * 0 + c])), r"layer 'add.*' \(Add\): an operation that"),
        (joined_with(lambda x, c: keras.ops.stack([x, c], axis=1)), r"layer 'stack.*' \(Stack\): an operation that"),
        (
            joined_with(lambda x, c: L.GRU(3, name="words")(x, initial_state=c[:, 0])),
            r"layer 'words' .* \(initial_state\)",
        ),
        (
            joined_with(lambda x, c: L.Bidirectional(L.GRU(3), name="words")(x, mask=c[..., 0] > 0)),
            r"constant \(mask\)",
        ),
        (joined_with(lambda x, c: keras.ops.average(x, axis=1)), r"layer 'average.*' \(Average\): an operation that"),
        (joined_with(lambda x, c: keras.ops.max(x, axis=1, initial=0.7)), r"layer 'max.*' \(Max\): an operation that"),
        (joined_with(lambda x, c: keras.ops.logical_or(x, x)), r"layer 'logical.*' \(Maximum\): of numbers"),
        (
            with_mask(lambda x, m: L.Softmax(name="weights")(x, mask=L.Reshape((4, 1))(m))),
            r"layer 'weights' .*masked steps",
        ),
        (
            after(lambda x: keras.ops.image.resize(x, (32, 32), crop_to_aspect_ratio=True)),
            r"layer 'resize.*' .*: an operation",
        ),
        (bytes_then(lambda x: x - 128), r"layer 'subtract.*' \(Rescaling\): whole numbers, which Keras"),
        (bytes_then(keras.applications.vgg16.preprocess_input), r"whole numbers, which Keras computes with"),
        (bytes_then(lambda x: L.Average(name="mean")([x, x])), r"layer 'mean' \(Average\): whole numbers"),
        (bytes_then(lambda x: L.UpSampling2D(name="larger")(L.Cropping2D(8)(x))), r"layer 'larger' .*: whole numbers"),
        (told_apart, r"layer 'document' \(LSTM\): a mask of sequences of sequences"),
        (resized_bytes, r"layer 'smaller' \(Resizing\): whole numbers, which Keras computes with in another way"),
        (masked_product, r"layer 'product' \(Multiply\): masked steps change what it computes"),
        (states_in_a_second_call, r"layer 'words' \(GRU\): called with an initial state"),
        (states, r"layer 'words' \(LSTM\): return_state=True can't be converted"),
    ],
)
def test_a_model_that_is_not_understood_is_one_line(
    build: Callable[[], Any], message: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"model{suffix}"
    build().save(path)
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert run(path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert "save the model without it" in error
    assert "--base-only" not in error  # which wouldn't help: the VGG is too narrow for one
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["whole.h5", "whole.keras", "weights.weights.h5"])
def test_the_vgg_can_be_had_without_its_head(suffix: str, tmp_path: Path) -> None:
    """Of a model that is no chain, too, and of weights alone, a half-frozen model's in an order of their own."""
    inner = keras_model(include_top=False, input_shape=(32, 32, 3))
    for layer in inner.layers[:15]:
        layer.trainable = False
    image = keras.Input((32, 32, 3))
    x = L.Conv2D(512, 3, padding="same")(inner(image))
    x = L.Flatten()(L.Concatenate()([x, L.Conv2D(512, 3, padding="same")(x)]))
    theirs = keras.Model(image, L.Dense(3)(x))
    path = tmp_path / suffix
    inner.get_layer("block5_conv2").trainable = False  # the order is another, the shapes are the same
    (theirs.save_weights if suffix.startswith("weights") else theirs.save)(path)
    report = convert(path, tmp_path / "base.safetensors", base_only=True)
    assert report.params == 14_714_688
    ours = VGG16(weights=tmp_path / "base.safetensors", include_top=False)
    for layer in inner.layers:
        if layer.weights:
            expected = torch.as_tensor(layer.get_weights()[0]).permute(3, 2, 0, 1)
            assert torch.equal(ours.get_submodule(layer.name).weight, expected), layer.name
    again = VGG16(weights=path, include_top=False)
    assert torch.equal(again.block5_conv3.weight, ours.block5_conv3.weight)
    if suffix.startswith("weights"):
        with pytest.raises(ValueError, match="--base-only"):
            convert(path, tmp_path / "other.safetensors")


def test_weights_alone_with_a_foreign_head_say_both_ways_out(tmp_path: Path) -> None:
    with_random_weights(HEADS["vgg19_at_full_width"]()).save_weights(tmp_path / "a.weights.h5")
    for read in (load_model, convert):
        with pytest.raises(ValueError, match=r"how its layers are connected isn't in a file of weights") as caught:
            read(tmp_path / "a.weights.h5")
        assert "--base-only" in str(caught.value)
        assert "model.save('x.keras')" in str(caught.value)
        assert "dense" in str(caught.value)


def test_an_array_missing_or_left_over_is_named(tmp_path: Path) -> None:
    with_random_weights(chain(base(), L.Flatten(), L.Dense(3, name="end"))).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        end = file["model_weights/end"]
        names = list(end.attrs["weight_names"])
        end.attrs["weight_names"] = names[:1]
    with pytest.raises(ValueError, match=r"layer 'end' \(Dense\): expected the arrays weight \(8, 3\), bias \(3,\)"):
        load_model(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file["model_weights/end"].attrs["weight_names"] = names
        other = file["model_weights"].create_group("other")
        other["other/kernel"] = np.zeros((2, 2), np.float32)
        other.attrs["weight_names"] = ["other/kernel"]
        file["model_weights"].attrs["layer_names"] = [*file["model_weights"].attrs["layer_names"], "other"]
    with pytest.raises(ValueError, match="arrays that belong to no layer: other/kernel"):
        load_model(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("block1_conv1", {"kernel_size": 3}),
        ("block1_conv1", {"strides": [0, 1]}),
        ("block1_conv1", {"filters": 2**40}),
        ("block1_conv1", {"padding": "round"}),
        ("block1_conv1", {"groups": True}),
        ("end", {"units": "5"}),
        ("end", {"units": -1}),
        ("end", {"activation": {"class_name": "ReLU"}}),
        ("end", {"activation": ["relu"]}),
        ("bn", {"epsilon": None}),
        ("bn", {"epsilon": -1}),
        ("bn", {"momentum": 2}),
        ("bn", {"axis": "x"}),
        ("bn", {"axis": 2}),
        ("bn", {"axis": -3}),
        ("bn", {"axis": [5]}),
        ("slopes", {"shared_axes": [1, 4]}),
        ("norm", {"axis": [1, 2, 4]}),
        ("norm", {"axis": -5}),
        ("norm", {"axis": True}),
        ("soft", {"axis": 7}),
        ("bn", {"scale": 1}),
        ("drop", {"rate": None}),
        ("rescaling", {"scale": [1.0, 2.0]}),
        ("rescaling", {"scale": "1"}),
        ("reshape", {"target_shape": [3, 3, 3]}),
        ("reshape", {"target_shape": [-1, -1]}),
    ],
)
def test_a_setting_that_is_none_is_refused(layer: str, change: dict[str, Any], tmp_path: Path) -> None:
    """An untrusted file may say anything there."""
    front, after = [keras.Input((32, 32, 3)), L.Rescaling(1 / 255, name="rescaling")], [L.Dropout(0.5, name="drop")]
    flat = [
        *(L.PReLU(name="slopes", shared_axes=[1, 2]), L.LayerNormalization(name="norm"), L.Softmax(name="soft")),
        L.Flatten(),
        L.BatchNormalization(name="bn"),
        *after,
        L.Reshape((8,), name="reshape"),
        L.Dense(3, name="end"),
    ]
    chain(*front, *base().layers[1:], *flat).save(tmp_path / "model.keras")
    with changed_config(tmp_path / "model.keras") as config:
        (found,) = [entry for entry in config["layers"] if entry["config"]["name"] == layer]
        found["config"] |= change
    with pytest.raises(ValueError, match=rf"model.keras: layer '{layer}' "):
        load_model(tmp_path / "model.keras")


def beside(class_name: str, **entry: Any) -> Callable[[dict[str, Any]], object]:
    """Adds a layer that nothing takes the output of."""
    own = {"class_name": class_name, "config": {"name": "extra"}, "name": "extra", "inbound_nodes": [], **entry}
    return lambda config: config["layers"].append(own)


def fed_by(*history: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        config["layers"][-1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = list(history)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (beside("Lambda"), r"layer 'extra' \(Lambda\): it isn't on the way from the model's input to its output"),
        (beside("Mine", registered_name="Custom>Mine"), r"layer 'extra' \(Mine\): it isn't on the way"),
        (beside("InputLayer"), r"layer 'extra' \(InputLayer\): it isn't on the way"),
        (
            lambda config: config.update(input_layers=[["end", 0, 0]]),
            r"layer 'end' \(Dense\): an input of the model that other layers feed",
        ),
        (lambda config: config.update(input_layers=[["none", 0, 0]]), r"expected a layer of .* Received: 'none'"),
        (lambda config: config.update(input_layers=[]), r"the model has 0 inputs"),
        (lambda config: config.update(output_layers=["end", 1, 0]), r"layer 'end' .*: its call 1, output 0, isn't in"),
        (lambda config: config.update(output_layers=["end", 0, 1]), r"layer 'end' .*: its call 0, output 1, isn't in"),
        (lambda config: config.update(output_layers=["end", -1, 0]), r"layer 'end' .*: its call -1, output 0, isn't"),
        (fed_by("flatten", 2, 0), r"layer 'flatten' \(Flatten\): its call 2, output 0, isn't in the file"),
        (fed_by("flatten", 0, 1), r"layer 'flatten' \(Flatten\): its call 0, output 1, isn't in the file"),
        (lambda config: config["layers"].append(config["layers"][-1]), r"two layers of one name"),
    ],
)
def test_a_graph_that_keras_would_refuse(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path, check_refused: Refused
) -> None:
    image = keras.Input((8, 8, 3))
    x = L.Flatten(name="flatten")(L.Conv2D(2, 3)(image))
    keras.Model(image, L.Dense(3, name="end")(x)).save(path := tmp_path / "model.keras")
    load_model(path)
    with changed_config(path) as config:
        change(config)
    check_refused(path, message, load_model)


def layer(own: str, **change: Any) -> Callable[[dict[str, Any]], object]:
    """Changes what the configuration says of a layer."""
    return lambda config: next(entry for entry in config["layers"] if entry["name"] == own).update(change)


def setting(own: str, **change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: next(e for e in config["layers"] if e["name"] == own)["config"].update(change)


def node(own: str, **change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: next(e for e in config["layers"] if e["name"] == own)["inbound_nodes"][0].update(change)


def more(own: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: next(e for e in config["layers"] if e["name"] == own)["inbound_nodes"][0]["args"][0].append(
        value
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (layer("norm", module="mine.layers"), r"layer 'norm' \(Normalization\): a custom layer, whose code isn't in"),
        (layer("norm", module=None), r"layer 'norm' \(Normalization\): a custom layer, whose code isn't in"),
        (layer("inner", module="mine"), r"layer 'maps' \(Conv2D\): a custom layer, whose code isn't in"),
        (setting("norm", variance=None), r"layer 'norm' \(Normalization\): a mean without a variance"),
        (setting("norm", mean=None), r"layer 'norm' \(Normalization\): a mean without a variance"),
        (setting("end", groups=3), r"layer 'end' \(Conv2D\): groups=3 of 4 channels and 4 filters"),
        (setting("bn", axis=4), r"layer 'bn' \(BatchNormalization\): axis=4 is no such setting"),
        (setting("bn", axis=-5), r"layer 'bn' \(BatchNormalization\): axis=-5 is no such setting"),
        (setting("both", axis=4), r"layer 'both' \(Concatenate\): axis=4 is no such setting"),
        (setting("both", axis=-5), r"layer 'both' \(Concatenate\): axis=-5 is no such setting"),
        (layer("bn", name="norm"), r"model: two layers of one name"),
        (layer("bn", name=0), r"expected the name of a layer. Received: 0"),
        (layer("image", class_name="ReLU"), r"layer 'image' \(ReLU\): an input of the model that is no InputLayer"),
        (node("bn", kwargs=None), r"expected the call of a layer"),
        (more("both", 0), r"layer 'both' \(Concatenate\): called with a constant \(an input\)"),
        (node("bn", args=[1.0]), r"layer 'bn' \(BatchNormalization\): nothing feeds it"),
        (
            lambda config: config.update(input_layers=[["image", 1, 0]]),
            r"layer 'image' .*: its call 1, output 0, isn't",
        ),
    ],
)
def test_what_keras_refuses_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path, check_refused: Refused
) -> None:
    """Keras tries each file too."""
    image = keras.Input((8, 8, 2), name="image")
    x = L.BatchNormalization(name="bn")(L.Normalization(mean=[1.0, 2.0], variance=[1.0, 2.0], name="norm")(image))
    inner = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(2, 1, name="maps")], name="inner")
    x = L.Conv2D(4, 3, name="end")(L.Concatenate(name="both")([x, inner(x)]))
    keras.Model(image, x, name="model").save(path := tmp_path / "model.keras")
    load_model(path)
    keras.models.load_model(path)
    with changed_config(path) as config:
        change(config)
    with pytest.raises(Exception):  # noqa: B017, PT011  # of any kind
        keras.models.load_model(path)
    check_refused(path, message, load_model)


@pytest.mark.parametrize("names", [{"a": "b"}, {"a": None, "b": None}, {"a": ""}])
def test_the_names_of_a_sequential(names: dict[str, Any], tmp_path: Path) -> None:
    """Layers of one name are refused, as by Keras; layers without one are as many layers."""
    keras.Sequential(
        [keras.Input((4,)), L.Activation("relu", name="a"), L.Activation("tanh", name="b")], name="model"
    ).save(path := tmp_path / "model.keras")
    x = torch.randn(3, 4)
    expected = load_model(path)(x)
    with changed_config(path) as config:
        for entry in config["layers"]:
            entry["config"]["name"] = names.get(entry["config"]["name"], entry["config"]["name"])
    if names == {"a": "b"}:
        for read in (keras.models.load_model, load_model):
            with pytest.raises(ValueError, match=r"unique names|two layers of one name"):
                read(path)
    else:
        assert torch.equal(load_model(path)(x), expected)
        assert np.allclose(keras.models.load_model(path).predict(x.numpy(), verbose=0), expected, atol=1e-6)


def test_layers_renamed_into_each_other_are_refused(tmp_path: Path) -> None:
    """The arrays' names say one thing, their order another."""
    inner = base()
    for name, layer in zip(("x", "block5_conv2", "block5_conv1"), inner.layers[-4:-1], strict=True):
        layer.name = name
    inner.layers[-4].name = "block5_conv3"
    with_random_weights(chain(inner, L.Flatten(), L.Dense(3))).save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"layer 'block5_conv3' .* in Keras's order"):
        load_model(tmp_path / "model.h5")
