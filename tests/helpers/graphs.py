"""What people build on a VGG that is no chain: real Keras models, small and narrow, each a row of a table."""

from collections.abc import Callable
from typing import Any

import keras

from .heads import L, base

GRAPHS: dict[str, Callable[[], Any]] = {}


def graph(build: Callable[[], Any]) -> Callable[[], Any]:
    GRAPHS[build.__name__] = build
    return build


def image(height: int = 32, width: int = 32) -> Any:
    return keras.Input((height, width, 3), name="image")


@graph
def u_net() -> Any:
    inner = base(32, 64)
    x = inner.output
    for name, filters in (("block5_conv3", 8), ("block4_conv3", 6), ("block2_conv2", 5)):
        strides = 4 if name.startswith("block2") else 2
        x = L.Conv2DTranspose(filters, strides, strides=strides, padding="same")(x)
        x = L.Concatenate()([x, inner.get_layer(name).output])
        x = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", activation="relu")(x))
    return keras.Model(
        inner.input, L.Conv2D(1, 1, activation="sigmoid")(L.UpSampling2D(2, interpolation="bilinear")(x))
    )


@graph
def two_inputs() -> Any:
    inner, age = base(), keras.Input((4,), name="age")
    x = L.Concatenate()([L.Flatten()(inner.output), L.Dense(3, activation="relu")(age)])
    return keras.Model([inner.input, age], L.Dense(2)(x))


@graph
def inputs_and_outputs_by_name() -> Any:
    age, picture = keras.Input((4,), name="zage"), image()
    x = L.Flatten()(base()(picture))
    first, second = L.Dense(2, name="first")(x), L.Dense(2, name="second")(L.Concatenate()([age, x]))
    return keras.Model({"zage": age, "image": picture}, {"b": second, "a": [first, second]})


@graph
def two_outputs() -> Any:
    """Both heads take one flatten: boxes and classes."""
    inner = base(64, 64)
    x = L.Flatten()(inner.output)
    boxes = L.Dense(4, activation="sigmoid", name="box")(L.Dense(6, activation="relu")(x))
    return keras.Model(inner.input, [boxes, L.Dense(3, activation="softmax", name="label")(x)])


@graph
def flattened_for_a_dense_and_to_be_seen() -> Any:
    """Keras's order, since the flatten is an output too."""
    inner = base(64, 64)
    x = L.Flatten()(inner.output)
    return keras.Model(inner.input, [x, L.Dense(3)(x)])


@graph
def flattened_twice_and_added() -> Any:
    inner = base(64, 64)
    x = L.Flatten()(inner.output)
    y = L.Flatten()(L.Conv2D(8, 3, padding="same")(inner.output))
    return keras.Model(inner.input, L.Dense(3)(L.BatchNormalization()(L.Add()([x, L.Dropout(0.1)(y)]))))


@graph
def siamese() -> Any:
    """A tower with a Flatten and a Dense, called twice, and their distance."""
    inner = base(64, 64)
    tower = keras.Model(inner.input, L.Dense(5, activation="sigmoid")(L.Flatten()(inner.output)), name="tower")
    pictures = [keras.Input((64, 64, 3), name=name) for name in ("left", "right")]
    left, right = (tower(picture) for picture in pictures)
    return keras.Model(pictures, L.Dense(1, activation="sigmoid")(keras.ops.abs(left - right)))


@graph
def triplet() -> Any:
    embed = keras.Sequential([base(), L.Flatten(), L.Dense(4), L.UnitNormalization()], name="embed")
    pictures = [keras.Input((32, 32, 3), name=name) for name in ("anchor", "positive", "negative")]
    anchor, *others = (embed(picture) for picture in pictures)
    return keras.Model(pictures, [keras.ops.sum(keras.ops.square(anchor - x), axis=-1, keepdims=True) for x in others])


@graph
def cosine_and_dot() -> Any:
    tower = keras.Sequential([base(), L.GlobalAveragePooling2D(), L.Dense(4)])
    pictures = [keras.Input((32, 32, 3)) for _ in range(2)]
    left, right = (tower(picture) for picture in pictures)
    maps = [L.Reshape((2, 2))(x) for x in (left, right)]
    dots = [
        L.Dot(axes=1, normalize=True)([left, right]),
        L.Flatten()(L.Dot(axes=(2, 1))(maps)),
        L.Flatten()(L.Dot(axes=(-1, -1), normalize=True)(maps)),
    ]
    return keras.Model(pictures, L.Concatenate()(dots))


