"""torchvision's and timm's VGGs, to the letter of their `state_dict`s; neither is installed for the tests."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

DEEP = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def torchvision_features(network: str, channels: int = 3) -> nn.Sequential:
    """The convolutions of `vgg11` … `vgg19`, or with batch normalization, `vgg16_bn`."""
    name, _, normalized = network.partition("_")
    layers: list[nn.Module] = []
    for count, filters in zip(DEEP[name], (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            convolution = nn.Conv2d(channels, filters, 3, padding=1)
            layers += [convolution, *([nn.BatchNorm2d(filters)] if normalized else []), nn.ReLU(inplace=True)]
            channels = filters
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def torchvision_classifier(classes: int) -> nn.Sequential:
    head = [nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*head, nn.Linear(4096, classes))


class TimmMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(512, 4096, 7), nn.Conv2d(4096, 4096, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc2(torch.relu(self.fc1(x))))


def timm_classifier(classes: int) -> dict[str, nn.Module]:
    head = OrderedDict(global_pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(4096, classes))
    return {"pre_logits": TimmMlp(), "head": nn.Sequential(head)}


def torchvision_twin(network: str, classes: int, scheme: str = "torchvision", channels: int = 3) -> nn.Module:
    """A whole model of either project, in training as they are made."""
    parts: dict[str, nn.Module] = {"features": torchvision_features(network, channels)}
    if scheme == "timm":
        return nn.Sequential(OrderedDict(parts | timm_classifier(classes)))
    avgpool = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten())
    return nn.Sequential(OrderedDict(parts | {"avgpool": avgpool, "classifier": torchvision_classifier(classes)}))
