"""Made the files in `keras2/`: `pip install tf-keras tensorflow-cpu`, then `python make_keras2.py` in this folder.

Small models on the lines of a fine-tuned VGG, written by Keras 2 (tf-keras) on TensorFlow, each with its answers to the
images that `images` makes; those that are no chain, from `u_net` on, to `numbers`. The tests need neither of the two.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import backend as K
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


def image(name: str = "image") -> Any:
    return keras.Input((16, 24, 3), name=name)


def words(name: str = "words") -> tuple[Any, Any]:
    """Words, and what an Embedding that masks the padding makes of them."""
    numbers = keras.Input((6,), name=name)
    return numbers, L.Embedding(5, 4, mask_zero=True)(numbers)


def u_net() -> Any:
    """Of gray images; the skips come from a nested model of several outputs."""
    inner, gray = base(), keras.Input((16, 24, 1), name="gray")
    picture = keras.applications.vgg16.preprocess_input(tf.image.grayscale_to_rgb(gray))
    names = ("block1_conv1", "block2_conv1", "block2_pool")
    one, two, x = keras.Model(inner.input, [inner.get_layer(name).output for name in names], name="skips")(picture)
    x = L.Conv2DTranspose(4, 2, strides=2, padding="same", activation="relu")(x)
    x = L.BatchNormalization()(L.concatenate([x, two], axis=3))
    x = tf.concat([L.UpSampling2D(2, interpolation="bilinear")(x), one], axis=-1)
    return keras.Model(gray, L.Conv2D(1, 1, activation="sigmoid")(L.SpatialDropout2D(0.2)(x)))


def siamese() -> Any:
    inner, pictures = base(), [image("left"), image("right")]
    tower = keras.Model(inner.input, L.Dense(4, activation="sigmoid")(L.Flatten()(inner.output)), name="tower")
    left, right = (tower(picture / 255.0) for picture in pictures)
    distance = K.sqrt(K.maximum(K.sum(K.square(left - right), axis=1, keepdims=True), K.epsilon()))
    score = L.Dense(1, activation="sigmoid")(tf.abs(left - right))
    cosine = L.Dot(axes=1, normalize=True)([left, right])
    return keras.Model(pictures, [score, distance, cosine, tf.norm(left - right, axis=1)])


def triplet() -> Any:
    inner, pictures = base(), [image(name) for name in ("anchor", "positive", "negative")]
    unit = tf.math.l2_normalize(L.Dense(4)(L.Flatten()(inner.output)), axis=-1)
    anchor, positive, negative = map(keras.Model(inner.input, unit, name="embed"), pictures)
    distances = [tf.reduce_sum(tf.square(anchor - x), -1) for x in (positive, negative)]
    return keras.Model(pictures, [*distances, tf.stack([anchor, positive, negative], axis=1)])


def nested_ends() -> Any:
    """A model of two inputs and two outputs, called twice, in a model of lists and dicts."""
    picture, age = image(), keras.Input((4,), name="age")
    x = L.Flatten()(base()(picture))
    inner = keras.Model([picture, age], [L.Dense(2)(L.Concatenate()([x, age])), L.Dense(3)(x)], name="inner")
    picture, age = image("picture"), keras.Input((4,), name="years")
    (one, two), (three, four) = inner([picture, age]), inner([picture * 0.5, age])
    return keras.Model({"years": age, "picture": picture}, {"z": [four, one], "a": two, "m": {"q": three}})


def captions() -> Any:
    """Words beside features of an image, in both directions; the mask goes through TimeDistributed and Concatenate."""
    features, (numbers, x) = keras.Input((8,), name="features"), words()
    y = L.RepeatVector(6)(L.Dense(4, activation="relu")(L.Dropout(0.5)(features)))
    x = L.TimeDistributed(L.Dense(4))(L.LSTM(3, return_sequences=True)(L.Dropout(0.5)(x)))
    x = L.Bidirectional(L.LSTM(3))(L.concatenate([y, x]))
    return keras.Model([features, numbers], L.Activation("softmax")(L.Dense(5)(x)))


def masks() -> Any:
    """Two masks meet, in number by number, along the channels and along the time; a third is that of Masking."""
    (first, x), (second, y), steps = words("first"), words("second"), keras.Input((6, 2), name="steps")
    recurrent = L.GRU(2)
    joined = [L.Add()([x, y]), L.Multiply()([x, L.Dense(4)(steps)]), L.Concatenate(axis=1)([x, y])]
    ends = [recurrent(each) for each in joined] + [L.GRU(2)(L.Concatenate()([x, y])), L.GRU(2)(L.Masking(2.0)(steps))]
    return keras.Model([first, second, steps], ends)


def masks_further() -> Any:
    """What hands a mask on: one given by hand, a Bidirectional's second half, a cast; but no Rescaling, Identity or Flatten."""
    numbers, x = words()
    steps, sentences = keras.Input((6, 2), name="steps"), keras.Input((2, 6), name="these")
    mask = tf.not_equal(steps[..., 0], 0.0)
    given = L.LSTM(2, return_sequences=True)(steps, mask=mask)
    _, backward = L.Bidirectional(L.GRU(2, return_sequences=True), merge_mode=None)(x)
    dropped = [L.Rescaling(2.0)(x), L.Identity()(x)]
    inner = L.TimeDistributed(L.LSTM(2))(L.Embedding(5, 3, mask_zero=True)(sentences))
    ends = [L.GRU(2)(each) for each in (given, backward, tf.cast(x, tf.float32), *dropped)]
    flat = L.Softmax()(L.Flatten()(x))
    numbers_of_mask = tf.cast(mask, tf.float32) + tf.cast(tf.not_equal(steps[..., 1], 1.0), tf.float32)
    whole = L.Embedding(9, 2)(tf.cast(numbers * 1.7, tf.int32))
    return keras.Model([numbers, steps, sentences], [*ends, flat, inner, numbers_of_mask, whole])


