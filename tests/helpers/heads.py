"""What people build on a VGG and save: real Keras models, small and narrow, each a row of a table."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from torch import Tensor

from .keras_models import keras_model

L = keras.layers
HEADS: dict[str, Callable[[], Any]] = {}


def head(build: Callable[[], Any]) -> Callable[[], Any]:
    HEADS[build.__name__] = build
    return build


def base(height: int | None = 32, width: int | None = 32, channels: int = 3, last: str = "block5_pool") -> Any:
    """VGG16 with few channels, up to a layer."""
    x = image = keras.Input((height, width, channels))
    for block, (convolutions, filters) in enumerate(((2, 4), (2, 6), (3, 8), (3, 8), (3, 8)), start=1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            x = L.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
            if name == last:
                return keras.Model(image, x, name="vgg16")
        x = L.MaxPooling2D(2, 2, name=f"block{block}_pool")(x)
        if f"block{block}_pool" == last:
            break
    return keras.Model(image, x, name="vgg16")


def chain(*layers: Any) -> Any:
    return keras.Sequential(list(layers))


@head
def nested_flatten() -> Any:
    return chain(base(64, 96), L.Flatten(), L.Dense(5, "relu"), L.Dropout(0.5), L.Dense(3, "softmax"))


@head
def functional_in_one_list() -> Any:
    inner = base(64, 96)
    x = L.Dense(7, activation="tanh")(L.Flatten()(inner.output))
    return keras.Model(inner.input, L.Dense(2, activation="softmax")(x))


@head
def functional_nested_and_frozen() -> Any:
    inner = base(64, 64)
    inner.trainable = False
    image = keras.Input((64, 64, 3))
    x = L.GlobalAveragePooling2D()(inner(image, training=False))
    x = L.Activation("relu")(L.BatchNormalization()(L.Dense(6)(x)))
    return keras.Model(image, L.Dense(1, activation="sigmoid")(L.Dropout(0.3)(x)))


@head
def flat_sequential() -> Any:
    return chain(*base().layers, L.Flatten(), L.Dense(3))


@head
def any_size() -> Any:
    inner, image = base(None, None), keras.Input((None, None, 3))
    return keras.Model(image, L.Dense(4)(L.GlobalMaxPooling2D()(inner(image))))


@head
def augmented_and_rescaled() -> Any:
    augmentation = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)], name="data_augmentation")
    more = [L.RandomZoom(0.1), L.RandomTranslation(0.1, 0.1), L.RandomContrast(0.1), L.RandomBrightness(0.1)]
    scale = L.Rescaling(1 / 127.5, offset=-1.0)
    return chain(keras.Input((64, 64, 3)), augmentation, *more, scale, base(64, 64), L.Flatten(), L.Dense(3))


@head
def preprocessed_in_the_graph() -> Any:
    image = keras.Input((32, 64, 3))
    x = base(32, 64)(keras.applications.vgg16.preprocess_input(image))
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))


@head
def arithmetic_in_the_graph() -> Any:
    image = keras.Input((32, 32, 3))
    x = base()((image - 127.5) / 127.5 * 2.0)
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))


@head
def functions_in_the_graph() -> Any:
    image = keras.Input((32, 32, 3), dtype="uint8")
    x = base()(2.0 + (1 / 255) * keras.ops.cast(image, "float32"))
    x = keras.activations.relu(L.Dense(6)(L.Flatten()(x)))
    return keras.Model(image, keras.ops.softmax(L.Dense(3)(x)))


@head
def batch_normalized() -> Any:
    convolutions = [L.Conv2D(6, 1, use_bias=False), L.BatchNormalization(scale=False), L.ReLU(), L.Conv2D(5, 3)]
    after = [L.BatchNormalization(center=False, epsilon=1e-5, momentum=0.9), L.LeakyReLU(), L.Flatten()]
    dense = [L.Dense(4, use_bias=False), L.BatchNormalization(center=False, scale=False), L.Activation("softmax")]
    return chain(base(128, 128), *convolutions, *after, *dense)


@head
def per_feature_between_flatten_and_dense() -> Any:
    between = [L.BatchNormalization(), L.Dropout(0.1), L.PReLU(), L.LayerNormalization(), L.Activation("tanh")]
    return chain(base(64, 96), L.Flatten(), *between, L.Flatten(), L.Dense(5, "elu"), L.LayerNormalization())


@head
def layer_normalized_images() -> Any:
    over_all = L.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5, center=False)
    return chain(base(64, 96), L.LayerNormalization(), L.Conv2D(4, 1), over_all, L.Flatten(), L.Dense(3))


@head
def convolutions_of_every_kind() -> Any:
    """But for AveragePooling2D with padding: Keras on PyTorch counts what it pads; on TensorFlow, as in keras2/, not."""
    front = [L.ZeroPadding2D(((1, 2), (0, 3))), L.Conv2D(6, (3, 2), strides=2, padding="same", activation="gelu")]
    pools = [L.AveragePooling2D(3, 2), L.MaxPooling2D((2, 3), (1, 2), padding="same")]
    even = [L.Conv2D(6, (2, 4), padding="same", activation="swish"), L.AveragePooling2D((1, 2))]
    grouped = [L.Conv2D(8, (2, 3), groups=2, padding="same", strides=(1, 2)), L.Conv2D(4, 2, dilation_rate=(2, 1))]
    slopes = [L.PReLU(shared_axes=[1, 2]), L.PReLU(), L.Flatten(), L.PReLU()]
    return chain(base(128, 192, last="block2_pool"), *front, *pools, *even, *grouped, *slopes, L.Dense(3))


@head
def separable_and_upsampled() -> Any:
    depthwise = [L.DepthwiseConv2D((3, 2), 2, "same", depth_multiplier=2), L.DepthwiseConv2D(2, activation="relu")]
    separable = [L.SeparableConv2D(5, (2, 3), padding="same", depth_multiplier=3, activation="gelu")]
    larger = [L.UpSampling2D((2, 3)), L.UpSampling2D((3, 2), interpolation="bilinear")]
    bare = [
        L.SeparableConv2D(4, 3, 2, dilation_rate=1, use_bias=False),
        L.DepthwiseConv2D(2, use_bias=False, dilation_rate=2),
    ]
    return chain(base(128, 192, last="block4_pool"), *depthwise, *separable, *larger, *bare, L.Flatten(), L.Dense(3))


@head
def recurrent() -> Any:
    """Every cell with every setting, some in a nested model that is half frozen."""
    lstm = [
        L.LSTM(5, return_sequences=True, dropout=0.1, recurrent_dropout=0.1),
        L.LSTM(6, "relu", "hard_sigmoid", use_bias=False, go_backwards=True, return_sequences=True, trainable=False),
    ]
    gru = [
        L.GRU(5, return_sequences=True, name="first"),
        L.GRU(4, "softsign", "softmax", reset_after=False, return_sequences=True, go_backwards=True),
        L.GRU(5, use_bias=False, return_sequences=True),
        L.GRU(4, reset_after=False, use_bias=False, return_sequences=True),
    ]
    simple = [L.SimpleRNN(6, return_sequences=True), L.SimpleRNN(4, "elu", use_bias=False, go_backwards=True)]
    inner = keras.Sequential([*lstm, L.BatchNormalization(), gru[0]], name="inner")
    ends = [L.RepeatVector(4), L.LSTM(4, activation=L.LeakyReLU(0.2)), L.RepeatVector(3), L.GRU(3), L.Dense(2)]
    return chain(base(64, 96), L.Reshape((6, 8)), inner, *gru[1:], *simple, *ends)


@head
def recurrent_at_the_end() -> Any:
    return chain(base(64, 96), L.Reshape((6, 8)), L.GRU(5, zero_output_for_mask=True, return_sequences=True))


@head
def embedded() -> Any:
    to_indices = [L.Flatten(), L.Rescaling(20.0), L.ReLU(max_value=9), L.Embedding(10, 4)]
    again = [L.Reshape((6, 4)), L.Rescaling(9.0), L.ReLU(4), L.Embedding(5, 3), L.Rescaling(2.0, 1.5), L.ReLU(3)]
    ends = [L.Embedding(4, 2), L.Reshape((16, -1)), L.GlobalAveragePooling1D(), L.Dense(2)]
    return chain(base(64, 96), *to_indices, L.LSTM(24), *again, *ends)


@head
def one_dimensional() -> Any:
    """But for AveragePooling1D with padding, as in `convolutions_of_every_kind`."""
    convolutions = [
        L.Conv1D(6, 3, padding="same", strides=2, activation="relu"),
        L.Conv1D(6, 4, padding="causal", dilation_rate=2, groups=2, activation="softmax"),
        L.ZeroPadding1D((2, 3)),
        L.Conv1D(5, 2, dilation_rate=3, use_bias=False),
        L.Conv1D(4, 3, padding="causal", strides=2),
        L.Conv1D(4, 4, padding="same", activation="gelu"),
    ]
    pools = [L.MaxPooling1D(3, 2, padding="same"), L.AveragePooling1D(2, 1), L.MaxPooling1D(), L.AveragePooling1D(2)]
    ends = [L.Cropping1D((1, 2)), L.Conv1D(5, 1), L.GlobalMaxPooling1D(keepdims=True), L.Permute((2, 1))]
    more = [L.GlobalAveragePooling1D(keepdims=True), L.Reshape((1,)), L.Dense(6), L.Reshape((3, 2))]
    convolved = [L.Reshape((-1, 8)), *convolutions, *pools]
    return chain(base(256, 192, last="block3_pool"), *convolved, *ends, *more, L.GlobalMaxPooling1D(), L.Dense(3))


@head
def permuted() -> Any:
    images = [
        L.Permute((3, 1, 2)),
        L.Conv2D(4, 2),
        L.Permute((2, 1, 3)),
        L.Reshape((2, 7, 2, 1)),
        L.Permute((4, 2, 3, 1)),
    ]
    ends = [L.Reshape((4, -1)), L.Permute((2, 1)), L.LSTM(3), L.Permute((1,)), L.Flatten(), L.RepeatVector(2)]
    return chain(base(64, 96), *images, *ends, L.Flatten(), L.Dense(3))


@head
def transposed() -> Any:
    """On PyTorch Keras 3.15 agrees with TensorFlow here; before, some paddings were off by a pixel."""
    same = [L.Conv2DTranspose(6, (3, 4), 2, "same", activation="gelu"), L.Conv2DTranspose(5, (5, 1), (3, 2), "same")]
    padded = [L.Conv2DTranspose(6, (3, 4), 2, "same", output_padding=1), L.Conv2DTranspose(3, 2, 3, output_padding=2)]
    valid = [L.Conv2DTranspose(4, (2, 3), (3, 1), use_bias=False), L.Conv2DTranspose(4, 3, dilation_rate=(1, 2))]
    dilated = [L.Conv2DTranspose(4, (2, 3), padding="same", dilation_rate=(3, 2), activation="relu")]
    return chain(base(32, 64), *same, *padded, L.AveragePooling2D(3), *valid, *dilated, L.Flatten(), L.Dense(3))


@head
def resized_and_cropped() -> Any:
    front = [keras.Input((70, 51, 3)), L.Resizing(96, 40), L.Resizing(50, 77, "nearest"), L.CenterCrop(47, 64)]
    cropped = [L.Cropping2D(((1, 0), (2, 3))), L.Cropping2D(1)]
    return chain(*front, *cropped, base(44, 57, last="block2_pool"), L.Cropping2D(((0, 2), (0, 0))), L.Flatten())


@head
def normalized_in_groups() -> Any:
    images = [L.GroupNormalization(4), L.UnitNormalization(), L.GroupNormalization(-1, scale=False, epsilon=1e-2)]
    axes = [L.UnitNormalization(2), L.Conv2D(6, 1), L.UnitNormalization([1, -1]), L.GroupNormalization(1, center=False)]
    sequence = [L.Reshape((4, 9)), L.GroupNormalization(3), L.UnitNormalization(1), L.SpatialDropout1D(0.5)]
    vectors = [L.Flatten(), L.UnitNormalization(), L.Dense(6), L.GroupNormalization(2), L.UnitNormalization()]
    return chain(base(64, 96), *images, *axes, L.Flatten(), L.GroupNormalization(2), *sequence, *vectors)


@head
def unit_normalized_before_a_dense() -> Any:
    """PyTorch flattens in an order of its own, which the norm doesn't depend on."""
    return chain(base(64, 96), L.Flatten(), L.UnitNormalization(), L.UnitNormalization([1]), L.Dense(3))


