"""The ImageNet weights that Keras publishes: their names and hashes, where they are looked for, fetching them."""

import os
from pathlib import Path
from typing import NamedTuple

from .atomic_files import md5
from .download import download


class Published(NamedTuple):
    """One published file: its folder at `ADDRESS`, its name, its size in bytes, its MD5."""

    folder: str
    filename: str
    size: int
    md5: str


# Names and hashes as in Keras's source, keras/src/applications/vgg16.py and vgg19.py; sizes as others have published them.
ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications"
_FILENAME = "{0}_weights_tf_dim_ordering_tf_kernels{1}.h5"
FILES = {
    "vgg16": Published("vgg16", _FILENAME.format("vgg16", ""), 553_467_096, "64373286793e3c8b2b4e3219cbf3544b"),
    "vgg16-notop": Published(
        "vgg16", _FILENAME.format("vgg16", "_notop"), 58_889_256, "6d6bbae143d832006294945121d1f1fc"
    ),
    "vgg19": Published("vgg19", _FILENAME.format("vgg19", ""), 574_710_816, "cbe5617147190e668d6c5d5026f83318"),
    "vgg19-notop": Published(
        "vgg19", _FILENAME.format("vgg19", "_notop"), 80_134_624, "253f8cb515780f3b799900260a226db6"
    ),
}


def home() -> Path:
    """Returns the folder where torchvgg keeps files: `$TORCHVGG_HOME`, else `torchvgg/` in PyTorch's hub folder.

    Raises:
        OSError: it lies in the home folder of a user who has none.
    """
    if not (folder := os.environ.get("TORCHVGG_HOME")):
        import torch.hub

        folder = f"{torch.hub.get_dir()}/torchvgg"
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise OSError(f"{folder}: no home folder is known; set TORCHVGG_HOME to another folder") from None


def converted_path(name: str) -> Path:
    """Returns where the converted file of a published one is kept."""
    return home() / f"{name}.safetensors"


def find(name: str) -> Path:
    """Returns a published file whose MD5 is right: put in `home` by hand, fetched earlier, fetched by Keras, or fetched now.

    Raises:
        ValueError: a file of the right name in `home` has the wrong hash.
        OSError: it can't be fetched, or written.
    """
    published = FILES[name]
    ours = home() / published.filename
    if ours.is_file():
        if (received := md5(ours)) != published.md5:
            raise ValueError(
                f"{ours}: expected MD5 {published.md5}. Received: {received}; delete it, or put the right one there"
            )
        return ours
    keras = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"), "models", published.filename)  # noqa: PTH111, which never fails
    if keras.is_file() and md5(keras) == published.md5:
        return keras
    mirror = os.environ.get("TORCHVGG_MIRROR")
    folder = mirror.rstrip("/") if mirror else f"{ADDRESS}/{published.folder}"
    download(f"{folder}/{published.filename}", ours, published.size, published.md5)
    return ours