def both_directions() -> Any:
    """Where a step is masked, Bidirectional's outputs are zero, though the file doesn't have it."""
    numbers, x = words()
    x = L.Bidirectional(L.LSTM(2, return_sequences=True), merge_mode="sum")(L.SpatialDropout1D(0.2)(x))
    x = L.TimeDistributed(L.Dense(3, activation="tanh"))(x)
    return keras.Model(numbers, [x, L.GRU(2)(x), L.GlobalAveragePooling1D()(x), L.GlobalMaxPooling1D()(x)])


def video() -> Any:
    frames = keras.Input((3, 16, 24, 3), name="frames")
    x = L.TimeDistributed(L.GlobalAveragePooling2D())(L.TimeDistributed(base())(frames))
    return keras.Model(frames, [L.Dense(2)(L.LSTM(3)(x)), L.GRU(2, reset_after=False)(x)])


def operations() -> Any:
    picture = image()
    x = base()(tf.cast(picture[..., ::-1], tf.float32) / 255.0)
    mean, most = tf.reduce_mean(x, axis=[1, 2]), tf.squeeze(tf.reduce_max(x, [1, 2], keepdims=True), axis=[1, 2])
    flat = tf.reshape(tf.transpose(tf.stack([mean, most], axis=1), [0, 2, 1]), (-1, 8))
    rows = [tf.nn.l2_normalize(flat, axis=1), tf.expand_dims(mean[:, 0], -1), 1 - most, tf.maximum(mean, 0.1)]
    others = [mean / (most + 1.0), K.clip(mean, 0.1, 0.2), tf.math.softplus(mean), tf.add_n([mean, most]), -mean * most]
    maps = [x[:, 1:, ::2, :2] * 2.0, tf.image.resize(x, (8, 9)), tf.reverse(x, axis=[1]), K.batch_flatten(x)]
    return keras.Model(picture, [tf.concat(rows, -1), tf.concat(others, axis=1), *maps])


def attention() -> Any:
    """Places weighted by a softmax, channels by a sigmoid."""
    inner = base()
    weights = L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(inner.output))
    x = L.GroupNormalization(2)(L.Multiply()([inner.output, weights]))
    x = L.Reshape((24, 4))(x)
    weights = L.Softmax(axis=1)(L.Dense(1)(L.Activation("tanh")(x)))
    pairs = L.Activation("softmax")(L.Dot(axes=[2, 2])([x, x]))
    return keras.Model(
        inner.input, [L.Dot(axes=1)([weights, x]), tf.reduce_sum(L.Dot(axes=[2, 1])([pairs, x]), axis=1)]
    )


def numbers(shape: tuple[int, ...], which: int) -> np.ndarray:
    """Two samples of the input that is so many in the order of names: images, or small whole numbers, which may be words."""
    count = 2 * int(np.prod(shape))
    return ((np.arange(count) + which) * 37 % (256 if len(shape) > 2 else 5)).reshape(2, *shape).astype(np.float32)


def write_graph(build: Callable[[], Any], suffixes: tuple[str, ...] = (".h5",)) -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    random = np.random.default_rng(0)
    variances = ["variance" in weight.name for weight in model.weights]
    arrays = [random.uniform(-0.4, 0.4, w.shape) for w in model.get_weights()]
    model.set_weights([abs(w) + 0.1 if is_one else w for w, is_one in zip(arrays, variances, strict=True)])
    for suffix in suffixes:
        model.save(FOLDER / f"{build.__name__}{suffix}")
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    feed = {name: numbers(shapes[name], which) for which, name in enumerate(sorted(shapes))}
    np.savez(FOLDER / f"{build.__name__}.npz", *tf.nest.flatten(model.predict(feed, verbose=0)))


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
    for build in (
        u_net,
        siamese,
        nested_ends,
        captions,
        masks,
        masks_further,
        both_directions,
        video,
        operations,
        attention,
    ):
        write_graph(build)
    write_graph(triplet, (".keras",))