@head
def normalization_of_features() -> Any:
    learnt = [L.Normalization(), L.Normalization(axis=None), L.Normalization(axis=-1), L.Normalization(axis=2)]
    random = np.random.default_rng(0)
    for layer, shape in zip(learnt, ((20, 48), (20, 7), (20, 2, 3), (20, 2, 3)), strict=True):
        layer.adapt(random.normal(3, 5, shape).astype(np.float32))
    given = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0], invert=True)
    vectors = [learnt[0], L.Dense(6), learnt[1], L.Rescaling([1.0, 2, 3, 4, 5, 6], offset=0.5), L.Reshape((2, 3))]
    sequence = [*learnt[2:], given, L.Rescaling([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])]
    return chain(base(64, 96), L.Flatten(), *vectors, *sequence, L.Flatten(), L.Dense(2))


@head
def activation_layers() -> Any:
    layers: list[Any] = [base(), L.Flatten()]
    for activation in (L.LeakyReLU(), L.ReLU(6, 0.1, 0.2), L.ELU(0.7), L.PReLU(), L.Softmax()):
        layers += [L.Dense(6), activation]
    return chain(*layers, L.Dense(4))


@head
def a_layer_as_an_activation() -> Any:
    return chain(base(), L.Flatten(), L.Dense(6, activation=L.LeakyReLU(0.2)), L.Dense(3, L.Activation("tanh")))


