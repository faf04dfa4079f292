"""Inference and training: milliseconds of a batch."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchvgg import VGG16, optimize_for_inference

from .measuring import Scale, Table, in_turn, medians
from .peers import installed


def ours(scale: Scale, include_top: bool = True) -> VGG16:
    """VGG16 with numbers as trained networks have them, and logits."""
    torch.manual_seed(0)
    shape = (3, scale.size, scale.size)
    model = VGG16(include_top, None, shape, classes=scale.classes, classifier_activation=None).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


@torch.no_grad()
def inference(scale: Scale, batches: Iterable[int], peers: Any, left_out: dict[str, str]) -> dict[str, Table]:
    """By batch: milliseconds, and the error of the first and the last image, relative to the largest logit in float64."""
    model, exact = ours(scale), ours(scale).double()
    tables: dict[str, Table] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = dict(installed(peers, model, Path(folder), left_out))
        for batch in batches:
            x = 60 * torch.randn(batch, 3, scale.size, scale.size)
            expected = exact(x[[0, -1]].double())
            # The first run warms up, too.
            errors = {name: error(run(x)[[0, -1]], expected) for name, run in runs.items()}
            tables[str(batch)] = medians(in_turn({name: _of(run, x) for name, run in runs.items()}, scale.rounds))
            for name, row in tables[str(batch)].items():
                row["error"] = errors[name]
    return tables


def _of(run: Callable[[Tensor], Any], x: Tensor) -> Callable[[], Any]:
    return lambda: run(x)


def error(received: Any, expected: Tensor) -> float:
    """The largest, relative to the largest number."""
    return float((torch.as_tensor(received).double() - expected).abs().max() / expected.abs().max())


# On processors without bfloat16 a step in it takes ten times as long.
HAS_BFLOAT16 = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
KINDS = [("", False)] + ([(", bf16 autocast", True)] if HAS_BFLOAT16 else [])


def training(scale: Scale, batch: int = 8) -> Table:
    """A step of SGD with momentum: forward, cross entropy, backward, update."""
    steps = {}
    for project, make in _models_of_each(scale).items():
        for form, memory_format in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
            for kind, is_half in KINDS:
                steps[f"{project}{form}{kind}"] = _step(make, scale, batch, memory_format, is_half)
    for step in steps.values():
        step()
    return medians(in_turn(steps, min(scale.rounds, 3)))


def _models_of_each(scale: Scale) -> dict[str, Callable[[], nn.Module]]:
    """No dropout in either, as Keras has it; and one memory is enough for all steps of a project."""
    models: dict[str, Callable[[], nn.Module]] = {"torchvgg": lambda: ours(scale)}
    with contextlib.suppress(ImportError):
        from torchvision.models import vgg16

        if scale.size == 224:
            models["torchvision"] = lambda: vgg16(num_classes=scale.classes, dropout=0.0)
    return models


def _step(make: Any, scale: Scale, batch: int, memory_format: torch.memory_format, is_half: bool) -> Callable[[], None]:
    model = make().train().to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    x = torch.randn(batch, 3, scale.size, scale.size).contiguous(memory_format=memory_format)
    labels = torch.randint(scale.classes, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def head(scale: Scale, images: int = 32, batch: int = 8) -> Table:
    """An epoch of a new head on the same frozen base, whose features are averaged; and of the head on features kept from before."""
    base = ours(scale, include_top=False).requires_grad_(False)
    x = 60 * torch.randn(images, 3, scale.size, scale.size)
    average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    bases: dict[str, Any] = {"optimize_for_inference": optimize_for_inference(base)}
    with contextlib.suppress(ImportError):
        from torchvision.models import vgg16

        for form in (torch.contiguous_format, torch.channels_last):
            theirs = vgg16().features.eval().requires_grad_(False)
            theirs.load_state_dict(dict(zip(theirs.state_dict(), base.state_dict().values(), strict=True)))
            bases["torchvision" + ", channels-last" * (form is torch.channels_last)] = theirs.to(memory_format=form)
    epochs = {name: _epoch(nn.Sequential(own, average), x, scale, batch) for name, own in bases.items()}
    epochs["features kept from before"] = _epoch(
        nn.Identity(), average(bases["optimize_for_inference"](x)), scale, batch
    )
    for epoch in epochs.values():
        epoch()
    return medians(in_turn(epochs, scale.rounds))


def _epoch(base: nn.Module, x: Tensor, scale: Scale, batch: int) -> Callable[[], None]:
    model = nn.Sequential(base, nn.BatchNorm1d(512), nn.Linear(512, scale.classes)).train()
    base.eval()
    optimizer = torch.optim.Adam(model[1:].parameters())
    labels = torch.randint(scale.classes, (len(x),))

    def epoch() -> None:
        for images, answers in zip(x.split(batch), labels.split(batch), strict=True):
            nn.functional.cross_entropy(model(images), answers).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch
