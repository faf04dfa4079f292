"""The figures of `plot_maps` and `plot_cam`: what they draw, of which inputs, and how a notebook shows them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from torchvgg import plot_cam, plot_maps

from ..helpers.photos import photo

ROOT = Path(__file__).parents[2]
PHOTO = np.asarray(photo(size=(90, 60)))  # (60, 90, 3)


def drawn(figure: Any, panel: int) -> np.ndarray:
    (image,) = figure.axes[panel].images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def test_plot_maps_draws_each_map_in_its_place() -> None:
    maps = torch.rand(5, 8, 8) * torch.arange(1, 6)[:, None, None] + 5
    maps[3] = 7
    figure = plot_maps(maps[None].requires_grad_(), PHOTO, "cat.jpg", most=4)
    assert np.array_equal(drawn(figure, 0), PHOTO)  # in its own size and proportions
    grid = drawn(figure, 1)
    assert grid.shape == (20, 20)  # 2 by 2, with a margin around each
    for number, scaled in enumerate(
        (maps - maps.amin((1, 2), True)) / (maps.amax((1, 2), True) - maps.amin((1, 2), True))
    ):
        row, column = divmod(number, 2)
        tile = grid[10 * row + 1 : 10 * row + 9, 10 * column + 1 : 10 * column + 9]
        if number < 3:
            assert np.allclose(tile, scaled, atol=1e-6)
    assert np.isnan(grid[0]).all()
    assert not grid[11:19, 11:19].any()  # a flat map, which is dark
    texts = figure.axes[1].texts
    assert [text.get_text() for text in texts] == ["0", "1", "2", "3"]
    assert [(text.get_position()[0] // 10, text.get_position()[1] // 10) for text in texts] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
    ]
    assert figure.axes[1].get_title() == "4 of 5 maps"
    assert figure.axes[1].get_aspect() == 60 / 90  # the maps have the photograph's proportions
    assert figure.get_suptitle() == "cat.jpg"
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["least", "largest"]


def test_plot_cam_lays_the_map_over_the_photograph() -> None:
    cam = torch.zeros(1, 2, 2)
    cam[0, 0, 0] = 1
    figure = plot_cam(cam, PHOTO, "cat.jpg")
    assert np.array_equal(drawn(figure, 0), PHOTO)
    overlay = drawn(figure, 1)
    assert overlay.shape == PHOTO.shape
    hot, cold = (np.array(mpl.colormaps["turbo"](value)[:3]) for value in (1.0, 0.0))
    for place, colour in (((0, 0), hot), ((-1, -1), cold)):
        assert np.allclose(overlay[place], 0.55 * PHOTO[place] / 255 + 0.45 * colour, atol=0.05)
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["0", "0.5", "1"]
    alone = plot_cam(cam[0].numpy(), cmap="gray")
    assert np.array_equal(drawn(alone, 0), cam[0])
    assert alone.axes[0].images[0].cmap.name == "gray"


FORMS: dict[str, Any] = {
    "channels first": PHOTO.transpose(2, 0, 1),
    "a batch of one": torch.from_numpy(PHOTO.transpose(2, 0, 1).copy())[None].float(),  # as load_image returns it
    "in [0, 1]": PHOTO / 255,
    "of Pillow": Image.fromarray(PHOTO),
    "with alpha": np.dstack([PHOTO, PHOTO[..., :1]]),
    "mirrored": PHOTO[:, ::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_any_photograph(form: str) -> None:
    received = drawn(plot_maps(np.zeros((3, 4, 4)), FORMS[form]), 0)
    expected = PHOTO[:, ::-1] if form == "mirrored" else PHOTO
    assert np.abs(received - expected).max() <= (1 if form == "in [0, 1]" else 0)


def test_a_grey_photograph() -> None:
    assert np.array_equal(drawn(plot_cam(torch.ones(2, 2), PHOTO[..., 0]), 0), np.dstack([PHOTO[..., 0]] * 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": torch.zeros(2, 3, 4, 4)}, r"maps: expected \(C, h, w\) or \(1, C, h, w\). Received shape: \(2, 3, 4, 4\)"),
        ({"maps": torch.zeros(0, 4, 4)}, "expected at least one map"),
        ({"most": 0}, "expected at least one map"),
        ({"cmap": "virdis"}, "cmap: matplotlib has no colour map called 'virdis'; did you mean viridis"),
        ({"cmap": "-"}, "cmap: .* see matplotlib.colormaps"),
        ({"maps": {"block1_conv1": torch.zeros(3, 4, 4)}}, "maps: expected a tensor or an array. Received: dict"),
        ({"image": "cat.jpg"}, r"image: expected .* Received shape: \(\), of a str"),
        ({"image": np.zeros((5, 6, 7))}, r"image: expected \(H, W, 3\) or \(3, H, W\). Received shape: \(5, 6, 7\)"),
        ({"image": torch.zeros(2, 3, 4, 4)}, "image: expected"),
        ({"image": PHOTO - 120.0}, r"RGB in \[0, 255\]. .* pass the photograph, not what preprocess_input returns"),
        ({"image": np.full((4, 4, 3), np.nan)}, r"RGB in \[0, 255\]. Received: values from nan to nan"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_maps(**{"maps": torch.zeros(3, 4, 4)} | arguments)


@pytest.mark.parametrize("cam", [5 * torch.ones(2, 2), -torch.ones(2, 2), torch.full((2, 2), torch.nan)])
def test_a_map_of_another_range(cam: torch.Tensor) -> None:
    """It would be cut off."""
    with pytest.raises(ValueError, match=r"cam: expected values from 0 to 1. Received: "):
        plot_cam(cam, PHOTO)


def test_a_notebook_shows_the_figure() -> None:
    """As a PNG, with or without pyplot's own formatters; here without pyplot, a display or a warning."""
    code = """
import sys
import torch
from torchvgg import plot_maps
figure = plot_maps(torch.rand(3, 4, 4), title="a$b")
try:
    from IPython.core.formatters import PNGFormatter
    content = PNGFormatter()(figure)
except ImportError:
    content = figure._repr_png_()
print(content[:4] == b"\\x89PNG", "matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (process.stdout, process.stderr) == ("True False\n", "")
