"""What the tests with hostile files have in common: changes of Keras 2's files, and archives with other members."""

import ctypes
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from torchvgg import VGG16

ROOT = Path(__file__).parents[2]
KERAS2 = Path(__file__).parents[1].joinpath("data") / "keras2"
GROUP = "model_weights/dense"
KERNEL, BIAS = f"{GROUP}/dense/kernel:0", f"{GROUP}/dense/bias:0"  # (96, 2), (2,)
Change = Callable[[h5py.File], object]


class Watch:
    """Tells whether anyone, the HDF5 library too, has opened a file since."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(path), 0x20) > 0  # IN_OPEN

    def was_opened(self) -> bool:
        with open(self.descriptor, "rb", buffering=0) as events:
            return bool(events.read(4096))


Refused = Callable[..., None]


def processor_time() -> float:
    """Seconds that this process and the ones it has waited for have computed: a busy machine doesn't add to them."""
    return sum(os.times()[:4])


def headless_vgg(path: Path) -> object:
    return VGG16(weights=path, include_top=False)


def right_file(file: h5py.File) -> str:
    """Beside the hostile file lies a whole one: to follow a link to it would succeed."""
    return str(Path(file.filename).with_name("right"))


def link(name: str, target: str | None = None, soft: bool = False) -> Change:
    """Puts a link in the place of `name`: to a place in this file, or to a place in the right one."""

    def change(file: h5py.File) -> None:
        place = target or f"/{name}"
        new = h5py.SoftLink(place) if soft else h5py.ExternalLink(right_file(file), place)
        del file[name]
        file[name] = new

    return change


def put(name: str, *arguments: Any, **options: Any) -> Change:
    """Puts another dataset in the place of `name`."""

    def change(file: h5py.File) -> None:
        file.pop(name, None)
        file.create_dataset(name, *arguments, **options)

    return change


def attribute(group: str, name: str, value: Any, **options: Any) -> Change:
    return lambda file: file[group].attrs.create(name, value, **options)


def external_storage(file: h5py.File) -> None:
    right = h5py.File(right_file(file))
    put(KERNEL, (96, 2), "f", external=[(right_file(file), right[KERNEL].id.get_offset(), 768)])(file)


def bomb(rows: int) -> Change:
    """Zeros: 8 MB of them in each stored 8 KB."""

    def change(file: h5py.File) -> None:
        put(KERNEL, (rows, 2048), "f", chunks=(1024, 2048), compression="gzip")(file)
        chunk = zlib.compress(bytes(1024 * 2048 * 4))
        for row in range(0, rows, 1024):
            file[KERNEL].id.write_direct_chunk((row, 0), chunk)

    return change


def changed(source: str, change: Change, folder: Path) -> Path:
    """A copy of one of Keras 2's files, with its HDF5 content changed; `right` beside it is what it was."""
    path, right = folder / source, folder / "right"
    archive = source.endswith(".keras")
    content = member_of(source, "model.weights.h5") if archive else (KERAS2 / source).read_bytes()
    right.write_bytes(content)
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        change(file)
    if archive:
        rezip(path, {"model.weights.h5": path.read_bytes()})
    return path


def member_of(source: str, name: str) -> bytes:
    with zipfile.ZipFile(KERAS2 / source) as archive:
        return archive.read(name)


def rezip(path: Path, new: dict[Any, bytes | None], deflated: bool = False) -> None:
    """Writes trained.keras with other members, or, under names of their own, with more of them."""
    names = ("metadata.json", "config.json", "model.weights.h5")
    members = {name: member_of("trained.keras", name) for name in names} | new
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def members(new: dict[Any, bytes | None], deflated: bool = False) -> Callable[[Path], None]:
    return lambda path: rezip(path, new, deflated)


CONFIG = member_of("trained.keras", "config.json")
W = "model.weights.h5"


@contextmanager
def changed_config(path: Path) -> Iterator[dict[str, Any]]:
    """The configuration of the model in a `.keras`, to be changed in place."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = json.loads(members["config.json"])
    yield whole["config"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(whole) if name == "config.json" else content)
