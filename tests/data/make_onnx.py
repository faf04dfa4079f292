"""Makes tests/data/onnx: small Keras models as tf2onnx writes them, and Keras's outputs for an image.

Run with tensorflow-cpu 2.21, Keras 3.15, tf-keras 2.21 and tf2onnx 1.17, which the tests don't need. `chain` and `open` are Keras 3's, converted from a function
and from a SavedModel; `keras2` is tf_keras's.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
import tf_keras

FOLDER = Path(__file__).parent / "onnx"


def chain(layers: Any) -> list[Any]:
    return [
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.Conv2D(6, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(5, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(3, activation="softmax"),
    ]


def open_sized(layers: Any) -> list[Any]:
    return [
        layers.Rescaling(1 / 2, -0.5),
        layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.AveragePooling2D(2),
        layers.Conv2D(6, 1, activation="tanh"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(1, activation="sigmoid"),
    ]


def keras_2(layers: Any) -> list[Any]:
    return [
        layers.ZeroPadding2D(),
        layers.Conv2D(4, 3, strides=2, activation="elu"),
        layers.SeparableConv2D(5, 3, padding="same"),
        layers.ReLU(),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(4),
    ]


def shaken(model: Any, seed: int) -> Any:
    """Gives a model weights that aren't zero, nor one."""
    chance = np.random.default_rng(seed)
    model.set_weights(
        [
            abs(chance.normal(1 if w.ndim == 1 else 0, 0.3, w.shape)) - (0.3 if w.ndim > 1 else 0)
            for w in model.get_weights()
        ]
    )
    return model


def write(name: str, model: Any, saved: bool) -> None:
    """Writes a model's ONNX file, from a SavedModel or a function of its own, and an image with its outputs."""
    path, (_, *size, channels) = FOLDER / f"{name}.onnx", model.input_shape
    if saved:
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder)
            subprocess.run(
                [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder, "--output", path, "--opset", "13"],
                check=True,
            )
    else:
        signature = [tf.TensorSpec((None, *size, channels), tf.float32, name="images")]
        tf2onnx.convert.from_function(tf.function(lambda x: model(x)), signature, opset=15, output_path=str(path))
    x = np.random.default_rng(1).uniform(0, 2, (2, *(n or 19 for n in size), channels)).astype("f4")
    np.savez(FOLDER / f"{name}.npz", x=x, y=model(x))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write("sequential", shaken(keras.Sequential([keras.Input((12, 14, 3)), *chain(keras.layers)]), 0), saved=False)
    x = y = keras.Input((12, 14, 3))
    for layer in chain(keras.layers):
        y = layer(y)
    write("functional", shaken(keras.Model(x, y), 0), saved=True)
    write("open", shaken(keras.Sequential([keras.Input((None, None, 3)), *open_sized(keras.layers)]), 1), saved=True)
    write(
        "keras2", shaken(tf_keras.Sequential([tf_keras.Input((15, 16, 3)), *keras_2(tf_keras.layers)]), 2), saved=False
    )