@head
def every_activation() -> Any:
    names = (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid log_softmax mish"
    )
    more = "relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus tanh_shrink"
    layers: list[Any] = [base(), L.Flatten()]
    for name in f"{names} {more}".split():
        layers += [L.Dense(6), L.LayerNormalization(), L.Activation(name)]
    return chain(*layers, L.Dense(3, "softmax"))


@head
def softmax_of_images() -> Any:
    layers = [L.Conv2D(3, 1, activation="softmax"), L.Softmax(axis=1), L.Softmax(axis=2), L.Dense(5, "softmax")]
    return chain(base(64, 96), *layers, L.Flatten(), L.Dense(3))


@head
def normalization_learnt() -> Any:
    learnt = L.Normalization()
    learnt.adapt(np.random.default_rng(0).uniform(0, 255, (20, 64, 64, 3)).astype(np.float32))
    return chain(keras.Input((64, 64, 3)), learnt, base(64, 64), L.GlobalAveragePooling2D(), L.Dense(3))


@head
def normalization_given() -> Any:
    given = L.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])
    scalar = L.Normalization(axis=None, mean=0.5, variance=2.0)
    pooled = L.GlobalAveragePooling2D(keepdims=True)
    front = [keras.Input((64, 64, 3)), L.Rescaling([1 / 255, 1 / 200, 1 / 300], [0.0, 0.1, -0.1]), given, scalar]
    return chain(*front, base(64, 64), pooled, L.Conv2D(3, 1), L.Flatten())


