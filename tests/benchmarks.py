"""How fast it is, beside the peers that are installed: `python -m tests.benchmarks`.

All of one table is taken in one run, in turn (A B C A B C …), and the medians are compared. Errors are relative to the
model's own result in float64.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchvgg import VGG16, optimize_for_inference

Run = Callable[[Tensor], Any]  # images, (N, 3, H, W) → the logits, as an array or a tensor


def ours() -> VGG16:
    """VGG16 with numbers as trained networks have them."""
    torch.manual_seed(0)
    model = VGG16(weights=None, classifier_activation=None).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


def native(model: VGG16, folder: Path) -> Run:
    return optimize_for_inference(model, native=True)


def operators(model: VGG16, folder: Path) -> Run:
    return optimize_for_inference(model, native=False)


def plain(model: VGG16, folder: Path) -> Run:
    return model.to(memory_format=torch.channels_last)


def torchvision(model: VGG16, folder: Path) -> Run:
    from torchvision.models import vgg16

    peer = vgg16(weights=None).eval()
    peer.load_state_dict(dict(zip(peer.state_dict(), model.state_dict().values(), strict=True)))
    peer = peer.to(memory_format=torch.channels_last)
    return lambda x: peer(x.contiguous(memory_format=torch.channels_last))


def onnxruntime(model: VGG16, folder: Path) -> Run:
    import onnxruntime

    path = folder / "model.onnx"
    torch.onnx.export(
        model, (torch.rand(1, 3, 224, 224),), path, dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def openvino(model: VGG16, folder: Path) -> Run:
    import openvino

    converted = openvino.convert_model(model, example_input=torch.rand(1, 3, 224, 224))
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(converted, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda x: compiled(x.numpy())[0]


def ncnn(model: VGG16, folder: Path) -> Run:
    """One image at a time: a batch is no notion of ncnn's."""
    import ncnn
    import pnnx

    pnnx.export(model, str(folder / "model.pt"), (torch.rand(1, 3, 224, 224),), fp16=False)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))

    def one(image: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image))
            return np.array(extractor.extract("out0")[1])

    return lambda x: np.stack([one(image) for image in x.numpy()])


PEERS = (native, ncnn, operators, onnxruntime, openvino, plain, torchvision)


def installed(model: VGG16, folder: Path, names: list[str]) -> Iterator[tuple[str, Run]]:
    for make in PEERS:
        if names and make.__name__ not in names:
            continue
        try:
            yield make.__name__, make(model, folder)
        except (ImportError, RuntimeError) as error:
            print(f"{make.__name__}: left out ({str(error).splitlines()[0]})", file=sys.stderr)


@torch.no_grad()
def inference(batches: list[int], rounds: int, names: list[str]) -> dict[str, Any]:
    """Milliseconds and errors, by batch and peer."""
    model = ours()
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = dict(installed(model, Path(folder), names))
        exact = ours().double()
        for batch in batches:
            x = 60 * torch.randn(batch, 3, 224, 224)
            expected = exact(x[:1].double())
            errors = {
                name: float((torch.as_tensor(run(x))[:1].double() - expected).abs().max() / expected.abs().max())
                for name, run in runs.items()
            }
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(rounds):
                for name, run in runs.items():
                    started = time.perf_counter()
                    run(x)
                    times[name].append(1000 * (time.perf_counter() - started))
            table[str(batch)] = {
                name: {"ms": statistics.median(times[name]), "least": min(times[name]), "error": errors[name]}
                for name in runs
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=[], help=", ".join(make.__name__ for make in PEERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
    }
    table = inference(options.batch, options.rounds, options.only)
    if options.json:
        print(json.dumps({"machine": machine, "inference": table}))
        return
    print(machine)
    for batch, rows in table.items():
        first = next(iter(rows.values()))["ms"]
        for name, row in rows.items():
            print(
                f"batch {batch:>2}  {name:12} {row['ms']:8.1f} ms  {row['ms'] / first:5.2f}×  least {row['least']:8.1f}  error {row['error']:.1e}"
            )


if __name__ == "__main__":
    main()
