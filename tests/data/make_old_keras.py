"""Made the folders in `old_keras/`, one for each old version: `python make_old_keras.py` under each of them.

- Python 3.7: `pip install keras==1.2.2 theano==1.0.5 "numpy<1.17" "h5py<3"`, and KERAS_BACKEND=theano
- Python 3.7: `pip install keras==2.2.4 tensorflow==1.15.0 "h5py<3" "protobuf<3.21"`, once as it is, once
  with `tensorflow` as argument
- Python 3.7 and 3.8: `pip install tensorflow==2.0.0 …` and `tensorflow-cpu==2.4.0`, with `tensorflow`
- any: `pip install tf-keras tensorflow-cpu`, with `tf_keras`

Each builds a small model on the lines of a fine-tuned VGG, and saves it in every way that it knows: the whole model, its weights
alone, its architecture as JSON and YAML; a SavedModel and a checkpoint. The tests need none of the versions.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

WHICH = sys.argv[1] if len(sys.argv) > 1 else "keras"
if WHICH == "tensorflow":
    import tensorflow as library
    from tensorflow import keras
elif WHICH == "tf_keras":
    import tf_keras as keras

    library = keras
else:
    import keras

    if keras.backend.backend() == "theano":
        import theano.ifelse  # noqa: F401  # Keras 1 takes it for granted
    library = keras

L = keras.layers
VERSION = library.__version__
FOLDER = Path(__file__).parent / "old_keras" / f"{WHICH}-{VERSION}"
IS_FIRST = VERSION.startswith("1.") and WHICH == "keras"


def images() -> Any:
    return (np.arange(2 * 16 * 24 * 3).reshape(2, 16, 24, 3) * 37 % 256).astype(np.float32) / 255


def base() -> Any:
    image = L.Input((16, 24, 3), name="image")
    if IS_FIRST:
        x = L.Convolution2D(3, 3, 3, border_mode="same", activation="relu", dim_ordering="tf", name="block1_conv1")(
            image
        )
        x = L.MaxPooling2D((2, 2), dim_ordering="tf", name="block1_pool")(x)
        x = L.Convolution2D(4, 3, 3, border_mode="same", activation="relu", dim_ordering="tf", name="block2_conv1")(x)
        x = L.MaxPooling2D((2, 2), dim_ordering="tf", name="block2_pool")(x)
        return keras.models.Model(image, x, name="vgg")
    x = L.Conv2D(3, 3, padding="same", activation="relu", name="block1_conv1")(image)
    x = L.MaxPooling2D(name="block1_pool")(x)
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="block2_conv1")(x)
    x = L.MaxPooling2D(name="block2_pool")(x)
    return keras.models.Model(image, x, name="vgg")


def model() -> Any:
    """A VGG, half frozen, as a layer of a Functional, with a head that is a Sequential."""
    inner, image = base(), L.Input((16, 24, 3), name="picture")
    inner.layers[1].trainable = False
    batch = [L.Dense(4, input_shape=(96,)), L.BatchNormalization(), L.Activation("hard_sigmoid"), L.Dense(2)]
    head = keras.models.Sequential(batch)
    other = L.Dense(2, activation="tanh")(
        L.GlobalAveragePooling2D(**({"dim_ordering": "tf"} if IS_FIRST else {}))(inner(image))
    )
    x = head(L.Flatten()(inner(image)))
    x = L.merge([x, other], mode="sum") if IS_FIRST else L.Add()([x, other])
    return keras.models.Model(image, x)


def words() -> np.ndarray:
    return np.array([[3, 1, 4, 1, 0, 0], [2, 0, 3, 4, 1, 2]], np.float32)


def sentence() -> Any:
    """Recurrent layers, whose arrays Keras 1 has for each gate, on words that are masked."""
    numbers = L.Input((6,), name="words")
    x = L.Embedding(5, 4, mask_zero=True)(numbers)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")(x)
    x = L.TimeDistributed(L.Dense(4))(x)
    last = L.SimpleRNN(3)(L.GRU(3, return_sequences=True)(x))
    return keras.models.Model(numbers, L.Dense(2)(last))


def operations() -> Any:
    """What isn't a layer: TensorFlow before 2.4 leaves nodes of its own in the graph, later versions the names of functions."""
    import tensorflow as tf

    image = L.Input((16, 24, 3), name="picture")
    x = base()(keras.applications.vgg16.preprocess_input(image) / 255.0)
    mean, most = tf.reduce_mean(x, axis=[1, 2]), tf.reduce_max(x, axis=[1, 2], keepdims=True)
    rows = tf.stack([mean, -mean], axis=1)
    numbers = tf.concat([mean, tf.squeeze(most, axis=[1, 2]) * 2.0, tf.abs(mean - 0.5), tf.square(1.0 - mean)], axis=-1)
    others = [
        tf.reshape(tf.transpose(rows, [0, 2, 1]), (-1, 8)),
        tf.maximum(mean, 0.1) / (mean + 3.0),
        tf.nn.softmax(mean),
    ]
    return keras.models.Model(image, [numbers, *others, x[:, 1:, 0, ::2], tf.expand_dims(mean[:, 1:3], -1)])


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    own = model()
    random = np.random.RandomState(0)
    own.set_weights([random.uniform(-0.4, 0.4, array.shape) for array in own.get_weights()])
    normalization = next(
        layer for model in own.layers[1:] for layer in getattr(model, "layers", ()) if "norm" in layer.name
    )
    normalization.set_weights([abs(array) + 0.1 for array in normalization.get_weights()])
    if WHICH != "keras":
        own.save_weights(str(FOLDER / "checkpoint" / "weights"), save_format="tf")
        if VERSION >= "2":
            options = {} if VERSION < "2.4" else {"save_traces": False}
            own.save(str(FOLDER / "saved_model"), save_format="tf", **options)
    own.compile("sgd", "mse")
    own.save(str(FOLDER / "model.h5"))
    own.save_weights(str(FOLDER / "weights.h5"))
    (FOLDER / "model.json").write_text(own.to_json())
    try:
        (FOLDER / "model.yaml").write_text(own.to_yaml())
    except Exception as error:  # later versions have none
        print("no YAML:", error)
    other = sentence()
    other.set_weights([random.uniform(-0.9, 0.9, array.shape) for array in other.get_weights()])
    other.save(str(FOLDER / "sentence.h5"))
    if WHICH != "keras":
        third = operations()
        third.set_weights([random.uniform(-0.4, 0.4, array.shape) for array in third.get_weights()])
        third.save(str(FOLDER / "operations.h5"))
        np.savez(str(FOLDER / "operations.npz"), *third.predict(255 * images()))
    np.save(str(FOLDER / "sentence.npy"), np.asarray(other.predict(words()), np.float32))
    np.save(str(FOLDER / "answers.npy"), np.asarray(own.predict(images()), np.float32))
