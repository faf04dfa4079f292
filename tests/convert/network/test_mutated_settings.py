"""Settings that Keras has never written, tried by Keras too: what it refuses is refused, and what both take gives the same numbers."""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from torchvgg import load_model
from torchvgg.convert.layout import images_to_keras, images_to_torch
from torchvgg.convert.network.architecture_json import read_entry
from torchvgg.convert.network.assemble import plan
from torchvgg.convert.network.kinds import KINDS
from torchvgg.convert.network.unfolding import read_graph

from ...helpers.heads import L, with_random_weights

MISSING = object()
VALUES: tuple[Any, ...] = (MISSING, None, True, -1, 0, 1, 2, 5, 1.5, "x", "same", [], [1], [2, 1], [1, 2, 3], {})
IMAGES, STEPS = (6, 7, 4), (6, 4)
LAYERS: list[tuple[tuple[int, ...], Callable[[], Any]]] = [
    (IMAGES, lambda: L.Conv2D(4, (3, 2), (1, 2), "same", groups=2, activation="relu")),
    (IMAGES, lambda: L.Conv2D(3, 2, dilation_rate=(2, 1))),
    (IMAGES, lambda: L.DepthwiseConv2D(2, depth_multiplier=2)),
    (IMAGES, lambda: L.SeparableConv2D(3, 2, padding="same")),
    (IMAGES, lambda: L.Conv2DTranspose(3, (3, 2), 2, output_padding=(1, 0))),
    (STEPS, lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    (IMAGES, lambda: L.MaxPooling2D((2, 3), (1, 2), "same")),
    (IMAGES, lambda: L.AveragePooling2D(2)),
    (IMAGES, lambda: L.GlobalAveragePooling2D(keepdims=True)),
    (IMAGES, L.BatchNormalization),
    (IMAGES, lambda: L.LayerNormalization(axis=[1, 2, 3])),
    (IMAGES, lambda: L.GroupNormalization(2)),
    (IMAGES, L.UnitNormalization),
    (IMAGES, lambda: L.Rescaling(0.5, 1.0)),
    (IMAGES, lambda: L.Resizing(4, 7)),
    (IMAGES, lambda: L.CenterCrop(3, 4)),
    (IMAGES, lambda: L.ZeroPadding2D(((1, 2), (0, 1)))),
    (IMAGES, lambda: L.Cropping2D(((1, 2), (0, 1)))),
    (IMAGES, lambda: L.UpSampling2D((2, 3), interpolation="bilinear")),
    (IMAGES, lambda: L.Permute((2, 3, 1))),
    (IMAGES, lambda: L.PReLU(shared_axes=[1, 2])),
    (IMAGES, lambda: L.ReLU(4.0, 0.5, 1.0)),
    (IMAGES, lambda: L.Softmax(2)),
    (STEPS, lambda: L.Reshape((8, -1))),
    (STEPS, lambda: L.Dense(3, "softmax")),
    (STEPS, lambda: L.GRU(3, reset_after=False)),
    (STEPS, lambda: L.LSTM(3, return_sequences=True)),
]


def mutations() -> Iterator[tuple[tuple[int, ...], dict[str, Any], str]]:
    """Yields the shape of a sample, a model's configuration with one setting changed, and what was changed."""
    for shape, build in LAYERS:
        whole = keras.saving.serialize_keras_object(keras.Sequential([keras.Input(shape), build()]))
        class_name, config = (whole["config"]["layers"][1][key] for key in ("class_name", "config"))
        for key in sorted({"data_format", "axis", *KINDS[class_name].settings} & config.keys()):
            for value in VALUES:
                changed = copy.deepcopy(whole)
                own = changed["config"]["layers"][1]["config"]
                own[key] = value
                if value is MISSING:
                    del own[key]
                yield shape, changed, f"{class_name}: {key} {'missing' if value is MISSING else repr(value)}"


# Keras refuses these, and yet it is clear what they say.
CLEAR = (
    "Conv2D: dilation_rate",
    "Conv2D: strides",
    "ReLU: max_value",
    "ReLU: negative_slope",
    "ReLU: threshold",
    "AveragePooling2D: pool_size",
    "Rescaling: offset",
    "ZeroPadding2D: padding {}",
)


def test_a_changed_setting_is_what_it_is_in_keras(tmp_path: Path) -> None:
    """Of 1,904 mutations a few; all of them take a minute."""
    computed = refused = 0
    for shape, whole, what in random.Random(0).sample([*mutations()], 250):
        x = np.random.default_rng(0).integers(0, 6, (2, *shape)).astype(np.float32)
        try:
            theirs = with_random_weights(keras.saving.deserialize_keras_object(copy.deepcopy(whole)))
            expected = torch.as_tensor(theirs(x))
        except Exception:  # of any kind
            theirs = expected = None
        try:
            plan(read_graph(read_entry(whole)))
        except ValueError:  # which may be more than Keras refuses
            refused += 1
            continue
        assert theirs or what.startswith(CLEAR), what
        if theirs:
            theirs.save(path := tmp_path / "model.keras")
            ours = images_to_keras(load_model(path)(images_to_torch(torch.from_numpy(x))))
            assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5, equal_nan=True), what
            computed += 1
    assert min(computed, refused) > 30
