"""`load_image` against Keras's `load_img` and `img_to_array`, pixel for pixel; and which files a name stands for."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from torchvgg import VGG16, load_image, load_model, preprocess_input
from torchvgg.image_files import (
    INTERPOLATIONS,
    PREPROCESSINGS,
    find_images,
    image_size,
    load_for,
    pipeline_for,
    preprocess,
    preprocessing_of,
)
from torchvgg.layers import CenterCrop, Conv2D, Normalization, PreprocessInput, Rescaling, Resizing
from torchvgg.model import Model

from ..helpers.heads import HEADS, L
from ..helpers.photos import photo

KINDS: dict[str, Callable[[Path], Any]] = {
    "colour.jpg": lambda path: photo().save(path),
    "cmyk.jpg": lambda path: photo().convert("CMYK").save(path),
    "grey.jpg": lambda path: photo().convert("L").save(path),
    "turned.jpg": lambda path: photo().save(path, exif=orientation(6)),
    "colour.png": lambda path: photo().save(path),
    "alpha.png": lambda path: with_alpha().save(path),
    "grey_alpha.png": lambda path: with_alpha().convert("LA").save(path),
    "palette.png": lambda path: photo().quantize(32).save(path),
    "palette_alpha.png": lambda path: photo().quantize(32).save(path, transparency=3),
    "black_and_white.png": lambda path: photo().convert("1").save(path),
    "sixteen_bits.png": lambda path: Image.fromarray(sixteen_bits()).save(path),
    "sixteen_bits.tif": lambda path: Image.fromarray(sixteen_bits()).save(path),
    "floats.tif": lambda path: Image.fromarray(sixteen_bits().astype(np.float32)).save(path),
    "animated.gif": lambda path: photo().save(path, save_all=True, append_images=[photo("coffee.png")]),
    "colour.bmp": lambda path: photo().save(path),
    "colour.webp": lambda path: photo().save(path),
    "colour.ppm": lambda path: photo().save(path),
    "jpeg_called.png": lambda path: photo().save(path, "JPEG"),
}


def orientation(number: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def with_alpha() -> Any:
    image = photo()
    image.putalpha(photo("coffee.png", image.size).convert("L"))
    return image


def sixteen_bits() -> np.ndarray:
    return (np.asarray(photo().convert("L")).astype(np.uint16) * 7 + 90).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name, write in KINDS.items():
        write(folder / name)
    return folder


def keras_image(path: Path, **arguments: Any) -> torch.Tensor:
    array = keras.utils.img_to_array(keras.utils.load_img(path, **arguments), data_format="channels_first")
    return torch.from_numpy(array)[None]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("color_mode", ["rgb", "grayscale", "rgba"])
@pytest.mark.parametrize("size", [(224, 224), (61, 300), None])
def test_load_image_is_keras(name: str, color_mode: str, size: tuple[int, int] | None, folder: Path) -> None:
    path = folder / name
    expected = keras_image(path, color_mode=color_mode, target_size=size)
    received = load_image(path, size, color_mode=color_mode)
    assert received.dtype == torch.float32
    assert received.is_contiguous()
    assert received.shape[1] == {"rgb": 3, "grayscale": 1, "rgba": 4}[color_mode]
    torch.testing.assert_close(received, expected, rtol=0, atol=0)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_every_interpolation_is_keras(interpolation: str, folder: Path) -> None:
    path = folder / "colour.jpg"
    expected = keras_image(path, target_size=(97, 131), interpolation=interpolation)
    torch.testing.assert_close(load_image(path, (97, 131), interpolation=interpolation), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(97, 131), (200, 60), (60, 200), (300, 451), (451, 300), (1, 7)])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_keeping_the_aspect_ratio_is_keras(size: tuple[int, int], interpolation: str, folder: Path) -> None:
    arguments: dict[str, Any] = {"interpolation": interpolation, "keep_aspect_ratio": True}
    for name in ("colour.jpg", "turned.jpg"):
        expected = keras_image(folder / name, target_size=size, **arguments)
        torch.testing.assert_close(load_image(folder / name, size, **arguments), expected, rtol=0, atol=0)


def torchvision_image(path: Path, resize: int | None, crop: tuple[int, int], interpolation: str) -> torch.Tensor:
    """What torchvision's `Resize` and `CenterCrop` do to an image of Pillow's, step by step."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if resize:
        short, long = (width, height) if width <= height else (height, width)
        new_short, new_long = resize, int(resize * long / short)
        new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
        image = image.resize((new_width, new_height), Image.Resampling[interpolation.upper()])
    width, height = image.size
    top, left = int(round((height - crop[0]) / 2.0)), int(round((width - crop[1]) / 2.0))  # noqa: RUF046
    image = image.crop((left, top, left + crop[1], top + crop[0]))
    return torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float()[None]


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize(
    ("resize", "crop", "interpolation"),
    [(256, (224, 224), "bilinear"), (97, (96, 60), "bicubic"), (64, (64, 63), "nearest"), (None, (50, 81), "nearest")],
)
def test_resizing_and_cropping_is_torchvisions(
    turns: int, resize: int | None, crop: tuple[int, int], interpolation: str, tmp_path: Path
) -> None:
    photo("coffee.png", (145, 101)).rotate(90 * turns, expand=True).save(tmp_path / "image.png")
    expected = torchvision_image(tmp_path / "image.png", resize, crop, interpolation)
    received = load_image(tmp_path / "image.png", resize, crop=crop, interpolation=interpolation)
    torch.testing.assert_close(received, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("how", "mode"), [("vgg", "caffe"), ("signed", "tf"), ("torchvision", "torch")])
