"""An ordinary module: what PyTorch does to modules works on this one, and gives what the model itself gives."""

import copy
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchvgg import VGG16, VGG19


@pytest.fixture(scope="module")
def model() -> VGG16:
    """A whole VGG16, small at the flatten."""
    torch.manual_seed(0)
    return VGG16(weights=None, input_shape=(3, 32, 32), classes=5).eval()


@pytest.fixture(scope="module")
def headless() -> VGG16:
    torch.manual_seed(0)
    return VGG16(weights=None, include_top=False, pooling="avg").eval()


def images(batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def assert_same(received: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within a tolerance of the largest value: another order of summing gives 1e-6."""
    assert received.shape == expected.shape
    assert float((received - expected).abs().max() / expected.abs().max()) <= tolerance


def test_compiles_as_one_graph(model: VGG16, headless: VGG16) -> None:
    for each in (model, headless):
        compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            assert_same(compiled(images()), each(images()))


def test_exports_with_a_dynamic_batch(model: VGG16) -> None:
    exported = torch.export.export(model, (images(),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    with torch.no_grad():
        for batch in (1, 2, 5):
            assert_same(exported.module()(images(batch)), model(images(batch)))


@pytest.mark.skipif(torch.__version__ < "2.7", reason="PyTorch 2.6 exports a pooling for even sizes only")
def test_exports_with_dynamic_sizes(headless: VGG16) -> None:
    """From 64 up, since PyTorch's export takes a size of 1, which 32 pixels end as, for a constant."""
    sizes = {2: torch.export.Dim("height", min=64, max=512), 3: torch.export.Dim("width", min=64, max=512)}
    exported = torch.export.export(headless, (images(2, 96),), dynamic_shapes={"x": sizes})
    x = torch.randn(2, 3, 65, 99)
    with torch.no_grad():
        assert_same(exported.module()(x), headless(x))


def test_runs_in_onnx_runtime(model: VGG16, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.onnx.export(model, (images(),), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    session = onnxruntime.InferenceSession(path)
    x = images(3)
    (received,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_same(torch.from_numpy(np.asarray(received)), model(x))


def test_traces_without_a_warning(model: VGG16, recwarn: pytest.WarningsRecorder) -> None:
    traced = torch.jit.trace(model, images(1))
    assert not [warning for warning in recwarn if issubclass(warning.category, torch.jit.TracerWarning)]
    with torch.no_grad():
        assert_same(traced(images(3)), model(images(3)))


def test_autocast_and_bfloat16(headless: VGG16) -> None:
    with torch.no_grad():
        expected = headless(images())
        with torch.autocast("cpu", torch.bfloat16):
            autocast = headless(images())
        short = copy.deepcopy(headless).bfloat16()(images().bfloat16())
    assert short.dtype == torch.bfloat16
    assert_same(autocast.float(), expected, 3e-2)  # bfloat16 has 8 bits: 4e-3 each time it is rounded
    assert_same(short.float(), expected, 3e-2)


def test_channels_last_stays_channels_last(headless: VGG16) -> None:
    model = copy.deepcopy(headless).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    with torch.no_grad():
        outputs = model.extract(x, ["block1_conv1", "block3_pool", "block5_conv3"])
        for output in outputs.values():
            assert output.is_contiguous(memory_format=torch.channels_last)
        assert_same(model(x), headless(images()))


def test_copies_are_independent_and_alike(model: VGG16) -> None:
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(other(images()), model(images()))
            other.block1_conv1.weight.zero_()
            assert not torch.equal(other(images()), model(images()))


def test_whole_module_goes_through_a_file(model: VGG16, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "whole.pt")
    other = torch.load(tmp_path / "whole.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(other(images()), model(images()))


def test_meta_device_allocates_nothing() -> None:
    with torch.device("meta"):
        model = VGG19(weights=None)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(torch.empty(7, 3, 224, 224, device="meta")).shape == (7, 1000)


def test_freezing_and_replacing_the_head(model: VGG16) -> None:
    other = copy.deepcopy(model).train().requires_grad_(False)
    other.predictions = nn.Linear(4096, 2)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(other(images()), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {key for key, tensor in other.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"predictions.weight", "predictions.bias"}
    assert other.output_shape == (None, 2)


def test_replicas_as_data_parallel_makes_them(model: VGG16) -> None:
    """DataParallel's own copies need GPUs; what it does to a module there is this."""
    replica = model._replicate_for_data_parallel()
    for name, child in model.named_children():
        setattr(replica, name, child)
    with torch.no_grad():
        assert torch.equal(replica(images()), model(images()))


def test_an_empty_batch_gives_an_empty_result(model: VGG16) -> None:
    assert model(images(0)).shape == (0, 5)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """DDP with gloo: two processes with an image each end with the gradients of one process with both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_in_one_of_two, (port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    alone = VGG16(weights=None, include_top=False, pooling="avg")
    alone(images(2)).square().mean().backward()
    for name, parameter in alone.named_parameters():
        assert torch.equal(first[name], second[name])
        assert parameter.grad is not None
        assert_same(first[name], parameter.grad)


def train_in_one_of_two(rank: int, port: int, folder: Path) -> Any:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = VGG16(weights=None, include_top=False, pooling="avg")
    parallel = DistributedDataParallel(model)
    parallel(images(2)[rank : rank + 1]).square().mean().backward()
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
