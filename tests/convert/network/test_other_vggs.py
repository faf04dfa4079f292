"""VGGs as well-known projects build them, with smaller heads: deepface's VGGFace, keras-vggface, Places365; and without all blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import pytest
import torch
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from torchvgg import VGG16, load_model
from torchvgg.convert import convert
from torchvgg.layers.shared import channels_last

from ...helpers.heads import L, chain, with_random_weights
from ...helpers.keras_models import relative_error

TOLERANCE = 1e-5  # see test_vgg_parity
BLOCKS = [(1, 64, 2), (2, 128, 2), (3, 256, 3), (4, 512, 3), (5, 512, 3)]  # its number, its filters, its convolutions


def deepface() -> Any:
    """Paddings of their own, layers without names, and a head of convolutions: 16 in all, as VGG19 has."""
    layers: list[Any] = [keras.Input((64, 64, 3))]
    for _, filters, count in BLOCKS:
        for _ in range(count):
            layers += [L.ZeroPadding2D((1, 1)), L.Convolution2D(filters, (3, 3), activation="relu")]
        layers.append(L.MaxPooling2D((2, 2), strides=(2, 2)))
    hidden = [
        L.Convolution2D(8, (2, 2), activation="relu"),
        L.Dropout(0.5),
        L.Convolution2D(8, (1, 1), activation="relu"),
    ]
    return chain(*layers, *hidden, L.Dropout(0.5), L.Convolution2D(5, (1, 1)), L.Flatten(), L.Activation("softmax"))


def descriptor() -> Any:
    """What deepface takes of it."""
    whole = deepface()
    return keras.Model(whole.inputs, L.Flatten()(whole.layers[-5].output))


def places(convolution: str = "block{}_conv{}_365", pool: str = "block{}_pool_365", blocks: int = 5) -> Any:
    """All in one list, with dropouts between the dense layers."""
    x = image = keras.Input((32, 32, 3))
    for block, filters, count in BLOCKS[:blocks]:
        for number in range(1, count + 1):
            name, l2 = convolution.format(block, number), keras.regularizers.L2(0.0002)
            x = L.Conv2D(filters, 3, padding="same", activation="relu", kernel_regularizer=l2, name=name)(x)
        x = L.MaxPooling2D(2, 2, name=pool.format(block))(x)
    x = L.Dropout(0.5, name="drop_fc1")(L.Dense(8, "relu", name="fc1")(L.Flatten(name="flatten")(x)))
    return keras.Model(image, L.Dense(5, "softmax", name="predictions")(x), name="vgg16-places365")


def keras_vggface() -> Any:
    return places("conv{}_{}", "pool{}")


def without_a_block() -> Any:
    return places("block{}_conv{}", "block{}_pool", blocks=4)


def save(model: Any, path: Path) -> Path:
    if path.name == "weights.h5":
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, model)
    else:
        (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


@pytest.mark.parametrize("build", [deepface, descriptor, places, keras_vggface, without_a_block])
def test_whole_and_base(build: Callable[[], Any], tmp_path: Path) -> None:
    theirs = with_random_weights(build())
    x = torch.rand(2, *theirs.input_shape[1:]) * 255
    expected = theirs(x, training=False).detach()
    convolutions = [layer for layer in theirs.layers if isinstance(layer, L.Conv2D)][:13]
    for name in ("x.keras", "weights.h5"):
        path = save(theirs, tmp_path / name)
        if name == "x.keras":
            received = load_model(path)(x.permute(0, 3, 1, 2)).detach()
            assert relative_error(channels_last(received), expected) <= TOLERANCE, name
        else:
            with pytest.raises(ValueError, match=r"a VGG with a head that isn't|expected the 13 convolutions"):
                load_model(path)
        if build is without_a_block:
            with pytest.raises(ValueError, match=r"isn't like block5_conv1|expected the 13 convolutions"):
                convert(path, base_only=True)
            continue
        base = [module for child, module in VGG16(weights=path, include_top=False).named_children() if "conv" in child]
        for layer, module in zip(convolutions, base, strict=True):
            kernel, bias = map(torch.from_numpy, layer.get_weights())
            assert torch.equal(module.weight, kernel.permute(3, 2, 0, 1))
            assert torch.equal(module.bias, bias)


def test_a_head_of_convolutions_is_named(tmp_path: Path) -> None:
    """Of weights alone; the sixteen convolutions aren't taken for VGG19's."""
    path = save(deepface(), tmp_path / "x.weights.h5")
    assert convert(path, base_only=True).params == 14_714_688
    head = r"a VGG with a head that isn't Keras's own \(layers/conv2d_13/vars/0 \(2, 2, 512, 8\), .* can be converted alone"
    with pytest.raises(ValueError, match=head):
        load_model(path)