@head
def reshaped() -> Any:
    spatial = [L.Reshape((-1,)), L.Dense(12, "relu"), L.Reshape((2, 3, 2)), L.Conv2D(4, 2), L.Flatten(), L.Dense(6)]
    return chain(base(64, 96), *spatial, L.Reshape((1, 1, 6)), L.Conv2D(4, 1), L.Reshape((4,)), L.Activation("softmax"))


@head
def ends_in_a_flatten() -> Any:
    return chain(base(64, 96), L.Flatten(), L.BatchNormalization())


@head
def cut_short() -> Any:
    inner = base(None, None, last="block4_conv3")
    return keras.Model(inner.input, L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(inner.output)))


@head
def only_up_to_block4() -> Any:
    return base(64, 64, last="block4_pool")


@head
def half_frozen_in_nested_models() -> Any:
    inner = base(64, 64)
    for layer in inner.layers[:15]:
        layer.trainable = False
    bn = L.BatchNormalization()
    classifier = keras.Sequential([L.Dense(6, activation="relu"), bn, L.Dense(3)], name="classifier")
    image = keras.Input((64, 64, 3))
    return keras.Model(image, classifier(L.Flatten()(inner(image))))


@head
def thawed_in_a_frozen_model() -> Any:
    """In Keras 3 the layer is trained then; the order of the arrays goes by the model."""
    inner = base()
    inner.trainable = False
    inner.layers[-2].trainable = True
    return chain(inner, L.Flatten(), L.Dense(3))