@graph
def called_twice_in_a_row() -> Any:
    picture, twice = image(), L.Dense(8, name="twice")
    return keras.Model(picture, twice(twice(L.GlobalAveragePooling2D()(base()(picture)))))


@graph
def nested_with_several_ends() -> Any:
    """A model of models: one with two inputs and two outputs, called twice, its second output first."""
    a, b = keras.Input((8,)), keras.Input((8,))
    inner = keras.Model(
        [a, b], [L.Dense(6, name="sum")(L.Subtract()([a, b])), L.Dense(8, name="max")(L.Maximum()([a, b]))]
    )
    picture = image()
    x = base()(picture)
    mean, most = L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(x)
    first, second = inner([mean, most])
    third, _ = inner([second, mean])
    return keras.Model(picture, L.Concatenate()([third, first]))


@graph
def nested_deep() -> Any:
    model = base()
    for depth in range(4):
        picture = image()
        x = model(picture)
        model = keras.Model(picture, L.Average()([x, L.Conv2D(8, 1)(x)]), name=f"depth{depth}")
    return keras.Model(model.input, L.Dense(2)(L.Flatten()(model.output)))


@graph
def residual_and_squeezed() -> Any:
    """A residual block, and channels weighted by what the whole image says."""
    inner = base(64, 64)
    x = inner.output
    y = L.Add()([x, L.Conv2D(8, 3, padding="same", activation="relu")(L.BatchNormalization()(x))])
    weights = L.Dense(8, activation="sigmoid")(L.Dense(2, activation="relu")(L.GlobalAveragePooling2D()(y)))
    y = L.Multiply()([y, L.Reshape((1, 1, 8))(weights)])
    y = L.Minimum()([y, x]) + L.Subtract()([x, y])
    return keras.Model(inner.input, L.Dense(3)(L.GlobalAveragePooling2D(keepdims=True)(y)))


@graph
def concatenated_along_every_axis() -> Any:
    picture = image()
    x = base()(picture)
    down, right = L.Concatenate(axis=1)([x, x * 2.0]), L.Concatenate(axis=2)([x, x + 1.0])
    rows = [L.Flatten()(each) for each in (down, right)]
    return keras.Model(picture, L.Dense(2)(L.Concatenate(axis=1)(rows)))


@graph
def operations() -> Any:
    picture = image(64, 64)
    x = base(64, 64)(1.0 - picture / 255.0)
    mean = keras.ops.mean(x, axis=[1, 2])
    most = keras.ops.max(x, axis=(1, 2), keepdims=True)
    turned = keras.ops.sum(x[:, 1:, :, :4], axis=-1)
    stacked = keras.ops.stack([mean, keras.ops.squeeze(keras.ops.squeeze(most, 1), 1)], axis=1)
    flat = keras.ops.reshape(keras.ops.transpose(stacked, (0, 2, 1)), (-1, 16))
    unit = keras.ops.normalize(flat, axis=-1)
    joined = keras.ops.concatenate([unit, keras.ops.expand_dims(mean[:, 0], 1), keras.ops.min(turned, axis=1)], axis=-1)
    x = keras.ops.maximum(joined, 0.01) / keras.ops.sqrt(keras.ops.square(joined) + 1.0)
    return keras.Model(picture, L.Dense(3)(keras.ops.clip(keras.ops.exp(-x), 0.1, 1.5)))


@graph
def sliced() -> Any:
    """Slices of images: every second row, a part of the columns, two colours."""
    picture = image(64, 48)
    x = L.Concatenate()([picture[:, ::2, 8:40, 1:], picture[:, 1::2, -32:, :1]])
    return keras.Model(picture, L.Dense(2)(L.Flatten()(base()(x))))


@graph
def style_features() -> Any:
    """The maps of five layers at once, of images of any size."""
    inner = base(None, None)
    names = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
    return keras.Model(inner.input, [inner.get_layer(name).output for name in names])


@graph
def captions() -> Any:
    """Show and tell: words, the padding masked, beside the features of an image."""
    features, words = keras.Input((8,), name="features"), keras.Input((6,), name="words")
    x = L.Dense(5, activation="relu")(L.Dropout(0.5)(features))
    y = L.LSTM(5)(L.Dropout(0.5)(L.Embedding(11, 4, mask_zero=True)(words)))
    return keras.Model(
        [features, words], L.Dense(11, activation="softmax")(L.Dense(5, activation="relu")(L.Add()([x, y])))
    )


