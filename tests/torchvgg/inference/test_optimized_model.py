"""The fast path computes what the model does: every layer, every size, whatever it is computed by."""

import copy
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchvgg import VGG16, VGG19, load_model, optimize_for_inference
from torchvgg.inference import native, winograd
from torchvgg.inference.fast_layers import FastConv2D, FastDense
from torchvgg.inference.optimized_model import OptimizedModel
from torchvgg.layers.convolutional import Conv2D
from torchvgg.layers.merging import Add
from torchvgg.layers.normalization import BatchNormalization
from torchvgg.layers.reshaping import in_keras_order, order_after
from torchvgg.model import INPUT, Model

M = TypeVar("M", bound=Model)
KERAS2 = Path(__file__).parents[2].joinpath("data") / "keras2"
HAS_COMPILER = any(map(shutil.which, native.COMPILERS))
WAYS = [pytest.param(True, marks=pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")), False]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """The kernels share their work among threads, of which the other tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def alive(model: M) -> M:
    """With numbers as trained networks have them: nothing dies out on the way down."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> VGG16:
    torch.manual_seed(0)
    return alive(VGG16(weights=None, include_top=False))


def error(received: torch.Tensor, expected: torch.Tensor) -> float:
    assert received.shape == expected.shape
    return float((received - expected).abs().max() / expected.abs().max())


def exact(model: Model, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every layer's output, in double precision."""
    names = [name for name, _ in model.named_children()]
    with torch.no_grad():
        return copy.deepcopy(model).double().extract(x.double(), names)


def layer_errors(model: Model, twin: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """The error of each layer of the twin, from what the layers before it have made of `x`."""
    double, errors, order = copy.deepcopy(model).double(), {}, None
    with torch.no_grad():
        for (name, layer), output in zip(
            double.named_children(), twin.extract(x, exact(model, x)).values(), strict=True
        ):
            order = order_after(layer, x.shape, order)
            y = layer(x.double())
            errors[name] = error(output, in_keras_order(y, order))
            x = output if order is None else y  # the layers take PyTorch's order
    return errors


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", range(32, 41))
@pytest.mark.slow
def test_every_layer_at_every_size(way: bool, size: int, model: VGG16) -> None:
    twin = optimize_for_inference(model, native=way)
    x = torch.randn(1 + size % 3, 3, size, 72 - size)
    assert all(found < 1e-5 for found in layer_errors(model, twin, x).values())
    assert torch.equal(twin(x), twin.extract(x, "block5_pool")["block5_pool"])


@pytest.mark.parametrize("way", WAYS)
def test_from_end_to_end(way: bool) -> None:
    model = alive(VGG16(weights=None, classifier_activation=None))
    x = 60 * torch.randn(1, 3, 224, 224)
    assert error(optimize_for_inference(model, native=way)(x), exact(model, x)["predictions"]) < 5e-6


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_is_computed_in_parts_reads_nothing_that_it_wrote(way: bool, model: VGG16) -> None:
    """Where all outputs are tensors of their own, as in `extract`, no layer can."""
    twin, x = optimize_for_inference(model, native=way), torch.randn(2, 3, 224, 256)
    names = [name for name, _ in model.named_children()]
    assert torch.equal(twin(x), twin.extract(x, names)["block5_pool"])


@pytest.mark.parametrize("way", WAYS)
def test_no_pool_loses_nan(way: bool) -> None:
    engine = native.kernels() if way else winograd.Operators()
    kernel, bias = torch.randn(32, 32, 3, 3), torch.zeros(32)
    u, y = engine.pack(winograd.transform_kernel(kernel)), torch.empty(1, 4, 4, 32)
    for place in range(64):
        x = torch.randn(1, 32, 8, 8)
        x[0, 5].view(-1)[place] = torch.nan
        padded = winograd.Map(torch.zeros(winograd.padded_shape(1, 8, 8, 32)), 8, 8)
        padded.image.copy_(x.permute(0, 2, 3, 1))
        engine.convolve(padded, u, bias, True, True, y)()
        expected = F.max_pool2d(F.conv2d(x, kernel, padding=1).relu(), 2)
        assert expected.isnan().any()
        assert y.permute(0, 3, 1, 2)[expected.isnan()].isnan().all()


def test_fast_layers_are_fast_ones(model: VGG16) -> None:
    """Only what has no weights is left as it is."""
    twin = optimize_for_inference(model, native=False)
    assert isinstance(twin, OptimizedModel)
    for fast, layer in zip(twin.layers, model.children(), strict=True):
        assert isinstance(fast, FastConv2D) == isinstance(layer, nn.Conv2d)


@pytest.mark.parametrize("way", WAYS)
def test_vgg19_with_its_top(way: bool) -> None:
    model = alive(VGG19(weights=None, classes=5, input_shape=(3, 64, 32)))
    x = torch.randn(2, 3, 64, 32)
    twin = optimize_for_inference(model, native=way)
    assert all(found < 1e-5 for found in layer_errors(model, twin, x).values())
    assert torch.allclose(twin(x), model(x), rtol=1e-3, atol=1e-6)
    for fast, layer in zip(twin.layers, model.children(), strict=True):
        assert isinstance(fast, FastDense) == isinstance(layer, nn.Linear)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["trained.h5", "functional.h5", "flat.h5"])
def test_heads_of_files(way: bool, file: str) -> None:
    model = load_model(KERAS2 / file)
    x = torch.rand(3, *model.input_shape[1:])
    twin = optimize_for_inference(model, native=way)
    assert all(found < 1e-5 for found in layer_errors(model, twin, x).values())
    with torch.no_grad():
        assert torch.allclose(twin(x), model(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_inputs_of_any_kind(way: bool, model: VGG16) -> None:
    twin = optimize_for_inference(model, native=way)
    large = torch.randn(2, 4, 80, 66)
    x = large[1:, :3, ::2, 1::2]
    before = large.clone()
    same = twin(x.contiguous())
    assert torch.allclose(twin(x), same, rtol=1e-4, atol=1e-5)
    assert torch.allclose(twin(x.contiguous(memory_format=torch.channels_last)), same, rtol=1e-4, atol=1e-5)
    assert torch.equal(large, before)
    assert twin(x[:0]).shape == (0, 512, 1, 1)
    assert twin(x * torch.nan).isnan().all()
    with pytest.warns(UserWarning, match="requires gradients"):
        assert not twin(x.requires_grad_()).requires_grad
    x = x.detach()
    for other, message in (
        (x[:, :, :31], "32 or more"),
        (x[0], "lacks the batch axis"),
        (x.int(), "floating-point"),
        (x.double(), r"like the weights, torch.float32 on cpu. Received: torch.float64"),
        (x.to("meta"), "Received: torch.float32 on meta"),
    ):
        for call in (twin, lambda x: twin.extract(x, "block1_conv1")):
            with pytest.raises(ValueError, match=message):
                call(other)
    with pytest.raises(ValueError, match="unknown layers"):
        twin.extract(x, ["block9"])


@pytest.mark.parametrize("way", WAYS)
def test_one_size_after_another_and_many_threads(way: bool, model: VGG16) -> None:
    """Memory that is used again holds nothing of the last image."""
    twin = optimize_for_inference(model, native=way)
    images = [torch.randn(1 + i % 2, 3, 32 + 5 * i, 50 - i) for i in range(4)]
    expected = [twin(x) for x in images]
    for _ in range(2):
        for x, y in zip(images, expected, strict=True):
            assert torch.equal(twin(x), y)
    received: list[tuple[int, torch.Tensor]] = []

    def compute(i: int) -> None:
        received.extend((i, twin(images[i])) for _ in range(3))

    threads = [threading.Thread(target=compute, args=(i,)) for i in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(received) == 12
    assert all(torch.allclose(y, expected[i], rtol=1e-4, atol=1e-5) for i, y in received)


@pytest.mark.parametrize("way", WAYS)
def test_whatever_pytorchs_defaults_are(way: bool, model: VGG16) -> None:
    twin, x, before = optimize_for_inference(model, native=way), torch.randn(1, 3, 40, 40), torch.get_default_dtype()
    expected = twin(x)
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(optimize_for_inference(model, native=way)(x), expected)
        assert twin(x[..., 1:]).dtype == torch.float32
        assert torch.equal(twin(x), expected)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_threads(way: bool, model: VGG16) -> None:
    twin, x, before = optimize_for_inference(model, native=way), torch.randn(1, 3, 64, 64), torch.get_num_threads()
    expected = twin(x)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.allclose(twin(x), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_the_model_is_left_as_it_was_and_the_twin_as_it_is() -> None:
    model = alive(VGG16(weights=None, include_top=False)).train()
    state, x = copy.deepcopy(model.state_dict()), torch.randn(1, 3, 32, 32)
    twin = optimize_for_inference(model)
    expected = twin(x)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(x), expected)
    assert torch.equal(copy.deepcopy(twin)(x), expected)
    assert not twin.train().training
    with pytest.raises(RuntimeError, match="can't be changed"):
        twin.double()


def test_it_looks_like_the_model(model: VGG16, capsys: pytest.CaptureFixture[str]) -> None:
    twin = optimize_for_inference(model)
    twin.summary()
    ours = capsys.readouterr().out
    model.summary()
    assert capsys.readouterr().out == ours
    assert (twin.input_shape, twin.output_shape, twin.name) == (model.input_shape, model.output_shape, model.name)
    assert twin.count_params() == model.count_params()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("native", WAYS)
def test_shorter_types_are_computed_in_float32(native: bool, dtype: torch.dtype, rounding: float) -> None:
    model = alive(VGG16(weights=None, include_top=False)).to(dtype)
    twin, x = optimize_for_inference(model, native), torch.randn(1, 3, 40, 40).to(dtype)
    names = ["block2_pool", "block5_conv3"]
    outputs = twin.extract(x, names) | {"block5_pool": twin(x)}
    expected = exact(model, x)
    for name, output in outputs.items():
        assert output.dtype == dtype
        assert error(output, expected[name]) < 1.1 * rounding
    assert next(model.parameters()).dtype == dtype
    with pytest.raises(ValueError, match="expected a tensor like the weights"):
        twin(x.float())


def test_doubles_are_channels_last() -> None:
    model = alive(VGG16(weights=None, include_top=False)).double()
    twin, x = optimize_for_inference(model), torch.randn(1, 3, 40, 40).double()
    assert error(twin(x), model(x)) < 1e-12
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    with pytest.raises(RuntimeError, match=r"native=True: the kernels are for models of float32.* torch.float64"):
        optimize_for_inference(model, native=True)


@pytest.mark.parametrize("way", WAYS)
def test_convolutions_that_wait(way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two branches begin with the same map, and a convolution that raises leaves nothing behind."""
    layers = {name: Conv2D(32, 32, (3, 3), padding="same") for name in ("first", "second", "third", "other")}
    nodes = [
        ("first", "first", (INPUT,)),
        ("second", "second", ("first",)),
        ("third", "third", ("second",)),
        ("other", "other", (INPUT,)),
        ("add", "add", ("third", "other")),
    ]
    model = alive(Model({**layers, "add": Add()}, (32, None, None), "branches", nodes, "add"))
    twin, x = optimize_for_inference(model, way), torch.randn(2, 32, 20, 20)
    expected = twin(x)
    with torch.no_grad():
        assert error(expected, copy.deepcopy(model).double()(x.double())) < 1e-5
    with monkeypatch.context() as patch:
        patch.setattr(twin.layers[2], "prepare", lambda *_: lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            twin(2 * x)
    assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("way", WAYS)
def test_whatever_mode_it_is_called_in(way: bool) -> None:
    """What one call leaves, the next one uses again, in another mode."""
    layers = {
        "block1_conv1": Conv2D(3, 32, (3, 3), padding="same", activation="relu"),
        "normalized": BatchNormalization(32),
        "block1_conv2": Conv2D(32, 32, (3, 3), padding="same"),
    }
    twin = optimize_for_inference(alive(Model(layers, (3, None, None), "mixed")), way)
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        within = twin(x), twin.extract(x, ["block1_conv2"])["block1_conv2"]
    expected = twin(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = twin(x)
    for received in (*within, autocast):
        assert torch.equal(received, expected)
    assert not expected.requires_grad


def _missing(*_: object) -> torch.Tensor:
    raise NotImplementedError


@pytest.mark.parametrize("found", [_missing, lambda x, weight, *_: x @ weight.t() + 1])
def test_without_a_private_operator(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", found, raising=False)
    layer = nn.Linear(70, 30)
    operators = winograd.Operators()
    x = torch.randn(3, 70)
    received = operators.dense(x, operators.pack_dense(layer.weight.detach()), layer.bias.detach(), relu=True)
    torch.testing.assert_close(received, layer(x).relu())


# The kernels


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("channels", "filters", "n", "height", "width"),
    [
        (32, 32, 0, 8, 8),
        (32, 64, 1, 4, 4),  # fewer tiles than threads
        (48, 96, 3, 13, 22),
        (128, 128, 1, 9, 27),
        (256, 256, 1, 4, 8),  # too few tiles for each thread: U is shared
        (256, 256, 1, 31, 29),  # a few tiles for each thread
        (256, 288, 1, 62, 62),  # two chunks that threads share
    ],
)
def test_kernels_with_any_shape(channels: int, filters: int, n: int, height: int, width: int, threads: int) -> None:
    kernels = native.kernels()
    if not kernels.fits(channels, filters):
        pytest.skip("these kernels take whole vectors")
    torch.manual_seed(0)
    x, bias = torch.randn(n, channels, height, width), torch.randn(filters)
    kernel = torch.randn(filters, channels, 3, 3)
    padded = winograd.Map(torch.zeros(winograd.padded_shape(n, height, width, channels)), height, width)
    padded.image.copy_(x.permute(0, 2, 3, 1))
    u, convolved = (
        kernels.pack(winograd.transform_kernel(kernel)),
        F.conv2d(x.double(), kernel.double(), bias.double(), padding=1),
    )
    torch.set_num_threads(threads)
    for relu, pool in ((False, False), (True, True)):
        expected = F.max_pool2d(convolved, 2).relu() if pool else convolved
        y = torch.empty(n, *expected.shape[2:], filters)
        call = kernels.convolve(padded, u, bias, relu, pool, y)
        call()
        assert n == 0 or error(y.permute(0, 3, 1, 2), expected) < 1e-5


@pytest.mark.parametrize("has_huge_pages", [True, False])
def test_zeros(has_huge_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_huge_pages:
        monkeypatch.delattr(winograd.mmap, "MADV_HUGEPAGE", raising=False)
    for shape in ((0, 3), (2, 3), (700, 1000)):
        x = winograd.zeros(*shape)
        assert (x.shape, x.dtype) == (shape, torch.float32)
        assert not x.any()
        assert x.add_(1).all()
