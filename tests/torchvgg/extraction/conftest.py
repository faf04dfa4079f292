"""A small model, and photos with bad ones among them."""

from pathlib import Path
from typing import Any

import pytest

from torchvgg import load_model
from torchvgg.convert import convert

from ...helpers.features import SIZE
from ...helpers.keras_models import keras_model
from ...helpers.photos import write_photos


@pytest.fixture(scope="module")
def theirs() -> Any:
    return keras_model(classes=10, input_shape=(SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def weights(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.h5"
    theirs.save(path)
    converted = path.with_suffix(".safetensors")
    convert(path, converted, check=False)
    path.unlink()
    return converted


@pytest.fixture(scope="module")
def model(weights: Path) -> Any:
    return load_model(weights)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen good images in a folder, and between them two bad ones."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 19)
    (folder / "004b.jpg").write_bytes((folder / "004.jpg").read_bytes()[:900])
    (folder / "011b.png").write_text("no image")
    return folder