@graph
def repeated_beside_words() -> Any:
    words, picture = keras.Input((6,), name="words"), image()
    x = L.RepeatVector(6)(L.Dense(5)(L.GlobalAveragePooling2D()(base()(picture))))
    y = L.TimeDistributed(L.Dense(5))(L.LSTM(4, return_sequences=True)(L.Embedding(11, 4)(words)))
    x = L.Bidirectional(L.LSTM(4))(L.Concatenate()([x, y]))
    return keras.Model([picture, words], L.Dense(11, activation="softmax")(x))


@graph
def over_time() -> Any:
    frames = keras.Input((3, 32, 32, 3), name="frames")
    x = L.TimeDistributed(L.Flatten())(L.TimeDistributed(base())(frames))
    x = L.TimeDistributed(L.Dropout(0.2))(L.TimeDistributed(L.BatchNormalization())(x))
    return keras.Model(frames, L.Dense(2)(L.GRU(4)(x)))


@graph
def over_time_spelt_out() -> Any:
    frames = keras.Input((3, 32, 32, 3), name="frames")
    x = L.TimeDistributed(L.Conv2D(4, 3, padding="same", activation="relu"))(frames)
    x = L.TimeDistributed(L.GlobalAveragePooling2D())(L.TimeDistributed(L.MaxPooling2D())(x))
    x = L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(frames, L.Dense(2)(L.Bidirectional(L.SimpleRNN(3), merge_mode="ave")(x)))


@graph
def masked_in_both_directions() -> Any:
    words = keras.Input((6,), name="words")
    x = L.Embedding(11, 4, mask_zero=True)(words)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(x)
    x = L.TimeDistributed(L.Dense(5))(L.Activation("tanh")(x))
    both = L.Concatenate()([L.GRU(4)(x), L.GlobalMaxPooling1D()(x)])
    return keras.Model(words, L.Dense(2)(both))


@graph
def ocr() -> Any:
    """Columns of maps read as a sequence, in both directions."""
    picture = image(32, 64)
    x = base(32, 64, last="block4_conv3")(picture)
    x = L.Reshape((8, -1))(L.Permute((2, 1, 3))(x))
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Dense(6, activation="relu")(x))
    return keras.Model(picture, L.Dense(7, activation="softmax")(x))


@graph
def preprocessed_for_two() -> Any:
    """`preprocess_input` in the graph, whose output two branches take."""
    picture = image()
    x = keras.applications.vgg16.preprocess_input(picture)
    inner = base()
    return keras.Model(picture, L.Dense(2)(L.Flatten()(L.Add()([inner(x), L.Conv2D(8, 3, 32, padding="same")(x)]))))


@graph
def maps_read_by_columns() -> Any:
    """Maps of images as a sequence of their rows: a TimeDistributed on four axes."""
    inner = base(64, 96, last="block4_pool")
    x = L.TimeDistributed(L.Flatten())(inner.output)
    y = L.TimeDistributed(L.LSTM(3))(inner.output)
    return keras.Model(inner.input, L.Dense(2)(L.GRU(4)(L.Concatenate()([x, y]))))


@graph
def frames_flattened_for_a_dense() -> Any:
    frames = keras.Input((3, 64, 64, 3), name="frames")
    return keras.Model(frames, L.Dense(2)(L.Flatten()(L.TimeDistributed(base(64, 64))(frames))))


@graph
def other_backwards() -> Any:
    words = keras.Input((5, 4), name="words")
    backward = L.LSTM(3, activation="relu", go_backwards=True, return_sequences=True)
    return keras.Model(words, L.Bidirectional(L.LSTM(3, return_sequences=True), backward_layer=backward)(words))


@graph
def masked_through_nested_models() -> Any:
    """Sequential models, and what follows them, have no mask in the file."""
    words = keras.Input((6,), name="words")
    bidirectional = L.Bidirectional(L.LSTM(3, return_sequences=True))
    embed = keras.Sequential([L.Embedding(11, 4, mask_zero=True), bidirectional, L.TimeDistributed(L.Dense(4))])
    read = keras.Sequential([keras.Input((6, 4)), L.Dropout(0.1), L.LSTM(3)])
    x = embed(words)
    inner = keras.Input((6, 4))
    other = keras.Model(inner, L.GRU(3)(inner))(L.Embedding(11, 4, mask_zero=True)(words))
    return keras.Model(words, [read(x), L.GRU(3)(x), L.GRU(3)(L.Rescaling(2.0)(x)), L.GRU(3)(x * 2.0), other])


