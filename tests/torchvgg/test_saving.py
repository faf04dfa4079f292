"""`save_model`: what was trained here is loaded here, and by the real Keras."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from torchvgg import VGG16, VGG19, dense, layers, load_model, optimize_for_inference, save_model
from torchvgg.convert import convert
from torchvgg.layers.shared import channels_last
from torchvgg.model import Model

from ..helpers.graphs import GRAPHS
from ..helpers.heads import HEADS, L, base, with_random_weights
from ..helpers.keras_models import relative_error

ALL = HEADS | GRAPHS


def small(path: Path, height: int | None = 64) -> Model:
    """A VGG16 with few channels, as `load_model` returns it."""
    theirs = with_random_weights(base(height, height))
    theirs.save(path.with_suffix(".keras"))
    return load_model(path.with_suffix(".keras"))


def trained(model: nn.Module) -> nn.Module:
    """Gives a model statistics and biases of its own, and leaves it in training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var, 1, 2)
            nn.init.uniform_(module.weight, 1, 2), nn.init.uniform_(module.bias)
    return model.train()


# A head of PyTorch's layers on maps (N, 8, 2, 2), and Keras's.
ON_MAPS: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[], list[Any]]]] = {
    "flattened": (
        lambda: [
            nn.Flatten(),
            nn.BatchNorm1d(32),
            nn.Linear(32, 6),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(6, 3),
            nn.Softmax(1),
        ],
        lambda: [
            L.Flatten(),
            L.BatchNormalization(momentum=0.9, epsilon=1e-5),
            L.Dense(6),
            L.ReLU(),
            L.Dropout(0.4),
            L.Dense(3),
            L.Softmax(),
        ],
    ),
    "pooled": (
        lambda: [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5, bias=False),
            nn.LayerNorm(5),
            nn.GELU(),
            nn.Linear(5, 1),
            nn.Sigmoid(),
        ],
        lambda: [
            *(L.GlobalAveragePooling2D(keepdims=True), L.Flatten(), L.Dense(5, use_bias=False)),
            *(L.LayerNormalization(epsilon=1e-5), L.Activation("gelu"), L.Dense(1), L.Activation("sigmoid")),
        ],
    ),
    "convolved": (
        lambda: [
            *(
                nn.Conv2d(8, 6, 3, padding=1, bias=False),
                nn.BatchNorm2d(6),
                nn.LeakyReLU(0.1),
                nn.Conv2d(6, 4, 3, 2, padding=1),
            ),
            *(
                nn.ReLU6(),
                nn.Upsample(scale_factor=4),
                nn.MaxPool2d(2),
                nn.ConvTranspose2d(4, 4, 3, 2),
                nn.AvgPool2d(2),
            ),
            *(
                nn.GroupNorm(2, 4),
                nn.ELU(0.5),
                nn.Dropout2d(),
                nn.AdaptiveMaxPool2d(1),
                nn.Flatten(),
                nn.Tanh(),
                nn.Linear(4, 3),
            ),
        ],
        lambda: [
            *(
                L.Conv2D(6, 3, padding="same", use_bias=False),
                L.BatchNormalization(momentum=0.9, epsilon=1e-5),
                L.LeakyReLU(0.1),
            ),
            *(
                L.ZeroPadding2D(1),
                L.Conv2D(4, 3, 2),
                L.ReLU(6),
                L.UpSampling2D(4),
                L.MaxPooling2D(2),
                L.Conv2DTranspose(4, 3, 2),
            ),
            *(L.AveragePooling2D(2), L.GroupNormalization(2, epsilon=1e-5), L.ELU(0.5), L.SpatialDropout2D(0.5)),
            *(L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), L.Activation("tanh"), L.Dense(3)),
        ],
    ),
    "nested": (
        lambda: [
            nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Identity()),
            layers.Dense(4, 5, activation="relu"),
            nn.Linear(5, 2),
        ],
        lambda: [keras.Sequential([L.Flatten(), L.Dense(4)]), L.Dense(5, "relu"), L.Dense(2)],
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ON_MAPS)
def test_a_head_of_pytorchs_layers_goes_home(name: str, tmp_path: Path) -> None:
    inner = base(64, 64)
    with_random_weights(inner).save(tmp_path / "base.keras")
    head, keras_head = ON_MAPS[name]
    model = trained(nn.Sequential(load_model(tmp_path / "base.keras").requires_grad_(False), *head()))
    save_model(model, tmp_path / "mine.safetensors")
    assert all(module.training for module in model.modules())
    again = load_model(tmp_path / "mine.safetensors")
    x = torch.rand(2, 3, 64, 64) * 255
    expected = model.eval()(x)
    assert relative_error(again(x), expected) <= 1e-6
    assert not any(p.requires_grad for key, p in again.named_parameters() if key.startswith("block"))
    home = keras.Sequential([keras.Input((64, 64, 3)), base(64, 64), *keras_head()])
    for suffix in (".weights.h5", ".h5"):
        report = convert(tmp_path / "mine.safetensors", tmp_path / f"home{suffix}")
        assert report.max_relative_error is not None
        assert report.max_relative_error <= 1e-5
        for weight in home.weights:
            weight.assign(keras.ops.zeros_like(weight))
        home.load_weights(tmp_path / f"home{suffix}")
        assert relative_error(channels_last(expected), home(x.permute(0, 2, 3, 1), training=False)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["functional_in_one_list", "half_frozen_in_nested_models", "nested_deep"])