def test_preprocessing_is_keras(how: str, mode: str) -> None:
    """But for rounding: torchvision's is computed in another order."""
    x = torch.from_numpy(np.asarray(photo())).permute(2, 0, 1)[None].float()
    expected = keras.applications.imagenet_utils.preprocess_input(x.numpy().copy(), "channels_first", mode)
    torch.testing.assert_close(preprocess(x, how), torch.from_numpy(expected.copy()), rtol=0, atol=1e-6)


OPEN, SQUARE = (3, None, None), (3, 48, 48)
PIPELINES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "the default": (SQUARE, {}, ((48, 48), None)),
    "of an open size": (OPEN, {}, ((224, 224), None)),
    "a shorter side": (SQUARE, {"resize": 64}, (64, (48, 48))),
    "a shorter side, open": (OPEN, {"resize": 64}, (64, (64, 64))),
    "the model's as shorter side": (SQUARE, {"resize": 48}, (48, (48, 48))),
    "a size": (SQUARE, {"resize": (64, 50)}, ((64, 50), (48, 48))),
    "a size, open": (OPEN, {"resize": (64, 50)}, ((64, 50), None)),
    "both": (OPEN, {"resize": 256, "crop": 224}, (256, (224, 224))),
    "a crop alone": (OPEN, {"crop": (40, 50)}, (None, (40, 50))),
    "one side open": ((3, None, 48), {"resize": 64}, (64, (64, 48))),
    "too small": (SQUARE, {"resize": 40}, "expected to give the model's size, 48×48. Received: 40×40"),
    "another crop": (SQUARE, {"crop": 40}, "expected to give the model's size, 48×48. Received: 40×40"),
    "a crop too large": (
        OPEN,
        {"resize": 200, "crop": 224},
        r"crop: expected no more than resize=200 leaves. Received: \(224, 224\)",
    ),
    "no size": (OPEN, {"resize": 0}, r"resize: expected a number or \(height, width\), 1 or more each. Received: 0"),
    "no crop": (OPEN, {"crop": (1, 2, 3)}, r"crop: expected a number or \(height, width\), 1 or more each"),
    "interpolation": (OPEN, {"interpolation": "area"}, "interpolation: expected one of nearest, bilinear"),
    "of grey": (
        (1, 48, 48),
        {"preprocessing": "torchvision"},
        "'torchvision' is for RGB. Received: a model of images with 1 channels",
    ),
}


def test_grey_images_as_vgg_wants_them(tmp_path: Path) -> None:
    photo(size=(48, 48)).save(tmp_path / "a.png")
    model = Model({"conv": Conv2D(1, 1, 1)}, (1, 48, 48), "model")
    raw = load_image(tmp_path / "a.png", (48, 48), color_mode="grayscale")
    assert torch.equal(load_for(model, tmp_path / "a.png"), raw)
    assert (load_for(model, tmp_path / "a.png", preprocessing="vgg") - (raw - 344.398 / 3)).abs().max() <= 1e-4


@pytest.mark.parametrize("case", PIPELINES)
def test_every_image_comes_out_in_the_models_size(case: str, tmp_path: Path) -> None:
    shape, choices, expected = PIPELINES[case]
    model = Model({"conv": Conv2D(shape[0], 1, 1)}, shape, "model")
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            pipeline_for(model, **choices)
        return
    pipeline = pipeline_for(model, **choices)
    assert (pipeline.resize, pipeline.crop) == expected
    for size in ((120, 90), (90, 120)):
        photo("coffee.png", size).save(tmp_path / "image.png")
        assert pipeline.load(tmp_path / "image.png").shape == (1, shape[0], *pipeline.size)


