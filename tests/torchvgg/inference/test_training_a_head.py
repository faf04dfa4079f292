"""Training layers behind an optimized model: the same gradients as behind the model itself; the model stays as it is."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from torchvgg import optimize_for_inference
from torchvgg.layers import BatchNormalization, Conv2D, Dropout, GlobalAveragePooling2D, MaxPooling2D
from torchvgg.model import Model

from .test_optimized_model import WAYS, alive, error


def small_base() -> Model:
    """With layers that compute something else in training."""
    torch.manual_seed(0)
    layers = {
        "conv1": Conv2D(3, 32, 3, padding="same", activation="relu"),
        "conv2": Conv2D(32, 32, 3, padding="same", activation="relu"),
        "pool": MaxPooling2D((2, 2)),
        "normalized": BatchNormalization(32),
        "dropped": Dropout(0.5),
        "average": GlobalAveragePooling2D(),
    }
    return alive(Model(layers, (3, None, None), "small"))


def head() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 4))


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Of a step's last layers."""
    nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 4).backward()
    return [parameter.grad for parameter in model[1].parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradients_are_the_models(way: bool, dtype: torch.dtype) -> None:
    base, x = small_base().to(dtype), torch.randn(8, 3, 20, 24, dtype=dtype)
    fast = optimize_for_inference(base, native=way if dtype == torch.float32 else None)
    with torch.inference_mode():
        fast(x)  # whose memory is used again
    expected = gradients(nn.Sequential(copy.deepcopy(base).requires_grad_(False), head().to(dtype)), x)
    model = nn.Sequential(fast, head().to(dtype)).train()
    received = gradients(model, x)
    assert model[1].training
    assert not fast.training
    assert len(received) == len(expected) == 4
    assert all(error(own, other) <= 1e-4 for own, other in zip(received, expected, strict=True))
    other = model(x[:4]).sum()  # before backward, another batch goes through the same memory
    model(x[4:])
    other.backward()


def test_autocast() -> None:
    x = torch.randn(8, 3, 20, 24)
    model = nn.Sequential(optimize_for_inference(small_base(), native=False), head()).train()
    expected = gradients(model, x)
    model[1].zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        received = gradients(model, x)
    assert all(error(own, other) <= 0.1 for own, other in zip(received, expected, strict=True))


def test_what_else_people_do_with_the_whole() -> None:
    base, x = small_base(), torch.randn(4, 3, 20, 24)
    model = nn.Sequential(optimize_for_inference(base, native=False), head())
    assert list(model.state_dict()) == [f"1.{key}" for key in head().state_dict()]
    assert [name for name, _ in model.named_parameters()] == [f"1.{name}" for name, _ in head().named_parameters()]
    assert model.to("cpu").float().to(memory_format=torch.channels_last) is model
    for change in (model.double, model.bfloat16, lambda: model.to("meta")):
        with pytest.raises(RuntimeError, match="an optimized model can't be changed; move or cast the model itself"):
            change()
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.1)
    gradients(twin, x)
    optimizer.step()
    assert not torch.equal(twin[1][2].weight, model[1][2].weight)
    with torch.no_grad():
        assert torch.equal(twin[0](x), model[0](x))
    whole = nn.Sequential(base, twin[1]).eval()  # what is saved
    with torch.no_grad():
        assert error(whole(x), twin.eval()(x)) <= 1e-5


@pytest.mark.parametrize("call", ["forward", "extract"])
def test_an_input_that_requires_gradients(call: str) -> None:
    fast, x = optimize_for_inference(small_base(), native=False), torch.randn(4, 3, 20, 24, requires_grad=True)
    arguments: Any = (x,) if call == "forward" else (x, ["conv1"])
    with pytest.warns(
        UserWarning, match="gradients, which stop at an optimized model: what comes before it isn't trained"
    ):
        getattr(fast, call)(*arguments)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        getattr(fast, call)(*arguments)