def test_what_keras_saved_and_was_trained_here_goes_back_into_it(name: str, tmp_path: Path) -> None:
    theirs = with_random_weights(ALL[name]())
    theirs.save(tmp_path / "model.keras")
    ours = load_model(tmp_path / "model.keras")
    for parameter in ours.parameters():
        parameter.add_(0.01)
    save_model(ours, tmp_path / "trained.safetensors")
    convert(tmp_path / "trained.safetensors", tmp_path / "home.weights.h5")
    theirs.load_weights(tmp_path / "home.weights.h5")
    x = [torch.rand(1, *shape[1:]) for shape in ours.input_shapes.values()]
    expected = theirs([channels_last(each) for each in x], training=False)
    for received, wanted in zip(tree_leaves(ours(x)), tree_leaves(expected), strict=True):
        assert relative_error(channels_last(received), wanted) <= 1e-5


@pytest.mark.parametrize(
    ("change", "children"),
    [
        (lambda model: setattr(model, "predictions", nn.Linear(4096, 3)), 22),
        (
            lambda model: setattr(model, "predictions", nn.Sequential(nn.Linear(4096, 4), nn.ReLU(), nn.Linear(4, 3))),
            24,
        ),
        (lambda model: setattr(model.predictions, "activation", nn.Sigmoid()), 22),
        (lambda model: setattr(model, "fc2", nn.Identity()), 21),
        (lambda model: model.half(), 22),
        (lambda model: model.bfloat16(), 22),
    ],
    ids=["linear", "sequential", "activation", "identity", "half", "bfloat16"],
)
def test_a_changed_vgg(change: Callable[[Any], Any], children: int, tmp_path: Path) -> None:
    model = VGG16(weights=None, classes=3, input_shape=(3, 32, 32))
    change(model)
    dtype = model.fc1.weight.dtype
    save_model(model, tmp_path / "mine.safetensors")
    again = load_model(tmp_path / "mine.safetensors")
    assert len(list(again.children())) == children
    x = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        assert relative_error(again(x), model.eval().float()(x)) <= 1e-6
    assert (tmp_path / "mine.safetensors").stat().st_size < (
        1.1 if dtype is torch.float32 else 0.6
    ) * 4 * again.count_params()


def test_a_changed_vgg_goes_home(tmp_path: Path) -> None:
    """A Functional with the layer replaced, whose classes are numbered anew."""
    model = VGG16(weights=None, input_shape=(3, 32, 32), classes=3)
    model.predictions = nn.Linear(4096, 2)
    save_model(nn.DataParallel(model), tmp_path / "mine.safetensors")
    convert(tmp_path / "mine.safetensors", tmp_path / "home.weights.h5", check=False)
    home = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=2, classifier_activation=None)
    home.load_weights(tmp_path / "home.weights.h5")
    x = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        assert relative_error(model(x), home(x.permute(0, 2, 3, 1))) <= 1e-5


def test_wrappers_and_names(tmp_path: Path) -> None:
    named = OrderedDict(
        scale=layers.Rescaling([0.5, 1.0, 2.0]), vgg=small(tmp_path / "a"), flat=nn.Flatten(), dense=nn.Linear(32, 2)
    )
    model: Any = nn.Sequential(named)
    compiled = torch.compile(model, backend="eager")
    save_model(torch.optim.swa_utils.AveragedModel(model), tmp_path / "averaged.safetensors")
    save_model(compiled, tmp_path / "compiled.safetensors")
    x = torch.rand(1, 3, 64, 64)
    for name in ("averaged", "compiled"):
        again = load_model(tmp_path / f"{name}.safetensors")
        names = [own for own, _ in again.named_children()]
        assert (names[0], names[-2:]) == ("scale", ["flat", "dense"])
        with torch.no_grad():
            assert relative_error(again(x), model(x)) <= 1e-6