@head
def normalization_within() -> Any:
    learnt = L.Normalization()
    learnt.adapt(np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 3)).astype(np.float32))
    front, image = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    trunk = keras.Model(front, L.BatchNormalization()(base()(learnt(front))), name="trunk")
    return keras.Model(image, L.Dense(2)(L.Flatten()(trunk(image))))


@head
def renamed_and_half_frozen() -> Any:
    inner = base()
    for layer in inner.layers:
        layer.name = f"{layer.name}_renamed"
        layer.trainable = "block1" not in layer.name
    return chain(inner, L.Flatten(), L.Dense(3))


@head
def names_twice() -> Any:
    inner = [
        keras.Sequential([L.Dense(n, name="dense"), L.BatchNormalization(name="bn")], name=f"h{n}") for n in (5, 4)
    ]
    both = keras.Sequential(inner, name="both")
    return chain(base(), L.Flatten(name="my.flatten"), L.Dense(6, name="dense"), both, L.Dense(2, name="type"))


@head
def dropouts() -> Any:
    images = [L.SpatialDropout2D(0.2), L.GaussianNoise(0.1)]
    features = [L.GaussianDropout(0.2), L.Dense(5), L.AlphaDropout(0.1), L.Dense(2)]
    return chain(base(64, 64), *images, L.Flatten(), *features)


@head
def grey_and_lazily_built() -> Any:
    convolutions = [L.Conv2D(4, 3, padding="same", name="conv1_1"), L.MaxPooling2D(), L.Conv2D(6, 3)]
    model = chain(*convolutions, L.Flatten(), L.Dense(3))
    model.build((None, 16, 20, 1))
    return model


@head
def trained() -> Any:
    """Compiled and trained: the file holds the optimizer's arrays too."""
    model = chain(base(), L.Flatten(), L.Dense(8, "relu"), L.BatchNormalization(), L.Dense(3, "softmax"))
    model.compile("adam", "mse")
    random = np.random.default_rng(0)
    model.fit(random.random((4, 32, 32, 3)), random.random((4, 3)), verbose=0)
    return model


@head
def vgg19_at_full_width() -> Any:
    inner = keras_model("vgg19", include_top=False, input_shape=(32, 64, 3))
    inner.trainable = False
    return chain(inner, L.Flatten(), L.Dense(8, "relu"), L.Dense(3, "softmax"))


def with_random_weights(model: Any, seed: int = 0) -> Any:
    """Every array random, and kernels so scaled that outputs stay near 1 for images in [0, 255]."""
    random = np.random.default_rng(seed)
    for layer in flattened_layers(model):
        if layer.weights and not isinstance(layer, L.Normalization):
            arrays = []
            for array in layer.get_weights():
                scale = np.sqrt(2 / max(np.prod(array.shape[:-1]), 1)) / (100 if layer.name == "block1_conv1" else 1)
                shaped = random.normal(0, scale, array.shape) if array.ndim > 1 else random.uniform(0.1, 1, array.shape)
                arrays.append(shaped)
            layer.set_weights(arrays)
    return model


def flattened_layers(model: Any) -> list[Any]:
    """A chain's layers, those of nested models among them, but for inputs."""
    layers: list[Any] = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            layers += flattened_layers(layer)
        elif type(layer).__name__ != "InputLayer":
            layers.append(layer)
    return layers


def outputs_of(model: Any, x: Tensor) -> list[tuple[Any, Tensor]]:
    """Each layer and its output, channels-last, for channels-last images."""
    outputs = []
    with torch.no_grad():
        for layer in flattened_layers(model):
            x = layer(x, training=False) if layer._call_has_training_arg else layer(x)
            outputs.append((layer, x))
    return outputs