@graph
def nested_that_ends_and_feeds() -> Any:
    """Calls of one model, the first an output of the whole, the other fed on; Keras counts the two from 1 and from 0."""
    inner, pictures = base(), [keras.Input((32, 32, 3), name=name) for name in ("left", "right")]
    two = keras.Model(inner.input, [inner.output, inner.get_layer("block4_pool").output], name="two")
    (first, second), (third, fourth) = (two(picture) for picture in pictures)
    return keras.Model(pictures, [second, L.Dense(2)(L.Flatten()(third)), fourth, L.Add()([first, third])])


@graph
def layers_named_as_a_models_own() -> Any:
    picture = image()
    x = base()(picture)
    for name in ("_nodes", "nodes", "outputs", "forward", "name", "training"):
        x = L.Conv2D(8, 1, name=name)(x)
    twin = keras.Sequential([L.Flatten(name="flatten"), L.Dense(3, name="dense")], name="twin")
    return keras.Model(picture, L.Dense(2, name="dense")(L.Concatenate()([twin(x), L.Flatten()(x)])))


@graph
def masks_merged() -> Any:
    """Keras 3 keeps a step that one of the branches keeps, where Keras 2 wanted all; an unmasked branch keeps all."""
    words = [keras.Input((6,), name=name) for name in ("left", "right")]
    embed = keras.Sequential([L.Embedding(11, 4, mask_zero=True), L.Dropout(0.1)])
    left, right = (embed(each) for each in words)
    plain = L.Dense(4)(L.Rescaling(1.0)(L.Embedding(11, 4)(words[0])))
    merged = [L.Add()([left, right]), L.Concatenate()([left, right]), L.Concatenate(axis=1)([left, right])]
    merged += [L.Add()([left, plain]), L.Concatenate()([plain, right]), L.Subtract()([left, right])]
    return keras.Model(words, [L.LSTM(3)(x) for x in merged])


@graph
def masks_merged_in_the_file() -> Any:
    words = [keras.Input((6,), name=name) for name in ("left", "right")]
    embed = L.Embedding(11, 4, mask_zero=True)
    return keras.Model(words, L.LSTM(3)(L.Average()([embed(each) for each in words])))


@graph
def nested_that_ends_or_feeds() -> Any:
    """The first call of a model is an output of the whole, and nothing else; the second only feeds others."""
    inner, pictures = base(), [keras.Input((32, 32, 3), name=name) for name in ("left", "right")]
    first, second = (inner(picture) for picture in pictures)
    return keras.Model(pictures, [first, L.Dense(2)(L.Flatten()(second))])


@graph
def a_dense_on_a_flatten_and_on_other_features() -> Any:
    """Its kernel has one order for both."""
    inner, shared = base(64, 96), L.Dense(3)
    x = inner.output
    return keras.Model(inner.input, L.Concatenate()([shared(L.Flatten()(x)), shared(L.Reshape((48,))(x))]))


@graph
def masks_from_layer_to_layer() -> Any:
    words = keras.Input((6,), name="words")
    layers = [L.Embedding(11, 4, mask_zero=True), L.LSTM(4, return_sequences=True), L.GRU(3, return_sequences=True)]
    return keras.Model(words, L.LSTM(3)(keras.Sequential(layers)(words)))


@graph
def skips_at_full_width() -> Any:
    """Convolutions that the optimized model computes by Winograd, each used again after others of the same size."""
    picture = image(32, 40)
    x = L.Conv2D(64, 3, padding="same", activation="relu")(picture)
    y = L.Conv2D(64, 3, padding="same", activation="relu")(x)
    z = L.Conv2D(64, 3, padding="same")(L.Conv2D(64, 3, padding="same", activation="relu")(y))
    w = L.Conv2D(64, 3, padding="same")(L.Add()([z, x, y]))
    joined = L.Concatenate()([L.MaxPooling2D()(y), L.MaxPooling2D()(w), L.MaxPooling2D()(z)])
    return keras.Model(picture, [L.GlobalAveragePooling2D()(joined), w])


