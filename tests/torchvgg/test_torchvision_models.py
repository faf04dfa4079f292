"""`from_torchvision`: models of torchvision's and timm's structure."""

from typing import Any

import pytest
import torch
from torch import nn

from torchvgg import VGG16, VGG19, from_torchvision

from ..helpers.torchvision_models import torchvision_features, torchvision_twin


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
    for model, arguments in ((Classified(), {}), (Classified(nn.Linear(25088, 2)), {"include_top": False})):
        assert torch.equal(from_torchvision(nn.DataParallel(model), **arguments)(x), model.features(x))
        assert torch.equal(from_torchvision(model.half().float(), **arguments)(x), model.features(x))
    for dtype in (torch.float16, torch.float64):
        assert from_torchvision(Classified().to(dtype)).block1_conv1.weight.dtype == torch.float32


def with_activation(activation: nn.Module) -> nn.Module:
    model = Classified()
    model.features[1] = activation
    return model


NO_VGGS: list[tuple[Any, str]] = [
    (
        lambda: nn.Linear(3, 2),
        "expected torchvision's or timm's VGG16 or VGG19. Received: Linear, which has no features",
    ),
    (lambda: VGG16(weights=None, include_top=False), "Received: VGG16, which has no features"),
    (lambda: nn.ModuleDict({"features": nn.Linear(3, 2)}), "expected the tensors of a VGG16 or VGG19"),
    (lambda: Classified(network="vgg16_bn"), "timm's vgg16_bn, and torchvgg has only"),
    (lambda: Classified(nn.Linear(25088, 2)), r"another head .*classifier.weight \(2, 25088\).*include_top=False"),
    (lambda: with_activation(nn.SiLU()), "Classified: it has a VGG's tensors and computes something else"),
]


@pytest.mark.parametrize(("make", "message"), NO_VGGS)
def test_other_models_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torchvision(make())
