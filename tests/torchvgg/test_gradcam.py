"""`grad_cam` against the same computed with Keras's own model; and what it refuses."""

from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import Tensor, nn

from torchvgg import VGG16, grad_cam, load_model, optimize_for_inference
from torchvgg.layers import Activation

from ..helpers.heads import L, base, with_random_weights
from ..helpers.keras_models import images, relative_error


def keras_cam(model: Any, x: Tensor, number: int, layer: str) -> Tensor:
    """Grad-CAM as the paper has it, of a Keras model that ends in logits: channels-last throughout."""
    both = keras.Model(model.input, [model.get_layer(layer).output, model.output])
    maps, scores = both(x.permute(0, 2, 3, 1))
    (gradient,) = torch.autograd.grad(scores[:, number].sum(), maps)
    cam = torch.relu((maps * gradient.mean((1, 2), keepdim=True)).sum(-1)).detach()
    return cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-30)


def pair(activation: str | None, path: Path) -> tuple[Any, Any]:
    """A Keras model that ends in logits; and ours of one that ends in an activation, a part of the last layer or a layer itself."""
    inner = base(64, 96)
    logits = L.Dense(6, name="logits")(L.Flatten()(inner.output))
    theirs = with_random_weights(keras.Model(inner.input, logits))
    softmax = L.Activation("softmax")(logits)
    dropped = L.Reshape((6,))(L.Activation("linear")(L.Dropout(0.1)(softmax)))
    end = {None: logits, "layer": softmax, "dropped": dropped}
    if activation in end:
        whole = keras.Model(inner.input, end[activation])
    else:
        last = L.Dense(6, activation=activation, name="scores")
        whole = keras.Model(inner.input, last(theirs.layers[-2].output))
        last.set_weights(theirs.get_layer("logits").get_weights())
    whole.save(path)
    return theirs, load_model(path)


@pytest.mark.parametrize("layer", ["block5_conv3", "block2_conv1"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "layer", "dropped", None])
def test_grad_cam_is_the_papers(layer: str, activation: str | None, tmp_path: Path) -> None:
    """Of the score before the softmax, wherever that is."""
    theirs, ours = pair(activation, tmp_path / "model.keras")
    x = images(2, 3, 64, 96)
    seen = 0
    for number in range(3):
        received = grad_cam(ours, x, torch.tensor([number, number]), layer)
        expected = keras_cam(theirs, x, number, layer)
        assert relative_error(received, expected) <= 1e-4  # through a difference of large gradients
        seen += int((received.amax((1, 2)) == 1).sum())
    assert seen >= 2  # the others have nothing that speaks for them
    likeliest = theirs(x.permute(0, 2, 3, 1)).argmax(1)
    assert torch.equal(grad_cam(ours, x, None, layer), grad_cam(ours, x, likeliest, layer))


def test_the_model_and_the_images_are_left_as_they_were() -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32)).requires_grad_(False)
    x = images(1, 3, 32, 32)
    with torch.inference_mode():
        cam = grad_cam(model, x)
    assert cam.shape == (1, 2, 2)
    assert not cam.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_a_head_that_is_a_convolution(tmp_path: Path) -> None:
    """By default the maps are those before it."""
    whole = keras.Sequential([base(64, 64), L.Conv2D(3, 1, activation="softmax"), L.GlobalAveragePooling2D()])
    with_random_weights(whole).save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    x = images(1, 3, 64, 64)
    assert torch.equal(grad_cam(model, x), grad_cam(model, x, layer="block5_conv3"))


@pytest.mark.parametrize(
    "end", [(), (nn.Softmax(1),), (Activation("softmax"),), (nn.Softmax(1), nn.Dropout(), nn.Flatten())]
)
def test_any_module(end: tuple[nn.Module, ...]) -> None:
    """A base with a head of PyTorch's own: the same as of the model that has Keras's, by the layer's name or the module's."""
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32)).eval()
    base = VGG16(weights=None, include_top=False)
    base.load_state_dict({key: value for key, value in model.state_dict().items() if key.startswith("block")})
    logits = nn.Linear(4096, 3)
    logits.load_state_dict(model.predictions.state_dict())
    module = nn.Sequential(base, nn.Flatten(), model.fc1, model.fc2, logits, *end).eval()
    x = images(2, 3, 32, 32)
    for own, theirs in ((None, None), ("block2_conv1", "block2_conv1"), ("block2_conv1", "0.block2_conv1")):
        assert relative_error(grad_cam(module, x, layer=theirs), grad_cam(model, x, layer=own)) <= 1e-5
    assert not any(layer._forward_hooks for layer in module.modules())
    for layer, message in (
        ("block9", r"layer: expected one out of 0.block1_conv1, .* Received: 'block9'"),
        ("4", r"layer: expected one with maps, \(N, C, H, W\), before the head. Received: '4'"),
        ("2", r"layer: expected one with maps"),
    ):
        with pytest.raises(ValueError, match=message):
            grad_cam(module, x, layer=layer)
    for headless in (base, nn.Sequential(base)):
        with pytest.raises(
            ValueError, match=r"expected a model that ends in classes, .*Received: one of|before the head"
        ):
            grad_cam(headless, x, layer="block4_conv1")