@graph
def squeezed_without_a_reshape() -> Any:
    """A vector meets maps: Keras gives it axes after the batch."""
    inner = base(32, 64)
    weights = L.Dense(8, activation="sigmoid")(L.GlobalAveragePooling2D()(inner.output))
    rows = L.Reshape((2, 8))(inner.output)
    return keras.Model(inner.input, [L.Multiply()([inner.output, weights]), L.Add()([weights, rows])])


@graph
def words_injected_into_features() -> Any:
    """Features of an image that nobody masks, beside words that are masked: Keras 3 computes the mask in the file."""
    inner, words = base(), keras.Input((6,), name="words")
    features = L.RepeatVector(6)(L.Dense(4)(L.Flatten()(inner.output)))
    joined = L.Concatenate()([features, L.Embedding(11, 4, mask_zero=True)(words)])
    return keras.Model([inner.input, words], L.Dense(5, activation="softmax")(L.LSTM(3)(joined)))


@graph
def means_over_a_mask() -> Any:
    """Masks as numbers: they are cast, added, and divide."""
    words = keras.Input((6,), name="words")
    vectors = L.Embedding(11, 4)(words)
    mask = keras.ops.cast(keras.ops.not_equal(words, 0), "float32")
    other = keras.ops.cast(keras.ops.not_equal(words, 1), "float32")
    total = keras.ops.sum(vectors * keras.ops.expand_dims(mask, -1), axis=1)
    mean = total / keras.ops.expand_dims(keras.ops.sum(mask, axis=1) + 1e-3, -1)
    indices = keras.ops.cast(words + 0.7, "int32")
    return keras.Model(words, [mean, mask + other, L.Dense(2)(mask), L.Embedding(13, 2)(indices)])


@graph
def weighted_over_time() -> Any:
    """Attention by a softmax over the steps; a distance becomes a similarity; an ELU with a slope of its own."""
    inner = base(64, 64)
    steps = L.Reshape((4, 8))(inner.output)
    scores = keras.ops.softmax(L.Dense(1, activation="tanh")(steps), axis=1)
    context = keras.ops.sum(scores * steps, axis=1)
    distance = keras.ops.norm(context - steps[:, 0], axis=-1, keepdims=True)
    return keras.Model(inner.input, [context, 1.0 / (1.0 + distance), keras.ops.elu(context - 0.5, alpha=0.3)])


@graph
def one_masked_of_two() -> Any:
    """A nested model of two inputs is given the mask of one."""
    words = [keras.Input((6,), name=name) for name in ("left", "right")]
    first, second = keras.Input((6, 4)), keras.Input((6, 4))
    read = keras.Model([first, second], L.Concatenate()([L.LSTM(3)(first), L.GRU(3)(second)]))
    masked, plain = L.Embedding(11, 4, mask_zero=True)(words[0]), L.Embedding(11, 4)(words[1])
    return keras.Model(words, [read([masked, plain]), read([plain, masked])])


@graph
def keys_that_are_others_names() -> Any:
    """A nested model's inputs are given by the keys of its mapping, not by their names."""
    first, second = keras.Input((4,), name="p"), keras.Input((4,), name="q")
    inner = keras.Model({"q": first, "p": second}, first - 2.0 * second)
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    return keras.Model([left, right], inner({"p": left, "q": right}))


@graph
def names_like_those_given() -> Any:
    """A layer is called as the second call of another, an input as a layer would be whose name is taken."""
    x = keras.Input((6,), name="type_")
    shared, other, first = (L.Dense(6, name=name) for name in ("dense", "dense:1", "dense:0"))
    return keras.Model(x, [L.Dense(6, name="type")(x), other(shared(shared(first(x)))), x + 1.0])


@graph
def backwards_first() -> Any:
    """Keras turns what the second layer returns, whichever of the two reads backwards."""
    x = keras.Input((6, 2), name="x")
    forward, backward = L.LSTM(3, return_sequences=True, go_backwards=True), L.LSTM(3, return_sequences=True)
    return keras.Model(x, L.Bidirectional(forward, backward_layer=backward)(x))


@graph
def masked_by_another_value() -> Any:
    """A number of every step is the value that masks, which doesn't mask the step."""
    x = keras.Input((6, 2), name="x")
    masked = L.Masking(1.0)(keras.ops.clip(x, 0.0, 1.0))
    return keras.Model(x, [masked, L.LSTM(3)(masked)])
