"""Made the files in `keras2/`: `pip install tf-keras tensorflow-cpu`, then `python make_keras2.py` in this folder.

Small models on the lines of a fine-tuned VGG, written by Keras 2 (tf-keras) on TensorFlow, each with its answers to the
images that `images` makes. The tests need neither of the two.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras
from tf_keras import layers as L

FOLDER = Path(__file__).parent / "keras2"


def images() -> np.ndarray:
    return (np.arange(2 * 16 * 24 * 3).reshape(2, 16, 24, 3) * 37 % 256).astype(np.float32)


def base() -> Any:
    image = keras.Input((16, 24, 3))
    x = L.Conv2D(3, 3, padding="same", activation="relu", name="block1_conv1")(image)
    x = L.MaxPooling2D(name="block1_pool")(x)
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="block2_conv1")(x)
    return keras.Model(image, L.MaxPooling2D(name="block2_pool")(x), name="vgg")


def sequential() -> Any:
    front = [L.RandomFlip("horizontal"), L.RandomRotation(0.1), L.Rescaling(1 / 127.5, offset=-1.0)]
    dense = [L.Dense(5), L.LeakyReLU(), L.Dropout(0.5), L.Dense(3, activation="hard_sigmoid")]
    return keras.Sequential([keras.Input((16, 24, 3)), *front, base(), L.Flatten(), *dense])


def functional() -> Any:
    """Half frozen, so that the nested model's arrays aren't in the order of its layers."""
    inner = base()
    inner.layers[1].trainable = False
    batch = [L.BatchNormalization(), L.Dense(4, activation="elu"), L.BatchNormalization(scale=False), L.Dense(2)]
    head = keras.Sequential(batch, name="head")
    image = keras.Input((16, 24, 3))
    x = keras.applications.vgg16.preprocess_input(image)
    return keras.Model(image, head(L.Flatten()(inner(x, training=False))))


def thawed() -> Any:
    """What is thawed in a frozen model isn't trained, in Keras 2, and doesn't come first in the file."""
    inner = base()
    inner.trainable = False
    inner.layers[3].trainable = True
    return keras.Sequential([inner, L.GlobalAveragePooling2D(), L.Dense(2)])


def flat() -> Any:
    image = keras.Input((16, 24, 3))
    inner = keras.Model(image, base()(image / 255.0))
    x = L.AveragePooling2D(3, 2, padding="same")(inner.output)
    x = L.ReLU(max_value=6.0, negative_slope=0.1)(L.Conv2D(5, 2, strides=2, padding="same")(x))
    x = L.Activation("swish")(L.PReLU(shared_axes=[1, 2])(x))
    x = L.Dense(4, activation=L.LeakyReLU(0.1))(L.GlobalAveragePooling2D()(x))
    return keras.Model(inner.input, L.Softmax()(L.LayerNormalization()(x)))


def trained() -> Any:
    model = keras.Sequential([L.Rescaling(1 / 255), base(), L.Flatten(), L.Dense(2, activation="softmax")])
    model.compile("adam", "mse")
    model.fit(images(), np.eye(2), verbose=0)
    return model


def bfloat16() -> Any:
    keras.mixed_precision.set_global_policy("bfloat16")
    model = keras.Sequential([keras.Input((16, 24, 3)), L.Rescaling(1 / 255), base(), L.Flatten(), L.Dense(2)])
    keras.mixed_precision.set_global_policy("float32")
    return model


def write(build: Callable[[], Any], suffixes: tuple[str, ...]) -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    random = np.random.default_rng(0)
    name = build.__name__
    if name not in ("trained", "bfloat16"):
        model.set_weights([random.uniform(-0.4, 0.4, w.shape) for w in model.get_weights()])
        for layer in model.get_layer("head").layers if name == "functional" else ():
            if isinstance(layer, L.BatchNormalization):
                layer.set_weights([np.abs(w) + 0.1 for w in layer.get_weights()])
    for suffix in suffixes:
        if suffix in (".h5", ".keras"):
            model.save(FOLDER / f"{name}{suffix}")
        else:
            model.save_weights(FOLDER / f"{name}{suffix}")
    np.save(FOLDER / f"{name}.npy", np.asarray(model(images(), training=False), np.float32))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(sequential, (".h5", ".keras"))
    write(functional, (".h5",))  # Keras 2 can't write the slice in preprocess_input to a .keras
    write(thawed, (".h5",))
    write(flat, (".h5", ".keras"))
    write(trained, (".h5", ".keras", "_weights.h5", ".weights.h5"))
    write(bfloat16, (".h5", ".keras"))
