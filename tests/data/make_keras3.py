"""Made the files in `keras3/`: `KERAS_BACKEND=torch python make_keras3.py VERSION`, in this folder, with that Keras installed.

Keras 3.3 to 3.10 leave the name of an operation in the graph out of its configuration.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers as L

FOLDER = Path(__file__).parent / "keras3"


def images() -> np.ndarray:
    return (np.arange(2 * 16 * 24 * 3).reshape(2, 16, 24, 3) * 37 % 256).astype(np.float32)


if __name__ == "__main__":
    assert keras.__version__ == sys.argv[1]
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 24, 3))
    x = keras.applications.vgg16.preprocess_input(image)
    x = L.MaxPooling2D(4)(L.Conv2D(3, 3, padding="same", activation="relu")(x))
    x = keras.ops.relu(L.Dense(4, name="features")(L.Flatten()(x / 255.0)))
    model = keras.Model(image, keras.ops.softmax(L.Dense(3, name="scores")(x)))
    for suffix in (".keras", ".h5"):
        model.save(FOLDER / f"{keras.__version__}{suffix}")
    np.save(FOLDER / f"{keras.__version__}.npy", keras.ops.convert_to_numpy(model(images())))