def test_sizes_of_numpy_and_lists(folder: Path) -> None:
    path, expected = folder / "colour.jpg", load_image(folder / "colour.jpg", 100, crop=(64, 50))
    assert torch.equal(load_image(path, np.int64(100), crop=[np.int64(64), 50]), expected)
    assert torch.equal(load_image(path, [70, 60]), load_image(path, (70, 60)))
    model = VGG16(weights=None, include_top=False)
    expected_pipeline = pipeline_for(model, resize=(70, 60), crop=50)
    assert str(pipeline_for(model, resize=[np.int64(70), 60], crop=np.int64(50))) == str(expected_pipeline)


def test_an_image_smaller_than_the_crop_is_refused(tmp_path: Path) -> None:
    photo("coffee.png", (60, 50)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: the crop of 40×70 is larger than the image, 50×60"):
        load_image(tmp_path / "small.png", None, crop=(40, 70))


FIRST: dict[str, tuple[list[Any], str, set[str]]] = {  # what is assumed, and what is certainly done twice
    "nothing": ([], "vgg", set()),
    "Rescaling": ([Rescaling(1 / 255)], "none", {"vgg", "unit", "signed", "torchvision"}),
    "preprocess_input": ([PreprocessInput()], "none", {"vgg", "unit", "signed", "torchvision"}),
    "resized first": (
        [Resizing(40, 40), CenterCrop(32, 32), Rescaling(1 / 255)],
        "none",
        {"vgg", "unit", "signed", "torchvision"},
    ),
    "pixels normalized": (
        [Normalization(mean=[123.0, 117, 104], variance=[1.0, 1, 1])],
        "none",
        {"vgg", "unit", "signed", "torchvision"},
    ),
    "scaled images normalized": ([Normalization(mean=[0.5, 0.5, 0.4], variance=[1.0, 1, 1])], "none", set()),
    "scaled images scaled back": ([Rescaling(255.0)], "none", set()),
}


@pytest.mark.parametrize("case", FIRST)
def test_preprocessing_twice_is_told(case: str) -> None:
    layers, default, twice = FIRST[case]
    children = {f"layer{number}": layer for number, layer in enumerate([*layers, Conv2D(3, 1, 1)])}
    model = Model(children, (3, 48, 48), "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipeline_for(model).preprocessing == default
        for how in {*PREPROCESSINGS} - twice:
            pipeline_for(model, preprocessing=how)
    for how in twice:
        with pytest.warns(UserWarning, match=rf"'{how}', but the model's layer layer\d preprocesses already") as seen:
            pipeline_for(model, preprocessing=how)
        assert seen[0].filename == __file__


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), r"floats in \[0, 1\], which become black in 8 bits, as in Keras"),
        (np.linspace(0, 255, 64, dtype=np.float32), None),
        (np.zeros(64, np.float32), None),
        (np.arange(0, 65536, 1024, dtype=np.uint16), "pixels above 255, which become 255 in 8 bits, as in Keras"),
        (np.arange(64, dtype=np.uint16), None),
        (np.arange(64, dtype=np.uint8), None),
    ],
)
def test_pixels_that_8_bits_cannot_hold_are_told(values: np.ndarray, message: str | None, tmp_path: Path) -> None:
    """The pixels stay Keras's all the same."""
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "image.tif")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        received = load_image(tmp_path / "image.tif", None)
    assert torch.equal(received, keras_image(tmp_path / "image.tif"))
    assert [each.filename for each in caught] == [__file__] * (message is not None)
    if message:
        assert "an image has " in str(caught[0].message)
        with pytest.warns(UserWarning, match=message):
            load_image(tmp_path / "image.tif", None)


def test_the_options_are_the_librarys() -> None:
    from torchvgg.command_line import parser

    subparsers = parser()._subparsers
    assert subparsers
    (commands,) = (action.choices for action in subparsers._group_actions)
    for name in ("predict", "extract", "show", "evaluate"):
        choices = {action.dest: action.choices for action in commands[name]._actions}
        assert choices["interpolation"] == INTERPOLATIONS
        assert choices["preprocessing"] == (*PREPROCESSINGS, *(("each",) if name == "evaluate" else ()))
        assert {"resize", "crop", "keep_aspect_ratio", "exif"} <= choices.keys()


def test_exif_turns_the_image_if_asked(folder: Path) -> None:
    lying = load_image(folder / "turned.jpg", None)
    standing = load_image(folder / "turned.jpg", None, exif=True)
    torch.testing.assert_close(standing, lying.rot90(-1, (2, 3)), rtol=0, atol=0)  # orientation 6: a quarter clockwise
    plain = load_image(folder / "colour.jpg", None)
    torch.testing.assert_close(load_image(folder / "colour.jpg", None, exif=True), plain, rtol=0, atol=0)


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"^{path}: no plain file, but a pipe or a device; name a file$"):
            load_image(path)


