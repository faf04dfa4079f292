"""Made the files in `keras_hub/`: `pip install keras-hub torch`, then `KERAS_BACKEND=torch python make_keras_hub.py` in this folder.

VGGs of few filters, written by KerasHub, as presets and as whole models, each with its answers to the images that `images`
makes, after any preprocessor. The tests need no KerasHub.
"""

from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import layers as L

FOLDER = Path(__file__).parent / "keras_hub"


def images() -> np.ndarray:
    return (np.arange(2 * 32 * 48 * 3).reshape(2, 32, 48, 3) * 37 % 256 / 64 - 2).astype(np.float32)


def backbone(shape: tuple[int | None, int | None, int] = (None, None, 3)) -> Any:
    return keras_hub.models.VGGBackbone([1, 2], [3, 4], image_shape=shape)


def classifier(pooling: str, **arguments: Any) -> Any:
    converter = keras_hub.layers.VGGImageConverter(image_size=(32, 48), scale=1 / 64, offset=-2.0)
    preprocessor = keras_hub.models.VGGImageClassifierPreprocessor(converter)
    inner = backbone((32, 48, 3))
    return keras_hub.models.VGGImageClassifier(
        inner, 5, preprocessor=preprocessor, pooling=pooling, pooling_hidden_dim=4, **arguments
    )


def nested() -> Any:
    image = keras.Input((32, 48, 3))
    return keras.Model(image, L.Dense(3)(L.Flatten()(backbone()(image))))


MODELS = {  # and what is written of each: a preset, which is a folder, or files
    "backbone": (backbone, ("", ".h5")),
    "average": (lambda: classifier("avg", dropout=0.5), ("",)),
    "maximum": (lambda: classifier("max", activation="softmax"), (".keras",)),
    "flatten": (lambda: classifier("flatten", activation="softmax", dropout=0.5), ("", ".keras", ".h5")),
    "nested": (nested, (".keras", ".h5")),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, (make, suffixes)) in enumerate(MODELS.items()):
        keras.utils.set_random_seed(seed)
        model = make()
        for suffix in suffixes:
            path = str(FOLDER / f"{name}{suffix}")
            model.save(path) if suffix else model.save_to_preset(path)
        np.save(FOLDER / f"{name}.npy", keras.ops.convert_to_numpy(model(images())))


if __name__ == "__main__":
    main()