class Mine(nn.Linear):
    pass


def shared(linear: nn.Linear) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(32, 32), linear, nn.ReLU(), linear]


def changed(module: Any, **attributes: Any) -> Any:
    for key, value in attributes.items():
        setattr(module, key, value)
    return module


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda own, x, y: y + 1)
    return module


REFUSED: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "a class of one's own": (
        lambda: [nn.Flatten(), Mine(32, 2)],
        r"2 \(Mine\): Keras's counterpart of it isn't known; put in",
    ),
    "an unknown layer": (lambda: [nn.InstanceNorm2d(8)], r"1 \(InstanceNorm2d\): Keras's counterpart"),
    "a recurrent layer": (
        lambda: [nn.Flatten(2), nn.LSTM(4, 2)],
        r"1 \(Flatten\): Keras flattens all axes but the batch",
    ),
    "Linear on maps": (lambda: [nn.Linear(2, 8)], r"linear|dense"),
    "Linear on square maps": (
        lambda: [nn.Conv2d(8, 2, 1), nn.Linear(2, 2)],
        r"2 \(Linear\): Keras's Dense computes something else",
    ),
    "softmax over rows": (
        lambda: [nn.Softmax(2)],
        r"1 \(Softmax\): it has to go over the classes, dim=1. Received: dim=2",
    ),
    "softmax over columns": (lambda: [nn.Softmax(-1)], r"1 \(Softmax\): Keras's Softmax computes something else"),
    "a flatten that is seen": (
        lambda: [nn.Flatten()],
        r"1 \(Flatten\): where no Dense follows.*Flatten\(\"channels_last\"\)",
    ),
    "reflected": (lambda: [nn.Conv2d(8, 2, 3, padding=1, padding_mode="reflect")], "Keras pads with zeros"),
    "without statistics": (lambda: [nn.BatchNorm2d(8, track_running_stats=False)], "no track_running_stats=False"),
    "cumulative statistics": (lambda: [nn.BatchNorm2d(8, momentum=None)], "no momentum=None"),
    "padded pooling": (lambda: [nn.MaxPool2d(2, padding=1)], "Keras pools without padding"),
    "pooling to 2": (lambda: [nn.AdaptiveAvgPool2d(2)], "output_size=1 only. Received: 2"),
    "tanh's gelu": (lambda: [nn.GELU(approximate="tanh")], "approximate='none' only. Received: 'tanh'"),
    "shared": (lambda: shared(nn.Linear(32, 32)), "5 .Linear.: it shares its weight with dense_1; in Keras"),
    "computed weight": (
        lambda: [nn.Flatten(), nn.utils.spectral_norm(nn.Linear(32, 2))],
        r"2 \(Linear\): its weight is computed from others, as weight_norm, spectral_norm and prune do; call",
    ),
    "parametrized": (lambda: [nn.Flatten(), parametrizations.weight_norm(nn.Linear(32, 2))], "ParametrizedLinear"),
    "another rate": (
        lambda: [changed(layers.Dropout(0.5), p=0.1)],
        r"1 \(Dropout\): its p has become 0.1, and it was made with 0.5",
    ),
    "another stride": (lambda: [changed(layers.Conv2D(8, 2, 2), stride=(2, 2))], "its stride has become"),
    "an activation of one's own": (
        lambda: [layers.Activation(torch.sin)],
        r"its activation, sin, isn't one of Keras's",
    ),
    "frozen in part": (
        lambda: [changed(nn.Conv2d(8, 2, 1), bias=nn.Parameter(torch.zeros(2), False))],
        "frozen in part",
    ),
    "on the meta device": (lambda: [nn.Conv2d(8, 2, 1, device="meta")], "its weight is on the meta device"),
    "NaN": (
        lambda: [changed(nn.Conv2d(8, 2, 1), bias=nn.Parameter(torch.tensor([0, torch.nan])))],
        r"save_model: 1 \(Conv2d\): NaN or infinity among the values of its bias",
    ),
    "infinity": (
        lambda: [changed(nn.BatchNorm2d(8), running_var=torch.full([8], torch.inf))],
        r"1 \(BatchNorm2d\): NaN or infinity among the values of its running_var",
    ),
    "a hook": (lambda: [hooked(nn.ReLU())], r"1 \(ReLU\): Keras's ReLU computes something else"),
    "complex": (lambda: [nn.Conv2d(8, 2, 1, dtype=torch.complex64)], "torch.complex64, which can't be written"),
    "two models": (lambda: [VGG19(weights=None, include_top=False, input_shape=(3, 32, 32))], "input"),
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small(tmp_path_factory.mktemp("narrow") / "base")


