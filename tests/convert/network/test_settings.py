"""Settings of layers that are refused where their kind, or the shape of what they are given, forbids them."""

from typing import Any

import pytest

from torchvgg.convert.network.architecture_json import read_entry
from torchvgg.convert.network.assemble import plan
from torchvgg.convert.network.unfolding import read_graph


@pytest.mark.parametrize(
    "class_name",
    [
        "Conv2D",
        "Conv2DTranspose",
        "DepthwiseConv2D",
        "SeparableConv2D",
        "Dense",
        "BatchNormalization",
        "GroupNormalization",
    ],
)
def test_an_open_number_of_channels(class_name: str) -> None:
    """Keras makes no weights then; a file that says so is refused."""
    config = {"name": "last", "filters": 3, "kernel_size": [3, 3], "units": 3}
    layers = [
        {"class_name": "InputLayer", "config": {"name": "image", "batch_shape": [None, None, None, 3]}},
        {"class_name": "Reshape", "config": {"name": "reshape", "target_shape": [4, 4, -1]}},
        {"class_name": class_name, "config": config},
    ]
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}
    with pytest.raises(ValueError, match=rf"layer 'last' \({class_name}\): its input has an open number of channels"):
        plan(read_graph(read_entry(model)))


UP = {"filters": 3, "kernel_size": [3, 2]}
SQUARE = {"height": 8, "width": 8}


@pytest.mark.parametrize(
    ("class_name", "config", "message"),
    [
        ("Conv2DTranspose", {**UP, "strides": [2, 1], "dilation_rate": [1, 2]}, "strides with a dilation_rate"),
        ("Conv2DTranspose", {**UP, "strides": [2, 2], "output_padding": [0, 2]}, r"output_padding=\(0, 2\) is too"),
        ("Conv2DTranspose", {**UP, "padding": "same", "output_padding": [1, 0]}, r"output_padding=\(1, 0\) is too"),
        ("Conv2DTranspose", {**UP, "output_padding": [False, 0]}, r"output_padding=\(False, 0\) is no such"),
        ("Conv2DTranspose", {**UP, "strides": [2**31 - 1] * 2}, "larger than any memory"),
        ("Cropping2D", {"cropping": [[10, 10], [0, 0]]}, "nothing is left"),
        ("Cropping2D", {"cropping": [[0, -1], [0, 0]]}, r"cropping=.* is no such"),
        ("Resizing", {**SQUARE, "interpolation": "bicubic"}, "interpolation='bicubic' can't be converted, only 'bil"),
        ("Resizing", {**SQUARE, "antialias": True}, "antialias=True can't be"),
        ("Resizing", {**SQUARE, "crop_to_aspect_ratio": True}, "crop_to_aspect_ratio=True can't be"),
        ("Resizing", {**SQUARE, "pad_to_aspect_ratio": True}, "pad_to_aspect_ratio=True can't be"),
        ("Resizing", {"height": 2**31 - 1, "width": 2**31 - 1}, "larger than any memory"),
        ("CenterCrop", {"height": 21, "width": 8}, "smaller than the crop, can't be"),
        ("GroupNormalization", {"groups": 3}, "groups=3 of 4 channels is no such"),
        ("GroupNormalization", {"groups": 8}, "groups=8 of 4 channels is no such"),
        ("GroupNormalization", {"groups": 0}, "groups=0 is no such"),
        ("GroupNormalization", {"groups": 1, "axis": 2}, "axis=2 can't be converted, only -1"),
        ("UnitNormalization", {"axis": 0}, "axis=0 is no such"),
        ("UnitNormalization", {"axis": [0, 1]}, r"axis=\(0, 1\) is no such"),
        ("UnitNormalization", {"axis": 4}, "axis=4 is no such"),
        ("UnitNormalization", {"axis": None}, "axis=None is no such"),
        ("ThresholdedReLU", {"theta": None}, "theta=None is no such"),
        ("SpatialDropout1D", {"rate": 0.5}, "it can't be converted on an input of shape"),
    ],
)
def test_a_setting_that_is_refused(class_name: str, config: dict[str, Any], message: str) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"name": "image", "batch_shape": [None, 20, 30, 4]}},
        {"class_name": class_name, "config": {"name": "last", **config}},
    ]
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}
    with pytest.raises(ValueError, match=rf"layer 'last' \({class_name}\): .*{message}"):
        plan(read_graph(read_entry(model)))
