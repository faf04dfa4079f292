"""`dense`: at each place, Keras's own head on a window of Keras's own maps; what is refused; and `show --class`."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchvgg import VGG16, VGG19, dense, grad_cam, load_image, load_model, optimize_for_inference, preprocess_input
from torchvgg.command_line import main
from torchvgg.convert.vgg_blocks import BLOCKS
from torchvgg.inference.fast_layers import FastDense
from torchvgg.layers import Conv2D, Dense, Flatten, GroupNormalization, MaxPooling2D, PReLU
from torchvgg.model import Model

from ..helpers.heads import L, base, chain, with_random_weights
from ..helpers.keras_models import images, relative_error
from ..helpers.photos import photo
from .inference.test_optimized_model import WAYS, alive

HEADS: dict[str, Callable[[], list[Any]]] = {
    "the paper's": lambda: [L.Flatten(), L.Dense(6, "relu"), L.Dropout(0.5), L.Dense(5, "relu"), L.Dense(3, "softmax")],
    "one layer": lambda: [L.Flatten(), L.ReLU(), L.Dropout(0.1), L.Dense(3)],
    "normalized": lambda: [
        *(L.Flatten(), L.Dense(6, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Flatten()),
        *(L.Dense(4, L.LeakyReLU(0.2)), L.LayerNormalization(), L.UnitNormalization(), L.Dense(3), L.Softmax()),
    ],
    "mean": lambda: [L.GlobalAveragePooling2D(), L.BatchNormalization(), L.Dense(3), L.Activation("softmax")],
    "largest": lambda: [L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), L.Dense(3, "sigmoid")],
    "more convolutions": lambda: [L.Conv2D(5, 1), L.BatchNormalization(), L.Dropout(0.5), L.Flatten(), L.Dense(3)],
}


@pytest.mark.parametrize("case", HEADS)
def test_each_place_is_keras_head_on_a_window_of_keras_maps(case: str, tmp_path: Path) -> None:
    small, head = base(64, 96), HEADS[case]()
    theirs = with_random_weights(chain(small, *head))
    theirs.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    twin = dense(model)
    assert twin.input_shape == (None, 3, None, None)
    assert not twin.training
    for height, width in ((64, 96), (64, 130), (110, 161)):
        x = images(2, 3, height, width)
        large = base(height, width)
        large.set_weights(small.get_weights())
        maps = large(x.permute(0, 2, 3, 1))
        with torch.no_grad():
            received = twin(x)
        rows, columns = height // 32 - 1, width // 32 - 2
        assert received.shape == (2, 3, rows, columns)
        for row in range(rows):
            for column in range(columns):
                y = maps[:, row : row + 2, column : column + 3]
                for layer in head:
                    y = layer(y)
                assert relative_error(received[..., row, column], y.detach()) <= 1e-5


def narrow_vgg(network: str = "vgg16", size: int = 224) -> Model:
    """With a sixteenth of the channels."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {}
    channels = 3
    for block, (convolutions, filters) in enumerate(BLOCKS[network], start=1):
        for number in range(1, convolutions + 1):
            layers[f"block{block}_conv{number}"] = Conv2D(channels, filters // 16, 3, padding="same", activation="relu")
            channels = filters // 16
        layers[f"block{block}_pool"] = MaxPooling2D((2, 2))
    layers |= {"flatten": Flatten(), "fc1": Dense(32 * (size // 32) ** 2, 16, "relu"), "predictions": Dense(16, 5)}
    return alive(Model(layers, (3, size, size), network))


@torch.no_grad()
def test_what_a_place_is_equal_to() -> None:
    """As `dense` says: the maps of a 224×224 window cut out of the image differ from the image's, but for the middle one."""
    model = narrow_vgg()
    twin, x = dense(model), images(1, 3, 512, 480)
    assert relative_error(twin(x[..., :224, :224])[..., 0, 0], model(x[..., :224, :224])) <= 1e-5
    whole, cut = (twin.extract(part, ["block5_pool"])["block5_pool"] for part in (x, x[..., 64:288, 96:320]))
    difference = (cut - whole[..., 2:9, 3:10]).abs().amax((0, 1)) / whole.abs().max()
    assert difference[3, 3] <= 1e-6
    difference[3, 3] = 1
    assert difference.min() >= 1e-4
    inside = twin(x[..., 64:480, 32:448])  # 404×404 pixels count for its middle place
    assert relative_error(inside[..., 3, 3], twin(x)[..., 5, 4]) <= 1e-5
    other = torch.zeros(1, 3, 416, 416)
    other[..., 6:410, 6:410] = x[..., 70:474, 38:442]
    assert relative_error(twin(other)[..., 3, 3], inside[..., 3, 3]) <= 1e-5


@pytest.mark.parametrize("network", [VGG16, VGG19])
def test_the_twin_of_a_vgg(network: Any) -> None:
    with torch.device("meta"):
        model = network(weights=None).eval()
        twin = dense(model)
    names = [name for name, _ in model.named_children() if name != "flatten"]
    assert [name for name, _ in twin.named_children()] == names
    assert twin.count_params() == model.count_params()
    assert twin.output_shape == (None, 1000, None, None)
    shapes = [tuple(twin.get_submodule(name).weight.shape) for name in ("fc1", "fc2", "predictions")]
    assert shapes == [(4096, 512, 7, 7), (4096, 4096, 1, 1), (1000, 4096, 1, 1)]
    for height, width in ((224, 224), (255, 256), (480, 640)):
        assert twin(torch.empty(2, 3, height, width, device="meta")).shape == (
            2,
            1000,
            height // 32 - 6,
            width // 32 - 6,
        )
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(N, 3, 224 or more, 224 or more\). Received"):
        twin(torch.empty(1, 3, 256, 223, device="meta"))


def test_it_shares_the_weights_and_nothing_else() -> None:
    model = narrow_vgg(size=64)
    twin, x = dense(model), images(1, 3, 64, 64)
    model.train()
    twin.requires_grad_(False)
    assert not twin.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.load_state_dict({key: value + 0.01 for key, value in model.state_dict().items()})
    with torch.no_grad():
        assert relative_error(twin(x)[..., 0, 0], model(x)) <= 1e-5
        for same in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
            assert torch.equal(same(x), twin(x))
            assert same.window == (2, 2)
    twin.double()
    assert model.fc1.weight.dtype == torch.float32


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_the_fast_path(way: bool) -> None:
    model = alive(VGG16(weights=None, classes=300, classifier_activation=None, input_shape=(3, 64, 32)))
    twin = dense(model)
    fast, exact = optimize_for_inference(twin, native=way), copy.deepcopy(twin).double()
    assert [isinstance(layer, FastDense) for layer in list(fast.layers)[-3:]] == [True] * 3
    for height, width in ((64, 32), (100, 129)):
        x = images(2, 3, height, width)
        expected = exact.extract(x.double(), ["fc1", "fc2", "predictions"])
        for name, received in fast.extract(x, list(expected)).items():
            assert relative_error(received, expected[name]) <= 1e-5
        assert relative_error(fast(x), expected["predictions"]) <= 1e-5
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(N, 3, 64 or more, 32 or more\)"):
        fast(images(1, 3, 40, 40))


def test_grad_cam_of_the_twin() -> None:
    model = narrow_vgg(size=64)
    twin, x = dense(model), images(2, 3, 64, 64)
    assert relative_error(grad_cam(twin, x), grad_cam(model, x)) <= 1e-4
    x = images(2, 3, 96, 128)
    with torch.no_grad():
        likeliest = twin(x).mean((2, 3)).argmax(1)
    cam = grad_cam(twin, x)
    assert cam.shape == (2, 6, 8)  # of block5_conv3
    assert torch.equal(cam, grad_cam(twin, x, likeliest, "block5_conv3"))


def graph(*layers: str) -> Model:
    """A small model of named layers."""
    made: dict[str, Callable[[], nn.Module]] = {
        "flatten": Flatten,
        "keras_order": lambda: Flatten("channels_last"),
        "dense": lambda: Dense(4, 2),
        "groups": lambda: GroupNormalization(1, 1),
        "slopes": lambda: PReLU((2,)),
        "custom": lambda: Dense(2, 2, activation=lambda x: x.flip(1)),
    }
    return Model({name: made[name]() for name in layers}, (1, 2, 2), "small")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no model": (lambda: nn.Sequential(graph("flatten")), "before `optimize_for_inference`. Received: Sequential"),
    "any size": (lambda: VGG16(weights=None, include_top=False), "a model of images of one size, as VGG16.* makes it. Received: one with inputs of"),
    "again": (lambda: dense(graph("flatten", "dense")), "a model of images of one size"),
    "no head": (
        lambda: VGG16(weights=None, include_top=False, input_shape=(3, 32, 32)),
        "a model that ends in dense layers. Received: one that ends in block5_pool",
    ),
    "a flatten at the end": (lambda: graph("flatten"), "Received: one that ends in flatten"),
    "over all places": (lambda: graph("groups", "flatten", "dense"), r"groups \(GroupNormalization\) isn't the same"),
    "another order": (lambda: graph("keras_order", "dense"), r"keras_order \(Flatten\) isn't the same on each window"),
    "slopes of a vector": (lambda: graph("flatten", "dense", "slopes"), r"slopes \(PReLU\) isn't the same"),
    "a function": (lambda: graph("flatten", "dense", "custom"), r"custom \(Dense\) isn't the same on each window"),
    "a graph": (
        lambda: Model({"a": Dense(1, 1), "b": Dense(1, 1)}, (1, 2, 2), "two", [("a", "a", ["input_layer"]), ("b", "b", ["input_layer"])], "b"),
        "expected a chain of layers. Received: two, a graph with branches",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with torch.device("meta"), pytest.raises(ValueError, match=f"(dense: |expected a model).*{message}"):
        dense(make())


def test_what_stands_between_flatten_and_dense_mixes_places(tmp_path: Path) -> None:
    for between in (L.BatchNormalization(), L.Activation("softmax"), L.LayerNormalization()):
        chain(base(64, 96), L.Flatten(), between, L.Dense(2)).save(tmp_path / "model.keras")
        with pytest.raises(ValueError, match="isn't the same on each window of a larger image"):
            dense(load_model(tmp_path / "model.keras"))


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    photo("chelsea.png", (150, 100)).save(folder / "cat.jpg")
    for name, end in (("probabilities", "softmax"), ("logits", None)):
        with_random_weights(chain(base(64, 64), L.Flatten(), L.Dense(4, end))).save(folder / f"{name}.keras")
    with_random_weights(chain(base(None, None), L.GlobalAveragePooling2D(), L.Dense(4))).save(folder / "any.keras")
    return folder


@pytest.mark.parametrize("name", ["probabilities", "logits"])
@pytest.mark.parametrize("wanted", ["2", None])
def test_show_class(
    name: str, wanted: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("torchvgg.commands.plot_cam", lambda *arguments: drawn.extend(arguments))
    monkeypatch.setattr("torchvgg.commands.save_picture", lambda *arguments: drawn.append(arguments[1]))
    arguments = ["--class", wanted] if wanted else ["--class"]
    output, weights = tmp_path / "map.png", folder / f"{name}.keras"
    assert main(["show", str(folder / "cat.jpg"), *arguments, "-o", str(output), "--weights", str(weights)]) == 0
    places, image, title, _, _, path = drawn
    assert (image.shape, path) == ((100, 150, 3), output)
    x = preprocess_input(load_image(folder / "cat.jpg", (128, 192)))  # twice the model's size
    with torch.no_grad():
        (scores,) = dense(load_model(weights))(x)  # (4, 3, 5), of windows of 2×2
    number = int(wanted or scores.mean((1, 2)).argmax())
    expected = scores[number]
    if name == "logits":
        expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(places[:3, :5], expected)
    assert places.shape == (4, 6)  # of 32×32 pixels each
    assert torch.equal(places[3, :5], places[2, :5])
    assert (
        title == f"cat.jpg: class {number}, {scores[number].mean():.3g} on average, {scores[number].max():.3g} at most"
    )


def test_show_class_draws(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "map.png"
    options = ["--class", "1", "-o", str(output), "--weights", str(folder / "probabilities.keras")]
    assert main(["show", str(folder / "cat.jpg"), *options]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((448, 448), [448, 448]), ((10, 20), [448, 896]), ((3000, 4000), [448, 608]), ((1, 5000), [448, 1792])],
)
def test_the_size_of_the_image(size: tuple[int, int], expected: list[int]) -> None:
    from torchvgg.commands import _dense_size

    twin = dense(narrow_vgg())
    assert _dense_size(twin, (*size, 3)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "1", "--cam"], "--class draws the class's own scores; drop --cam and --layer"),
        (["--class", "1", "--layer", "block1_conv1"], "--class draws the class's own scores; drop --cam and --layer"),
        (["--class", "cat"], "cat: no such class; expected a name, or a number from 0 to 3"),
        (["--class", "1", "--weights", "any.keras"], "dense: expected a model of images of one size"),
    ],
)
def test_errors_are_one_line(
    options: list[str], message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    output = tmp_path / "map.png"
    status = main(["show", "cat.jpg", "--weights", "logits.keras", *options, "-o", str(output)])
    assert status == (2 if "drop" in message else 1)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not output.exists()
