"""`from_torchvision`: models of torchvision's and timm's structure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchvgg import VGG16, VGG19, from_torchvision, load_model, save_model

from ..helpers.torchvision_models import torchvision_classifier, torchvision_features, torchvision_twin


@pytest.mark.parametrize(("network", "scheme", "channels"), [("vgg16", "torchvision", 3), ("vgg19", "timm", 1)])
def test_it_gives_the_same_logits(network: str, scheme: str, channels: int) -> None:
    other = torchvision_twin(network, 7, scheme, channels)
    other.features.eval()
    own = from_torchvision(other)
    assert type(own) is {"vgg16": VGG16, "vgg19": VGG19}[network]
    assert not own.training
    assert all(parameter.requires_grad for parameter in own.parameters())
    training = [module for module in other.modules() if module.training]
    assert other in training
    assert other.features not in training
    x = torch.randn(1, channels, 224, 224)
    with torch.no_grad():
        expected = other.eval()(x)
        assert (own(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
        other.features[0].weight.zero_()  # the tensors aren't shared
        assert own.block1_conv1.weight.any()


class Classified(nn.Module):
    """Any head on torchvision's convolutions."""

    def __init__(self, classifier: Any = None, network: str = "vgg16") -> None:
        super().__init__()
        self.features = torchvision_features(network)
        self.classifier = classifier or nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x))


def test_the_convolutions_alone() -> None:
    x = torch.randn(1, 3, 64, 96)
    for head in (nn.Identity(), nn.Linear(25088, 2), torchvision_classifier(2)):
        model = Classified(head)
        assert torch.equal(from_torchvision(nn.DataParallel(model), include_top=False)(x), model.features(x))
        assert torch.equal(from_torchvision(model.half().float(), include_top=False)(x), model.features(x))
    for dtype in (torch.float16, torch.float64):
        assert from_torchvision(Classified().to(dtype), include_top=False).block1_conv1.weight.dtype == torch.float32


def deep_head() -> nn.Module:
    """The last layer of torchvision's head replaced by several, as tutorials do."""
    head = torchvision_classifier(4)
    head[6] = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4), nn.LogSoftmax(1))
    return head


def usual_head(end: nn.Module) -> nn.Module:
    """torchvision's head with another layer at its end."""
    return nn.Sequential(*torchvision_classifier(3), end)


class Fitted(Classified):
    """torchvision's VGG with a head of one's own."""

    def __init__(self, classifier: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__(classifier)
        self.avgpool = pool or nn.AdaptiveAvgPool2d((7, 7))

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Twice(Fitted):
    def forward(self, x: Any) -> Any:
        return (super().forward(x),) * 2


HEADS: dict[str, Any] = {
    "several layers for the last": lambda: Fitted(deep_head()),
    "a single layer": lambda: Fitted(nn.Linear(25088, 2)),
    "the mean of the maps": lambda: Fitted(
        nn.Sequential(nn.BatchNorm1d(512), nn.Linear(512, 2)), nn.AdaptiveAvgPool2d(1)
    ),
    "a pooling of fixed size": lambda: Fitted(nn.Linear(512, 2), nn.MaxPool2d(7)),
    "a softmax behind torchvision's": lambda: Fitted(usual_head(nn.Softmax(1))),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_ones_own(name: str, tmp_path: Path) -> None:
    """It is saved, loaded, and warned of: its images are torchvision's."""
    other, x = HEADS[name](), torch.randn(1, 3, 224, 224)
    own = from_torchvision(other)
    save_model(nn.Sequential(own), path := tmp_path / "mine.safetensors")
    with pytest.warns(UserWarning, match="own ImageNet weights, or fine-tuned from them"):
        loaded = load_model(path)
    save_model(loaded, again := tmp_path / "again.safetensors")
    with pytest.warns(UserWarning, match="own ImageNet weights"):
        load_model(again)
    with torch.no_grad():
        expected = other.eval()(x)
        for model in (own, loaded):
            assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
        for parameter in other.parameters():  # they aren't shared
            parameter.zero_()
        assert torch.equal(own(x), loaded(x))


@pytest.mark.parametrize("scheme", ["torchvision", "timm"])
def test_a_file_of_theirs_is_a_model(scheme: str, tmp_path: Path) -> None:
    """With Keras's softmax, as any VGG whose weights alone are known."""
    other, x = torchvision_twin("vgg16", 7, scheme).eval(), torch.randn(1, 3, 224, 224)
    torch.save(other.state_dict(), path := tmp_path / "theirs.pth")
    with (
        pytest.warns(UserWarning, match="softmax at its end"),
        pytest.warns(UserWarning, match="own ImageNet weights"),
    ):
        own = load_model(path)
    with torch.no_grad():
        assert (own(x) - other(x).softmax(1)).abs().max() <= 1e-5
    assert own.preprocessing_is_unknown


def test_the_warning_goes_with_weights_that_were_loaded(tmp_path: Path) -> None:
    torch.save(Classified().state_dict(), theirs := tmp_path / "theirs.pth")
    with pytest.warns(UserWarning, match="own ImageNet weights"):
        base = VGG16(weights=theirs, include_top=False, pooling="avg")
    save_model(nn.Sequential(base, nn.Linear(512, 2)), path := tmp_path / "mine.safetensors")
    with pytest.warns(UserWarning, match="own ImageNet weights"):
        load_model(path)


def with_layer(number: int, layer: nn.Module) -> nn.Module:
    model = Fitted(torchvision_classifier(2))
    model.features[number] = layer
    return model


NO_VGGS: list[tuple[Any, str]] = [
    (
        lambda: nn.Linear(3, 2),
        "expected torchvision's or timm's VGG16 or VGG19. Received: Linear, which has no features",
    ),
    (lambda: VGG16(weights=None, include_top=False), "Received: VGG16, which has no features"),
    (lambda: nn.ModuleDict({"features": nn.Linear(3, 2)}), "expected the tensors of a VGG16 or VGG19"),
    (lambda: Classified(network="vgg16_bn"), "timm's vgg16_bn, and torchvgg has only"),
    (
        lambda: Fitted(nn.Sequential(nn.Linear(25088, 2), nn.PReLU())),
        r"^classifier.1 .PReLU.: Keras's counterpart of it isn't known.*; include_top=False leaves the head out",
    ),
    (
        lambda: nn.ModuleDict({"features": torchvision_features("vgg16"), "head": deep_head()}),
        r"another head .*\(head.0.weight \(4096, 25088\), head.3.weight \(4096, 4096\), head.6.0.weight \(8, 4096\), head.6.3.*include_top=False",
    ),
    (lambda: Classified().state_dict(), r"Received: OrderedDict, .*VGG16\(weights=path\)"),
    (lambda: Fitted(nn.Identity()), r"computes something else .*; include_top=False leaves the head out"),
    (lambda: Twice(nn.Linear(25088, 2)), r"computes something else .*; include_top=False leaves the head out"),
    *(
        (lambda change=change: with_layer(*change), "Fitted: it has a VGG's tensors and computes something else")
        for change in ((29, nn.SiLU()), (29, nn.LeakyReLU()), (30, nn.AvgPool2d(2)))
    ),
]


@pytest.mark.parametrize(("make", "message"), NO_VGGS)
def test_other_models_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torchvision(make())
