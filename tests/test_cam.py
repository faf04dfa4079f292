"""`grad_cam` against the same computed with Keras's own model; and what it refuses."""

from typing import Any

import keras
import pytest
import torch
from torch import Tensor, nn

from torchvgg import VGG16, grad_cam, load_model
from torchvgg.cam import last_convolution

from .heads import HEADS, with_random_weights
from .keras_models import images, keras_model, relative_error


def keras_cam(model: Any, x: Tensor, number: int, layer: str) -> Tensor:
    """Grad-CAM as the paper has it, of a Keras model that ends in logits: channels-last throughout."""
    both = keras.Model(model.input, [model.get_layer(layer).output, model.output])
    maps, scores = both(x.permute(0, 2, 3, 1))
    (gradient,) = torch.autograd.grad(scores[:, number].sum(), maps)
    cam = torch.relu((maps * gradient.mean((1, 2), keepdim=True)).sum(-1)).detach()
    return cam / cam.amax((1, 2), keepdim=True)


@pytest.mark.parametrize("layer", ["block5_conv3", "block4_pool", "block2_conv1"])
@pytest.mark.parametrize("activation", ["softmax", None])
def test_grad_cam_is_the_papers(layer: str, activation: str | None, tmp_path: Any) -> None:
    """Of the score before the softmax, whether the model has one or not."""
    arguments = {"classes": 6, "input_shape": (64, 96, 3)}
    theirs = keras_model(**arguments, classifier_activation=None)
    keras_model(**arguments, classifier_activation=activation).save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras")
    x = images(2, 3, 64, 96)
    for number in (0, 5):
        received = grad_cam(ours, x, torch.tensor([number, number]), layer)
        expected = keras_cam(theirs, x, number, layer)
        assert expected.amax() == 1
        assert relative_error(received, expected) <= 1e-4  # through a difference of large gradients
    likeliest = theirs(x.permute(0, 2, 3, 1)).argmax(1)
    assert torch.equal(grad_cam(ours, x, None, layer), grad_cam(ours, x, likeliest, layer))


def test_the_model_and_the_images_are_left_as_they_were() -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32)).requires_grad_(False)
    x = images(1, 3, 32, 32)
    with torch.no_grad():
        cam = grad_cam(model, x)
    assert cam.shape == (1, 2, 2)
    assert not cam.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_a_head_with_its_softmax_as_a_layer(tmp_path: Any) -> None:
    """`Activation("softmax")` at the end: the score is what goes into it."""
    with_random_weights(HEADS["activation_layers"]()).save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    *_, before, last = [name for name, _ in model.named_children()]
    assert not isinstance(model.get_submodule(last), nn.Linear)
    _, channels, height, width = model.input_shape
    x = images(1, channels, height or 64, width or 64).requires_grad_()
    layer = last_convolution(model)
    outputs = model.extract(x, [layer, before])
    (gradient,) = torch.autograd.grad(outputs[before][0, 1], outputs[layer])
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * outputs[layer]).sum(1))
    expected = expected / expected.amax().clamp_min(1e-30)
    assert relative_error(grad_cam(model, x, torch.tensor([1])), expected) <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "block9"}, "unknown layers: expected names out of block1_conv1"),
        ({"layer": "fc1"}, r"layer: expected one with maps, \(N, C, H, W\), before the head. Received: 'fc1'"),
        ({"layer": "predictions"}, "layer: expected one with maps"),
        ({"classes": torch.tensor([3])}, r"classes: expected one for each image, 0 to 2. Received: \[3\]"),
        ({"classes": torch.tensor([0, 1])}, r"classes: expected one for each image, 0 to 2. Received: \[0, 1\]"),
        ({"x": torch.zeros(1, 3, 40, 32)}, r"expected a tensor of shape \(N, 3, 32, 32\)"),
        ({"x": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "expected a floating-point tensor"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32))
    with pytest.raises(ValueError, match=message):
        grad_cam(**{"model": model, "x": images(1, 3, 32, 32)} | arguments)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a model that ends in classes, \(N, classes\). Received: one of"):
        grad_cam(VGG16(weights=None, include_top=False), images(1, 3, 32, 32), layer="block4_conv1")