@pytest.mark.parametrize("name", REFUSED)
def test_what_keras_has_not_is_refused_by_name(name: str, narrow: Model, tmp_path: Path) -> None:
    head, message = REFUSED[name]
    path = tmp_path / "mine.safetensors"
    path.write_text("before")
    with pytest.raises(ValueError, match=message) as caught:
        save_model(nn.Sequential(narrow, *head()), path)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "before"


IN_PLACE = (nn.LeakyReLU(0.2, True), nn.ELU(0.5, True), nn.SELU(True), nn.SiLU(True), nn.Mish(True), nn.Hardswish(True))


@torch.no_grad()
@pytest.mark.parametrize("activation", [*IN_PLACE, nn.CELU(inplace=True), nn.Hardsigmoid(True)], ids=repr)
def test_what_works_in_place(activation: nn.Module, narrow: Model, tmp_path: Path) -> None:
    for number, model in enumerate((nn.Sequential(narrow, activation), nn.Sequential(activation, narrow))):
        save_model(model, tmp_path / f"{number}.safetensors")
        x = torch.randn(1, 3, 64, 64)
        assert relative_error(load_model(tmp_path / f"{number}.safetensors")(x), model.eval()(x.clone())) <= 1e-6


@torch.no_grad()
def test_a_convolution_in_front_gives_the_channels(narrow: Model, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), narrow)
    save_model(model, tmp_path / "grey.safetensors")
    again = load_model(tmp_path / "grey.safetensors")
    assert again.input_shape == (None, 1, 64, 64)
    x = torch.randn(1, 1, 64, 64)
    assert relative_error(again(x), model.eval()(x)) <= 1e-6


def test_random_numbers_warn_of_nothing(narrow: Model, tmp_path: Path) -> None:
    """Those that a model with a preprocess_input is compared on are no pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(nn.Sequential(layers.PreprocessInput(), narrow), tmp_path / "mine.safetensors")
        convert(tmp_path / "mine.safetensors", tmp_path / "home.weights.h5")


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        (
            lambda own: nn.Sequential(nn.Linear(2, 3)),
            "a.safetensors",
            "expected a VGG16, a VGG19, what load_model returns",
        ),
        (lambda own: nn.Linear(2, 3), "a.safetensors", "Received: Linear; make it an nn.Sequential of that model"),
        (lambda own: optimize_for_inference(own, native=False), "a.safetensors", "what optimize_for_inference made of"),
        (
            lambda own: nn.Sequential(optimize_for_inference(own, native=False), nn.Flatten(), nn.Linear(32, 2)),
            "a.safetensors",
            r"0 .OptimizedModel.: it is what optimize_for_inference made of a model; put that model in its place",
        ),
        (lambda own: nn.Sequential(*own.children()), "a.safetensors", "Received: Sequential without one; make it"),
        (
            lambda own: dense(VGG16(weights=None, input_shape=(3, 32, 32), classes=2)),
            "a.safetensors",
            "what dense made",
        ),
        (lambda own: own.state_dict(), "a.safetensors", "save_model: expected a module. Received: OrderedDict"),
        (lambda own: own, "a.pt", r"expected a name that ends in .safetensors. Received: .*a.pt"),
        (
            lambda own: hooked(own),
            "a.safetensors",
            "what was written computes something else; a hook may change outputs",
        ),
    ],
)
def test_what_is_no_model_is_refused(model: Any, path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_model(model(small(tmp_path / "base")), tmp_path / path)
    assert [each.name for each in tmp_path.iterdir()] == ["base.keras"]


def test_what_an_h5_cannot_say(tmp_path: Path) -> None:
    nested = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 2))
    save_model(nn.Sequential(small(tmp_path / "a"), nested), tmp_path / "mine.safetensors")
    with pytest.raises(
        ValueError, match=r"sequential: in an .h5 the order of a nested model's arrays depends .*name a .weights.h5"
    ):
        convert(tmp_path / "mine.safetensors", tmp_path / "home.h5")
    assert not (tmp_path / "home.h5").exists()


def test_every_layer_remembers_its_arguments() -> None:
    """Those of a base class, of keywords and by position; an instance of a subclass doesn't."""
    assert layers.LSTM(3, 4, return_sequences=True).keras_arguments == {
        "in_features": 3,
        "units": 4,
        "return_sequences": True,
    }
    assert layers.DepthwiseConv2D(3, 2, padding="same").keras_arguments == {
        "in_channels": 3,
        "kernel_size": 2,
        "padding": "same",
    }
    assert layers.ELU(0.5).keras_arguments == {"alpha": 0.5}
