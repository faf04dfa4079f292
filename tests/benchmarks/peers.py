"""VGG16 of each peer, made ready with our weights."""

import contextlib
import copy
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchvgg import VGG16, optimize_for_inference

Run = Callable[[Tensor], Any]  # images, (N, 3, H, W) → the logits, as an array or a tensor


def native(model: VGG16, folder: Path) -> Run:
    return optimize_for_inference(model, native=True)


def operators(model: VGG16, folder: Path) -> Run:
    return optimize_for_inference(model, native=False)


def plain(model: VGG16, folder: Path) -> Run:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def torchvision(model: VGG16, folder: Path) -> Run:
    from torchvision.models import vgg16

    peer = vgg16(weights=None).eval()
    peer.load_state_dict(dict(zip(peer.state_dict(), model.state_dict().values(), strict=True)))
    peer = peer.to(memory_format=torch.channels_last)
    return lambda x: peer(x.contiguous(memory_format=torch.channels_last))


def onnxruntime(model: VGG16, folder: Path) -> Run:
    import onnxruntime

    path = folder / "model.onnx"
    options: Any = {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
    torch.onnx.export(model, (example(model),), path, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, settings)
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def openvino(model: VGG16, folder: Path, precision: str = "f32") -> Run:
    import openvino

    converted = openvino.convert_model(model, example_input=example(model))
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.compile_model(converted, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda x: compiled(x.numpy())[0]


def ncnn(model: VGG16, folder: Path) -> Run:
    """One image at a time: a batch is no notion of ncnn's."""
    import ncnn
    import pnnx

    pnnx.export(model, str(folder / "model.pt"), (example(model),), fp16=False)
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


def tensorflow(model: VGG16, folder: Path) -> Run:
    """Keras on TensorFlow, as one `tf.function`."""
    keras = keras_on_tensorflow()
    import tensorflow as tf

    _, channels, height, width = model.input_shape
    classes = model.output_shape[1]
    peer = keras.applications.VGG16(
        weights=None, classes=classes, classifier_activation=None, input_shape=(height, width, channels)
    )
    fill(peer, model)
    function = tf.function(lambda images: peer(images, training=False))
    return lambda x: function(tf.constant(x.permute(0, 2, 3, 1).numpy())).numpy()


def keras_on_tensorflow() -> Any:
    """The module, with as many threads as PyTorch has."""
    with contextlib.suppress(ImportError):  # PyTorch's compiler, which crashes if TensorFlow is there before it
        importlib.import_module("triton")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise ImportError("Keras runs on another backend here")
    tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    return keras


def fill(peer: Any, model: VGG16) -> None:
    """Gives Keras's model our weights."""
    _, _, height, width = model.input_shape
    for layer in peer.layers:
        if layer.weights:
            own = model.get_submodule(layer.name)
            kernel = own.weight.detach()
            if layer.name == "fc1":
                kernel = kernel.unflatten(1, (512, height // 32, width // 32)).permute(0, 2, 3, 1).flatten(1)
            kernel = kernel.permute(2, 3, 1, 0) if kernel.dim() == 4 else kernel.t()
            layer.set_weights([kernel.numpy(), own.bias.detach().numpy()])


def native_bf16(model: VGG16, folder: Path) -> Run:
    """`model.bfloat16()` through `optimize_for_inference`."""
    fast = optimize_for_inference(copy.deepcopy(model).bfloat16())
    return lambda x: fast(x.bfloat16()).float()


def openvino_bf16(model: VGG16, folder: Path) -> Run:
    return openvino(model, folder, "bf16")


FLOAT32 = (native, ncnn, operators, onnxruntime, openvino, tensorflow, plain, torchvision)
BFLOAT16 = (native_bf16, openvino_bf16)


def example(model: VGG16) -> Tensor:
    _, *shape = model.input_shape
    return torch.rand(1, *shape)


def installed(peers: Sequence[Any], model: VGG16, folder: Path, left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """The peers that are there, ready; why others aren't comes into `left_out`."""
    for make in peers:
        try:
            yield make.__name__, make(model, folder)
        except (ImportError, RuntimeError) as error:
            left_out[make.__name__] = str(error).splitlines()[0]