def test_what_else_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        load_image(folder / "missing.jpg")
    with pytest.raises(IsADirectoryError):
        load_image(folder)
    with pytest.raises(
        ValueError, match=r"path: expected .* Received: Image; .* preprocess_input\(np.array\(image\), "
    ):
        load_image(Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match=r"color_mode: expected one of grayscale, rgb, rgba. Received: 'bgr'"):
        load_image(folder / "colour.jpg", color_mode="bgr")
    with pytest.raises(ValueError, match=r"interpolation: expected one of nearest, .* Received: 'area'"):
        load_image(folder / "colour.jpg", interpolation="area")
    with pytest.raises(
        ValueError, match=r"size: expected a number or \(height, width\), 1 or more each. Received: \(0, 5\)"
    ):
        load_image(folder / "colour.jpg", (0, 5))


@pytest.mark.parametrize(
    ("head", "expected"),
    [("augmented_and_rescaled", "none"), ("nested_flatten", "vgg"), ("preprocessed_in_the_graph", "none")],
)
def test_preprocessing_is_what_the_model_needs(head: str, expected: str, tmp_path: Path, folder: Path) -> None:
    """What Keras's `predict` gets for such a model, ours gets."""
    HEADS[head]().save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    assert preprocessing_of(model) == expected
    raw = load_image(folder / "colour.jpg", image_size(model))
    wanted = preprocess_input(raw) if expected == "vgg" else raw
    assert torch.equal(load_for(model, folder / "colour.jpg"), wanted)
    assert torch.equal(load_for(model, folder / "colour.jpg", preprocessing="unit"), raw / 255)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda x: keras.ops.cast(x, "float32"), "none"),
        (L.GaussianNoise(0.1), "none"),
        (L.Cropping2D(2), "none"),
        (L.BatchNormalization(), "vgg"),
    ],
    ids=["cast", "noise", "crop", "with weights"],
)
def test_preprocessing_behind_other_layers_is_seen(before: Any, expected: str, tmp_path: Path) -> None:
    """Whatever has no weights before it was learned on pixels; what comes after some may scale features."""
    image = keras.Input((36, 36, 3))
    keras.Model(image, L.Conv2D(4, 3)(L.Rescaling(1 / 255)(before(image)))).save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    assert preprocessing_of(model) == expected
    if expected == "none":
        with pytest.warns(UserWarning, match="the model's layer rescaling.* preprocesses already"):
            pipeline_for(model, preprocessing="vgg")


def test_a_model_of_grey_images_gets_grey_ones(folder: Path) -> None:
    model = VGG16(weights=None, include_top=False, input_shape=(1, 40, 48))
    x = load_for(model, folder / "colour.jpg")
    assert torch.equal(x, keras_image(folder / "colour.jpg", color_mode="grayscale", target_size=(40, 48)))
    with pytest.raises(ValueError, match=r"images with 1, 3 or 4 channels. Received: one with 2"):
        load_for(VGG16(weights=None, include_top=False, input_shape=(2, 40, 48)), folder / "colour.jpg")
    with pytest.raises(
        ValueError, match=r"preprocessing: expected one of vgg, unit, signed, torchvision, none. Received: 'tf'"
    ):
        preprocess(x, "tf")


def test_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.webp", "deep/d.gif", "e.ppm", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_images(["."]) == ["./a.PNG", "./b.jpg", "./deep/d.gif", "./deep/er/c.webp", "./e.ppm", "./odd[1].jpg"]
    assert find_images(["deep", "b.jpg", "deep/d.gif"]) == ["deep/d.gif", "deep/er/c.webp", "b.jpg"]
    assert find_images(["*.jpg"]) == ["b.jpg", "odd[1].jpg"]
    assert find_images(["**/*.gif", "odd[1].jpg", "notes.txt"]) == ["deep/d.gif", "odd[1].jpg", "notes.txt"]
    for missing in ("missing.jpg", "missing/", ""):
        with pytest.raises(FileNotFoundError, match=f"^{missing}: no such file or folder"):
            find_images(["b.jpg", missing])
    os.mkfifo(tmp_path / "empty" / "pipe.jpg")
    with pytest.raises(ValueError, match=r"empty: no images in it; expected files that end in \.bmp"):
        find_images(["empty"])
    with pytest.raises(ValueError, match=r"\*\.bmp: no file matches"):
        find_images(["*.bmp"])
    with pytest.raises(ValueError, match="expected at least one image"):
        find_images([])