class Heads(nn.Module):
    """Two heads on one base, of which `end` makes the output."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.convolution, self.first, self.second, self.end = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 3), end

    def forward(self, x: Tensor) -> Any:
        maps = self.convolution(x).mean((2, 3))
        return self.end(self.first(maps), self.second(maps))


@pytest.mark.parametrize(
    ("end", "alike"),
    [
        (lambda one, other: one, lambda one, other: one),
        (lambda one, other: one + other, lambda one, other: one + other),
        (lambda one, other: other.softmax(1), lambda one, other: other),
    ],
    ids=["not the last layer", "of both", "a softmax without a layer"],
)
def test_the_score_is_the_outputs(end: Any, alike: Any) -> None:
    torch.manual_seed(0)
    module, x = Heads(end), torch.randn(2, 3, 8, 8)
    maps = module.convolution(x)
    scores = alike(module.first(maps.mean((2, 3))), module.second(maps.mean((2, 3))))
    for number in range(3):
        (gradient,) = torch.autograd.grad(scores[:, number].sum(), maps, retain_graph=True)
        cam = torch.relu((maps * gradient.mean((2, 3), keepdim=True)).sum(1))
        expected = cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-30)
        assert relative_error(grad_cam(module, x, number), expected) <= 1e-5
    with pytest.raises(ValueError, match=r"ends in classes, .* Received: one of tuple"):
        grad_cam(Heads(lambda *both: both), x)


class Recurrent(nn.Module):
    """Layers that return more than one tensor, on the way and, with `is_last`, at the end."""

    def __init__(self, is_last: bool) -> None:
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, return_indices=True)
        self.lstm, self.dense = nn.LSTM(4, 3, batch_first=True), nn.Identity() if is_last else nn.Linear(3, 3)
        self.is_last = is_last

    def forward(self, x: Tensor) -> Tensor:
        maps, _ = self.pool(self.convolution(x))
        steps, _ = self.lstm(maps.flatten(2).transpose(1, 2))
        return steps[:, -1] if self.is_last else self.dense(steps[:, -1])


@pytest.mark.parametrize("is_last", [False, True])
def test_layers_that_return_several_tensors(is_last: bool) -> None:
    torch.manual_seed(0)
    module, x = Recurrent(is_last), torch.randn(2, 3, 8, 8)
    maps: list[Tensor] = []
    with module.convolution.register_forward_hook(lambda _, inputs, output: maps.append(output)):
        scores = module(x)
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), maps[0])
    cam = torch.relu((maps[0] * gradient.mean((2, 3), keepdim=True)).sum(1))
    expected = cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-30)
    assert relative_error(grad_cam(module, x, 1), expected) <= 1e-5
    with pytest.raises(ValueError, match=r"layer: expected one with maps, .* Received: 'pool'"):
        grad_cam(module, x, layer="pool")


def test_a_sigmoid_without_a_layer_has_two_classes() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 1)), torch.randn(2, 3, 8, 8)
    layered = nn.Sequential(*module, nn.Sigmoid())

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = module

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.logit(x))

    for number in (0, 1, None):
        assert relative_error(grad_cam(Functional(), x, number), grad_cam(layered, x, number)) <= 1e-5
    assert (grad_cam(layered, x, 0) - grad_cam(layered, x, 1)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "block9"}, "unknown layers: expected names out of block1_conv1"),
        ({"layer": "fc1"}, r"layer: expected one with maps, \(N, C, H, W\), before the head. Received: 'fc1'"),
        ({"layer": "predictions"}, "layer: expected one with maps"),
        ({"classes": torch.tensor([3])}, r"classes: expected one for each image, 0 to 2. Received: \[3\]"),
        ({"classes": torch.tensor([0, 1])}, r"classes: expected one for each image, 0 to 2. Received: \[0, 1\]"),
        ({"classes": 3}, r"classes: expected one for each image, 0 to 2. Received: \[3\]"),
        ({"classes": "cat"}, r"classes: expected a tensor of numbers, \(N,\), or a number. Received: 'cat'"),
        ({"x": torch.zeros(1, 3, 40, 32)}, r"expected a tensor of shape \(N, 3, 32, 32\)"),
        ({"x": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "expected a floating-point tensor"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32))
    with pytest.raises(ValueError, match=message):
        grad_cam(**{"model": model, "x": images(1, 3, 32, 32)} | arguments)


def test_one_class_for_all_images() -> None:
    model, x = VGG16(weights=None, classes=3, input_shape=(3, 32, 32)), images(2, 3, 32, 32)
    assert torch.equal(grad_cam(model, x, 1), grad_cam(model, x, torch.tensor([1, 1])))


def test_an_optimized_model_is_refused() -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32))
    with pytest.raises(ValueError, match="gradients stop at an optimized model; pass the model that it was made of"):
        grad_cam(optimize_for_inference(model, native=False), images(1, 3, 32, 32))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a model that ends in classes, \(N, classes\). Received: one of"):
        grad_cam(VGG16(weights=None, include_top=False), images(1, 3, 32, 32), layer="block4_conv1")
