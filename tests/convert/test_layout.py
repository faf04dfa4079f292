"""The changes of layout, each against its definition, index by index, and against its inverse."""

import pytest
import torch

from torchvgg.convert import layout

H, W, C, OUT = 2, 3, 4, 5


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def test_conv2d_kernel() -> None:
    keras = numbered(3, 2, C, OUT)
    weight = layout.conv2d_kernel_to_torch(keras)
    assert weight.shape == (OUT, C, 3, 2)
    assert weight[4, 1, 2, 0] == keras[2, 0, 1, 4]


def test_theano_kernel_is_turned_round() -> None:
    theano = numbered(OUT, C, 3, 3)
    weight = layout.theano_kernel_to_torch(theano)
    assert weight.shape == theano.shape
    assert weight[4, 1, 2, 0] == theano[4, 1, 0, 2]


def test_dense_kernel() -> None:
    keras = numbered(C, OUT)
    assert layout.dense_kernel_to_torch(keras)[4, 1] == keras[1, 4]


def test_flattened_dense_kernel_meets_a_channels_first_flatten() -> None:
    image = torch.randn(1, H, W, C, dtype=torch.float64)
    kernel = torch.randn(H * W * C, OUT, dtype=torch.float64)
    weight = layout.flattened_dense_kernel_to_torch(kernel, H, W)
    assert weight.shape == (OUT, C * H * W)
    torch.testing.assert_close(image.permute(0, 3, 1, 2).flatten(1) @ weight.t(), image.flatten(1) @ kernel)


EACH = pytest.mark.parametrize(
    ("change", "shape"),
    [
        (layout.UNCHANGED, (OUT,)),
        (layout.CONV2D_KERNEL, (3, 2, C, OUT)),
        (layout.THEANO_KERNEL, (OUT, C, 3, 2)),
        (layout.DENSE_KERNEL, (C, OUT)),
        (layout.flattened_dense_kernel(H, W), (H * W * C, OUT)),
        (layout.flattened(H, W), (H * W * C,)),
        (layout.FEATURES, (H, W, C)),
    ],
)


@EACH
def test_the_part_for_some_units_is_of_the_same_layout(change: layout.Layout, shape: tuple[int, ...]) -> None:
    keras = numbered(*shape)
    whole, units = change.to_torch(keras), slice(1, 4)
    assert change.by_units == (keras.dim() in (2, 4) and change is not layout.THEANO_KERNEL)
    if change.by_units:
        assert torch.equal(change.to_torch(keras[..., units]), whole[units])
        assert torch.equal(change.to_keras(whole[units]), keras[..., units])


@EACH
def test_there_and_back_is_the_same(change: layout.Layout, shape: tuple[int, ...]) -> None:
    keras = numbered(*shape)
    untouched = keras.clone()
    assert torch.equal(change.to_keras(change.to_torch(keras)), keras)
    assert torch.equal(keras, untouched)
