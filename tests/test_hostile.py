"""Files from strangers: whatever is in one, it ends in one line, soon, and nothing is run, opened, or left behind."""

import ctypes
import json
import os
import pickle
import re
import stat
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from h5py import h5d, h5g, h5p, h5s, h5t, h5z
from torch import Tensor

from torchvgg import VGG16, load_model
from torchvgg.convert import convert, keras_file

from .command_line import run
from .keras_models import keras_model

ROOT = Path(__file__).parents[1]
KERAS2 = Path(__file__).with_name("data") / "keras2"
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


@pytest.fixture
def check_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Checks how a file is refused on the command line, and by `readers`."""

    def check(path: Path, message: str, *readers: Callable[[Path], object]) -> None:
        (temporary := tmp_path / "temporary").mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        before, target = sorted(tmp_path.iterdir()), tmp_path / "out.safetensors"
        for read in readers:
            started = time.monotonic()
            with pytest.raises(ValueError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)
            assert time.monotonic() - started < 10
        started = time.monotonic()
        assert run(path, "-o", target) == 1
        assert time.monotonic() - started < 10
        out, error = capsys.readouterr()
        assert (out, error[:7], error.count("\n")) == ("", "error: ", 1)
        assert str(path) in error
        assert re.search(message, error)
        assert len(error) < 3000
        assert sorted(tmp_path.iterdir()) == before
        assert list(temporary.iterdir()) == []

    return check


def headless_vgg(path: Path) -> object:
    return VGG16(weights=path, include_top=False)


# HDF5


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


def weight_names(*names: Any) -> Change:
    return attribute(GROUP, "weight_names", names, dtype=h5py.string_dtype())


def external_storage(file: h5py.File) -> None:
    right = h5py.File(right_file(file))
    put(KERNEL, (96, 2), "f", external=[(right_file(file), right[KERNEL].id.get_offset(), 768)])(file)


def virtual(source: str | None) -> Change:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((96, 2), "f")
        layout[...] = h5py.VirtualSource(source or right_file(file), KERNEL, (96, 2))
        del file[KERNEL]
        file.create_virtual_dataset(KERNEL, layout)

    return change


def unknown_filter(file: h5py.File) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((96, 2))
    plist.set_filter(31999, h5z.FLAG_OPTIONAL)
    del file[KERNEL]
    dataset = h5d.create(file[f"{GROUP}/dense"].id, b"kernel:0", h5t.IEEE_F32LE, h5s.create_simple((96, 2)), plist)
    dataset.write_direct_chunk((0, 0), bytes(768))


def odd_float(file: h5py.File) -> None:
    kind = h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    del file[KERNEL]
    h5d.create(file[f"{GROUP}/dense"].id, b"kernel:0", kind, h5s.create_simple((96, 2)))


def bomb(rows: int) -> Change:
    """Zeros: 8 MB of them in each stored 8 KB."""

    def change(file: h5py.File) -> None:
        put(KERNEL, (rows, 2048), "f", chunks=(1024, 2048), compression="gzip")(file)
        chunk = zlib.compress(bytes(1024 * 2048 * 4))
        for row in range(0, rows, 1024):
            file[KERNEL].id.write_direct_chunk((row, 0), chunk)

    return change


def declared(file: h5py.File) -> None:
    """An array that says to be longer than the file is, in its shape and in the length of what is stored."""
    offset = file[KERNEL].id.get_offset()
    file.flush()
    with open(file.filename, "rb+") as stream:
        content = stream.read()
        stored = struct.pack("<QQ", offset, 768)
        assert content.count(stored) == 1
        content = content.replace(stored, struct.pack("<QQ", offset, 8 * 10**8))
        stream.seek(0)
        stream.write(content.replace(struct.pack("<QQ", 96, 2), struct.pack("<QQ", 10**8, 2)))


def aliases(file: h5py.File) -> None:
    """One array under many names, more than the file could hold."""
    array = file.create_dataset("layers/dense/vars/2", data=np.ones(2**18, "f"))
    for number in range(3, 9):
        file[f"layers/dense/vars/{number}"] = array


def short_chunk(content: bytes, **options: Any) -> Change:
    """A chunk of 768 bytes, of which fewer are stored: HDF5 would return what lies in memory."""

    def change(file: h5py.File) -> None:
        put(KERNEL, (96, 2), "f", chunks=(96, 2), **options)(file)
        file[KERNEL].id.write_direct_chunk((0, 0), content)

    return change


def layer_names(file: h5py.File, change: Callable[[list[Any]], list[Any]]) -> None:
    group = file["model_weights"]
    group.attrs["layer_names"] = change(list(group.attrs["layer_names"]))


def half_float(file: h5py.File) -> None:
    put(KERNEL, data=np.ones((96, 2), "f2").view(h5py.opaque_dtype("V2")))(file)
    file[KERNEL].attrs["dtype"] = "float16"


def config(change: Callable[[Any], object]) -> Change:
    """Changes the last layer in the configuration."""

    def edit(file: h5py.File) -> None:
        whole = json.loads(file.attrs["model_config"])
        change(whole["config"]["layers"])
        file.attrs["model_config"] = json.dumps(whole)

    return edit


def cycle(file: h5py.File) -> None:
    file["layers/functional/layers/functional"] = file["layers/functional"]


def diamonds(file: h5py.File) -> None:
    """Few groups, and a million ways through them."""
    lower = file.create_group("bottom")
    for depth in range(19):
        upper = file.create_group(f"level{depth}")
        upper["layers/a"] = upper["layers/b"] = lower
        lower = upper
    file["layers/diamonds"] = lower


def empty_groups(file: h5py.File) -> None:
    for number in range(100_000):
        h5g.create(file["layers"].id, b"dense_%d" % number)


ODD_TYPES = [h5py.ref_dtype, h5py.regionref_dtype, [("a", "f"), ("b", "i")], "S4", h5py.string_dtype(), "c8", "?"]
ODD_TYPES += [h5py.vlen_dtype("f"), np.dtype(("f", (2,))), h5py.opaque_dtype("M8[s]"), h5py.enum_dtype({"A": 1})]
ODD_NAMES = [
    "../dense/kernel:0",
    "dense/../dense/kernel:0",
    "dense/./kernel:0",
    "dense//kernel:0",
    "dense/kernel:0/",
    "",
]
ODD_NAMES += ["/", f"/{KERNEL}", "dense", f"dense/{'k' * 10**6}", f"{'k/' * 10**5}k"]
MEAN = "model_weights/head/batch_normalization/moving_mean:0"
PACKINGS: dict[str, Any] = {"compression": "lzf", "fletcher32": True, "scaleoffset": 2}
OLD: list[tuple[Change, str]] = [  # with names
    *((link(name), "leads elsewhere") for name in (KERNEL, f"{GROUP}/dense", GROUP, "model_weights")),
    (link(KERNEL, "/optimizer_weights/Adam/m/dense/dense/kernel:0", soft=True), "leads elsewhere"),
    *((link(name, soft=True), "leads elsewhere|isn't there|no group") for name in (KERNEL, f"{GROUP}/dense", GROUP)),
    (link("model_weights", "/", soft=True), "leads elsewhere"),
    (external_storage, "kernel:0: its numbers lie in another file"),
    (virtual(None), "kernel:0: its numbers lie in another file"),
    (virtual("."), "kernel:0: its numbers lie in another file"),
    *((put(KERNEL, (96, 2), kind), "kernel:0: expected floating-point numbers") for kind in ODD_TYPES),
    *((put(KERNEL, data=np.ones((96, 2), kind)), "trained.h5") for kind in ("i1", "u2", ">i4", "i8")),
    (odd_float, "kernel:0: expected floating-point numbers"),
    (put(KERNEL, data=h5py.Empty("f")), "kernel:0: an array of no shape"),
    (unknown_filter, "kernel:0: packed by a filter that isn't known"),
    (put(KERNEL, (10**9, 1000), "f"), "kernel:0: 4,000,000,000,000 bytes are declared"),
    (declared, "kernel:0: 800,000,000 bytes are declared|invalid dataset size"),
    (put(KERNEL, (10**9, 1000), "f", chunks=(1, 1)), "kernel:0: 4,000,000,000,000 bytes are declared"),
    (put(KERNEL, (10**9, 1000), "f", chunks=(10**4, 10**3)), "kernel:0: 4,000,000,000,000 bytes are declared"),
    (put(KERNEL, (96, 2), "f", maxshape=(None, 2), chunks=(10**8, 2)), "kernel:0: "),
    (bomb(2**18), "kernel:0: 2,147,483,648 bytes are declared"),
    (bomb(2**15), r"kernel:0: expected shape \(96, 2\)"),  # as much as is unpacked
    *((attribute("model_weights", "layer_names", names), "'layer_names'") for names in (np.arange(4), [[b"vgg"]], 0.5)),
    (attribute("model_weights", "layer_names", np.full(20_001, b"vgg")), "'layer_names' is longer"),
    (attribute("model_weights", "layer_names", b"\xff"), "damaged|doesn't write"),
    (attribute("model_weights", "layer_names", [b"vgg", b"vgg"]), "trained.h5"),
    (attribute("/", "model_config", 3), "'model_config' holds no names"),
    (lambda file: file.attrs.__setitem__("model_config", "[" * 60_000), "model_config: deeper"),
    (attribute(GROUP, "weight_names", np.array([b"dense/kernel:0\0k", b"dense/bias:0"])), "isn't there|doesn't write"),
    (attribute(GROUP, "weight_names", [b"dense/kernel:0\xff", b"dense/bias:0"]), "damaged|isn't there|doesn't write"),
    *((weight_names(name, "dense/bias:0"), "isn't there|doesn't write|damaged|no group") for name in ODD_NAMES),
    (weight_names("dense/bias:0", "dense/kernel:0"), r"expected shape \(96, 2\)"),
    (weight_names("dense/kernel:0", "dense/kernel:0"), "two arrays of one name"),
    (weight_names("dense/kernel:0"), "'dense'.*expected the arrays"),
    (weight_names("dense/kernel:0", "dense/bias:0", "vgg"), "isn't there"),
    (lambda file: file.__delitem__(KERNEL), "isn't there"),
    (lambda file: file.__delitem__(GROUP), "layer 'dense' is named, but has no group"),
    (lambda file: file.move(KERNEL, f"{GROUP}/dense/kernel"), "isn't there"),
    (lambda file: file.move(GROUP, "model_weights/dense_1"), "layer 'dense' is named, but has no group"),
    *((put(KERNEL, data=np.ones(shape, "f")), r"expected shape \(96, 2\)") for shape in ((2, 96), 192, (96, 2, 1))),
]
OLD += [  # what a reviewer found
    (lambda file: layer_names(file, lambda names: names[::-1]), "another order than the architecture has them"),
    (lambda file: layer_names(file, lambda names: names + names[-1:]), "layer_names: two layers of one name"),
    (short_chunk(b"1234"), "kernel:0: a chunk that isn't stored whole"),
    (short_chunk(zlib.compress(bytes(767)), compression="gzip"), "kernel:0: a chunk that isn't stored whole"),
    (short_chunk(zlib.compress(bytes(769)), compression="gzip"), "kernel:0: a chunk that isn't stored whole"),
    *((put(KERNEL, data=np.ones((96, 2), "f"), **{k: v}), "packed by a filter") for k, v in PACKINGS.items()),
    (half_float, "kernel:0: two bytes a number, and not said to be bfloat16"),
    (attribute("/", "keras_version", "2." * 30_000), "keras_version: none that Keras writes"),
    (config(lambda layers: layers[-1].update(config=None)), "it has no configuration"),
    (config(lambda layers: layers[-1]["config"].update(activation="\x1b[2J\n")), r"the activation .*\[2J"),
    (config(lambda layers: layers[-1].update(class_name="\x1b[2J\n")), r"\(\?\[2J"),
    (config(lambda layers: layers.extend([layers[-1]] * 1000)), "a chain of up to 1,000 can be converted"),
    (config(lambda layers: layers[0]["config"].update(batch_input_shape=[None, 16.0, 24, 3])), "a model of images"),
    (config(lambda layers: layers[0]["config"].update(batch_input_shape=[None, True, 24, 3])), "a model of images"),
]
NEW: list[tuple[Change, str]] = [  # by places
    *(
        (link(name), "leads elsewhere")
        for name in ("layers", "layers/dense", "layers/dense/vars", "layers/dense/vars/0")
    ),
    (link("layers/dense/vars", "/layers", soft=True), "leads elsewhere"),
    (cycle, "nested deeper"),
    *(
        (lambda file, new=new: file.move("layers/dense/vars/1", f"layers/dense/vars/{new}"), "expected arrays 0, 1")
        for new in ("01", "2", "\u0661")
    ),
    (aliases, "1,048,576 bytes are declared, and not stored"),
    (diamonds, "more than 20000 groups"),
    (empty_groups, "more than 5000 members"),
    (put("layers/dense/vars/x", data=np.ones(2, "f")), "dense/vars: expected arrays 0, 1"),
    (lambda file: file.move("layers/dense/vars/0", "layers/dense/vars/-1"), "dense/vars: expected arrays 0, 1"),
]
PACKED: list[tuple[Change, str]] = [
    *((link(f"layers/dense{name}"), "leads elsewhere") for name in ("", "/vars/0")),
    (cycle, "nested deeper"),
    (put("layers/dense/vars/2", data=np.ones(2, "f")), "dense.*expected the arrays"),
    (put("vars/0", data=np.ones(2, "f")), "belong to no layer: vars/0"),
    (put("layers/evil/vars/0", data=np.ones(2, "i")), "belong to no layer: layers/evil/vars/0"),
    (put("layers/evil/vars/0", data=np.ones(2, "f")), "belong to no layer: layers/evil/vars/0"),
    (lambda file: file.__delitem__("layers/dense/vars/1"), "dense.*expected the arrays"),
    (lambda file: file.move("layers/dense", "layers/dense_1"), "dense.*expected the arrays"),
]
HDF5 = [("trained.h5", *row) for row in OLD] + [("trained.weights.h5", *row) for row in NEW]
HDF5 += [("trained.keras", *row) for row in PACKED]
HDF5 += [("functional.h5", put(MEAN, data=np.ones(4, "i4")), "functional.h5")]


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


@pytest.mark.parametrize(("source", "change", "message"), HDF5)
def test_hostile_hdf5(source: str, change: Change, message: str, tmp_path: Path, check_refused: Refused) -> None:
    path = changed(source, change, tmp_path)
    watch = Watch(tmp_path / "right")
    check_refused(path, message, *([headless_vgg] if source == "trained.weights.h5" else [load_model]))
    assert not watch.was_opened()


def test_a_file_in_which_the_library_finds_no_end(
    tmp_path: Path, check_refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heap has free space (an object 0) of 0 bytes, over which HDF5 goes again and again."""
    content = (KERAS2 / "trained.h5").read_bytes()
    place = content.index(b"tensorflow") - 16
    (path := tmp_path / "trained.h5").write_bytes(content[:place] + bytes(16) + content[place + 16 :])
    assert keras_file.SECONDS + 1 < 10
    monkeypatch.setattr(keras_file, "SECONDS", 1)
    check_refused(path, "the HDF5 library finds no end", load_model)


def test_the_right_file_is_right(tmp_path: Path) -> None:
    for source in ("trained.h5", "trained.keras"):
        watch = Watch(path := changed(source, lambda file: None, tmp_path))
        assert load_model(path).count_params() == 390
        assert watch.was_opened()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nonfinite_numbers(number: float, tmp_path: Path, check_refused: Refused) -> None:
    path = changed("trained.h5", lambda file: file[KERNEL].__setitem__((5, 1), number), tmp_path)
    check_refused(path, "dense/kernel:0: NaN or infinity")
    assert run(path, "--allow-nonfinite", "-q") == 0
    assert path.with_suffix(".safetensors").is_file()


def test_numbers_that_are_finite_only_in_the_file(tmp_path: Path, check_refused: Refused) -> None:
    path = changed("trained.h5", put(KERNEL, data=np.full((96, 2), 1e300)), tmp_path)
    check_refused(path, "dense/kernel:0: values beyond the range of float32")


@pytest.mark.parametrize("source", ["trained.h5", "flat.h5", "trained.keras", "ours.safetensors"])
def test_truncated_at_twenty_places(source: str, ours: Path, tmp_path: Path) -> None:
    content = (ours if source == "ours.safetensors" else KERAS2 / source).read_bytes()
    path = tmp_path / source
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load_model(path)
    assert list(tmp_path.iterdir()) == [path]


# .keras


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


def doubled(path: Path) -> None:
    rezip(path, {})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("config.json", b"{}")


def patched(member: str, field: int, form: str, value: int, local: int | None = None, deflated: bool = False) -> Any:
    """A change of a field of a member's entry in the directory, and at `local` in the member's own header."""

    def change(path: Path) -> None:
        rezip(path, {}, deflated)
        content = bytearray(path.read_bytes())
        name = content.rindex(member.encode())
        struct.pack_into(form, content, name - 46 + field, value)
        if local is not None:
            struct.pack_into(form, content, content.index(member.encode()) - 30 + local, value)
        path.write_bytes(content)

    return change


def symlink() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("assets")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


CONFIG = member_of("trained.keras", "config.json")
W = "model.weights.h5"
KERAS: list[tuple[Callable[[Path], None], str]] = [
    *((members({name: b""}), "leads out of the") for name in ("../x", "a/../../x", "/tmp/x", "C:/x", "a\\..\\x", "..")),
    (doubled, "two members of the name 'config.json'"),
    (patched("config.json", 8, "<H", 1, 6), "'config.json' is encrypted"),
    (patched(W, 8, "<H", 1), "'model.weights.h5' is encrypted"),
    (members({symlink(): b"/etc/passwd"}), "is a link"),
    (members({"config.json": bytes(300 << 20)}, deflated=True), "'config.json' unpacks to 314,572,800 bytes"),
    (members({W: bytes(300 << 20)}, deflated=True), "'model.weights.h5' unpacks to 314,572,800 bytes"),
    (members({"config.json": CONFIG + b" " * (33 << 20)}), "config.json: longer than Keras writes"),
    (patched(W, 24, "<I", 100), "disagree"),
    (patched(W, 24, "<I", 10**6), "disagree"),
    (patched(W, 24, "<I", 10**9), "unpacks to 1,000,000,000 bytes"),
    (patched(W, 20, "<I", 100), "disagree|Overlapped"),
    (patched(W, 24, "<I", 10**6, 22, deflated=True), "1,000,000 bytes are declared"),
    (patched(W, 24, "<I", 10**6, deflated=True), "disagree"),
    (patched(W, 24, "<I", 100, 22, deflated=True), "damaged"),
    (patched(W, 10, "<H", 99, 8), "disagree"),  # an unknown compression
    (patched(W, 42, "<I", 10**6), "there is no member where"),  # where the member is
    (patched("config.json", 24, "<I", 10), "disagree"),
    (patched("config.json", 24, "<I", 10**5, 22, deflated=True), "config.json: 100,000 bytes are declared"),
    *((members({name: None}), f"{name} missing") for name in ("config.json", "metadata.json")),
    (members({W: None}), "expected a Keras file"),
    (members({"metadata.json": b"{}"}), "metadata.json: expected the keras_version"),
    (members({"config.json": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}), "config.json: deeper than Keras"),
    (members({"config.json": b'{"class_name": "Sequential", ' + CONFIG[1:]}), "config.json: .*a key that comes twice"),
    *(
        (members({"config.json": bad}), "config.json: no JSON")
        for bad in (b"[]", b"null", b"\xff", b"", b"{", b"1" * 5000)
    ),
    (members({"config.json": b"{}"}), "a configuration that Keras doesn't write"),
    (members({"config.json": CONFIG.replace(b'"units": 2', b'"units": 1e999')}), "units=inf"),
    (members({"config.json": CONFIG.replace(b'"units": 2', b'"units": 1000000000')}), "expected shape"),
    (members({"config.json": CONFIG.replace(b"[null, 16, 24, 3]", b"[null, 1600000, 2400000, 3]")}), "expected shape"),
    (members({"config.json": CONFIG.replace(b"[null, 16, 24, 3]", b"[null, -1, {}, 3]")}), "Keras|input"),
]


@pytest.mark.parametrize(("write", "message"), KERAS)
def test_hostile_archives(write: Callable[[Path], None], message: str, tmp_path: Path, check_refused: Refused) -> None:
    write(path := tmp_path / "hostile.keras")
    check_refused(path, message, load_model)


TOUCH = {"class_name": "function", "module": "os", "config": "system", "arguments": ["touch MARKER"]}
EVAL = {"class_name": "function", "module": "builtins", "config": "eval", "registered_name": "function"}
LAMBDA = [["4wEAAAA=\n", None, None], TOUCH, {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}]
CODE: list[tuple[dict[str, Any], str]] = [
    *(
        ({"class_name": "Lambda", "config": {"name": "evil", "function": f}}, r"'evil' \(Lambda\): code")
        for f in LAMBDA
    ),
    ({"module": "os", "class_name": "system", "config": {"name": "touch MARKER"}}, r"\(system\): a kind of layer"),
    ({"module": "os", "class_name": "system", "config": "touch MARKER"}, r"\(system\): it has no configuration"),
    ({"module": "evil", "class_name": "Dense", "config": {}, "registered_name": "evil>Dense"}, "a custom layer"),
    ({"class_name": "Dense", "config": {"name": "a", "units": 2, "activation": EVAL}}, "'eval' can't"),
    ({"class_name": "Activation", "config": {"name": "a", "activation": TOUCH}}, "'system' can't"),
    ({"class_name": "TorchModuleWrapper", "config": {"name": "a", "module": "gASV"}}, "a kind of layer"),
    ({"class_name": ["Dense"], "config": {"name": "a"}}, "doesn't write"),
    ({"class_name": "Functional", "config": TOUCH}, "doesn't write"),
]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(("layer", "message"), CODE)
def test_code_in_a_configuration_is_not_run(
    layer: dict[str, Any], message: str, suffix: str, tmp_path: Path, check_refused: Refused
) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"hostile{suffix}"
    config = json.loads(CONFIG)
    config["config"]["layers"].append(layer)
    text = json.dumps(config).replace("MARKER", str(marker))
    if suffix == ".keras":
        rezip(path, {"config.json": text.encode()})
    else:
        path.write_bytes((KERAS2 / "trained.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = text
    check_refused(path, message, load_model)
    assert not marker.exists()


# Ours


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trained.h5, converted."""
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    convert(KERAS2 / "trained.h5", path)
    return path


def deep(layers: int) -> str:
    return '{"class_name": "Activation", "config": {"activation": ' * layers + '"relu"' + "}}" * layers


TENSORS: list[tuple[str, dict[str, Any], str]] = [
    ("dense.bias", {"data_offsets": [0, 8], "shape": [2]}, "damaged .saf"),
    *(("dense.bias", {"data_offsets": o}, "damaged .saf") for o in ([0, 8], [8, 0], [-8, 0], [10**12, 10**12 + 8])),
    ("dense.bias", {"shape": [2**62, 4]}, "damaged .saf"),
    ("dense.bias", {"dtype": "O"}, "damaged .saf"),
    ("dense.weight", {"shape": [96, 2]}, "dense.weight: expected shape"),
    *(("dense.weight", {"dtype": kind}, "dense.weight") for kind in ("I32", "U32")),
    ("dense.weight", {"dtype": "C64", "shape": [2, 48]}, "dense.weight"),
    ("__metadata__", {"architecture": 3}, "damaged .saf"),
    *(
        ("__metadata__", {"architecture": text}, "ours.saf")
        for text in ("{", "[]", "[1]", "3", '"dense"', "{}", "[" * 10**5)
    ),
]
SETTINGS: list[tuple[str, str, list[Any]]] = [  # a layer, its setting, and values that it can't have
    ("dense", "class_name", ["system", "Model", "__import__", ["Dense"], "Lambda"]),
    ("dense", "activation", ["eval", ["relu"], {"class_name": "Dense", "config": {"units": 2}}, "DEEP", 3]),
    ("dense", "units", [10**9, "2", -2, 0, 2.5, None, 10**30]),
    ("dense", "name", [3, ""]),
    ("dense", "trainable", [[], "no"]),
    ("block1_conv1", "kernel_size", [10**9, [10**9, 10**9], "33", [3], [3, -3]]),
    ("block1_conv1", "padding", ["evil", 3]),
    ("block1_conv1", "groups", [0, 2.5, 10**9]),
    ("block1_pool", "pool_size", [[0, 0], [2**40, 1], "22"]),
    ("rescaling", "scale", ["x", [1] * 10, {}]),
    ("", "input_shape", ["abc", [3, -16, 24], [3, 10**12, 10**12], [], 3]),
    ("", "layers", [{}, [], "dense", [3]]),
    ("", "name", [[], 3]),
]


def write_safetensors(path: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def parts(path: Path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


@pytest.mark.parametrize(("name", "changes", "message"), TENSORS)
def test_a_hostile_header(
    name: str, changes: dict[str, Any], message: str, ours: Path, tmp_path: Path, check_refused: Refused
) -> None:
    header, data = parts(ours)
    changed_header = json.loads(header)
    changed_header[name] |= changes
    write_safetensors(path := tmp_path / "ours.safetensors", json.dumps(changed_header).encode(), data)
    check_refused(path, message, load_model)


@pytest.mark.parametrize(
    ("layer", "setting", "value"), [(a, b, value) for a, b, values in SETTINGS for value in values]
)
def test_a_hostile_architecture(
    layer: str, setting: str, value: Any, ours: Path, tmp_path: Path, check_refused: Refused
) -> None:
    header, data = parts(ours)
    changed_header = json.loads(header)
    architecture = json.loads(changed_header["__metadata__"]["architecture"])
    entry = next((entry for entry in architecture["layers"] if entry["name"] == layer), architecture)
    (entry if setting in (*entry, "trainable") else entry["config"])[setting] = value
    text = json.dumps(architecture).replace('"DEEP"', deep(10_000))
    changed_header["__metadata__"]["architecture"] = text
    write_safetensors(path := tmp_path / "ours.safetensors", json.dumps(changed_header).encode(), data)
    check_refused(path, "ours.safetensors", load_model)


@pytest.mark.parametrize("name", ["training", "a.b", "block1_conv1", "__class__"])
def test_names_that_a_module_cannot_have(name: str, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header, data = parts(ours)
    hostile = header.replace(b'\\"dense\\"', rf"\"{name}\"".encode())
    write_safetensors(path := tmp_path / "ours.safetensors", hostile, data)
    check_refused(path, f"names that no layers can have: {re.escape(name)}", load_model)


def test_images_that_are_too_large_for_the_check(headless: Path, tmp_path: Path, check_refused: Refused) -> None:
    convert(headless, path := tmp_path / "vgg.safetensors", check=False)
    header, data = parts(path)
    assert b"[3, null, null]" in header
    write_safetensors(path, header.replace(b"[3, null, null]", b"[3, 90000, 90000]"), data)
    check_refused(path, "block1_conv1: images of 90000×90000 are too large to be checked here; --no-check")
    assert run(path, "-o", tmp_path / "out.pt", "--no-check", "-q") == 0


@pytest.mark.parametrize("length", [0, 1, 10, 10**6, 10**8 + 1, 2**63 - 1, 2**64 - 1])
def test_a_header_of_another_length(length: int, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    write_safetensors(path := tmp_path / "ours.safetensors", *parts(ours), length)
    check_refused(path, "damaged .safetensors", load_model, headless_vgg)


def test_a_name_that_comes_twice(ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header, data = parts(ours)
    double = header.replace(
        b'"dense.bias":', b'"dense.bias":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"dense.bias":'
    )
    write_safetensors(path := tmp_path / "ours.safetensors", double, data)
    check_refused(path, "damaged .safetensors file .*a key that comes twice", load_model, headless_vgg)


@pytest.mark.parametrize("start", [0, 8])
def test_tensors_that_overlap(start: int, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header = json.loads(parts(ours)[0])
    tensors = sorted((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    first, last = header[tensors[0]]["data_offsets"], header[tensors[-1]]["data_offsets"]
    last[:] = [first[0] + start, first[0] + start + last[1] - last[0]]
    write_safetensors(path := tmp_path / "ours.safetensors", json.dumps(header).encode(), parts(ours)[1])
    check_refused(path, "damaged .safetensors", load_model, headless_vgg)


@pytest.mark.parametrize("size", [3, 60])
def test_a_header_without_an_end(size: int, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header, data = parts(ours)
    write_safetensors(path := tmp_path / "ours.safetensors", header + b" " * (size << 20), data)
    check_refused(path, "damaged .safetensors file .*header: longer", load_model, headless_vgg)


@pytest.mark.parametrize("header", [b"{", b"{]", b'{"a": 3}', b"{" + b'"a":{' * 10**5, b"{\xff}", b"[]", b"\x80\x02."])
def test_a_header_that_is_none(header: bytes, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    write_safetensors(path := tmp_path / "ours.safetensors", header, parts(ours)[1])
    check_refused(path, "damaged .safetensors|expected a Keras file", load_model, headless_vgg)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def save_old(evil: Any, path: Path) -> None:
    torch.save(evil, path, _use_new_zipfile_serialization=False)


SAVES: list[tuple[Callable[..., Any], str]] = [
    (torch.save, "a pickle that names posix.system, which isn't run .*weights_only=True"),
    (save_old, "before 1.6, which aren't read.*weights_only=True"),
    (lambda evil, path: path.write_bytes(pickle.dumps(evil, 2)), "before 1.6, which aren't read"),
]


@pytest.mark.parametrize(("save", "message"), SAVES)
def test_code_in_a_pickle_is_not_run(
    save: Callable[..., None], message: str, tmp_path: Path, check_refused: Refused
) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    save({"block1_conv1.weight": Evil(marker)}, path)
    check_refused(path, message, load_model, headless_vgg)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


PICKLED: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: torch.zeros(1).expand(x.shape), "no plain tensor"),
    (lambda x: torch.zeros(1).expand(10**6, 10**6), "no plain tensor"),
    (lambda x: x.to_sparse(), "names torch._utils._rebuild_sparse_tensor, which isn't run"),
    (lambda x: x.to(torch.complex64), "no plain tensor"),
    (lambda x: torch.quantize_per_tensor(x, 1, 0, torch.qint8), "no plain tensor|Received"),
    (lambda x: x.to("meta"), "names torch._utils._rebuild_meta_tensor_no_storage"),
    (lambda x: x.int(), "block1_conv1.weight"),
    (lambda x: x.bool(), "block1_conv1.weight"),
    (lambda x: x.transpose(0, 1), "block1_conv1.weight: expected shape"),
    (lambda x: x.reshape(-1), "block1_conv1.weight|expected the tensors"),
    (lambda x: 3, "isn't a dict of tensors"),
    (lambda x: [x], "isn't a dict of tensors"),
]


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*TypedStorage:UserWarning")
@pytest.mark.parametrize(("change", "message"), PICKLED)
def test_hostile_tensors(change: Callable[[Tensor], Any], message: str, tmp_path: Path, check_refused: Refused) -> None:
    tensors = {key: value.detach() for key, value in VGG16(weights=None, include_top=False).state_dict().items()}
    tensors["block1_conv1.weight"] = change(tensors["block1_conv1.weight"])
    torch.save(tensors, path := tmp_path / "evil.pt")
    check_refused(path, message, headless_vgg)


BOMBS: list[tuple[bytes, bool, str]] = [
    (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", False, "names builtins.bytearray, which isn't run"),
    (b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.", False, "names torch.Tensor, which isn't run"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", False, "a pickle with STACK_GLOBAL"),
    (b"\x80\x02](" + b"]" * 40_000_000 + b"e.", False, "data.pkl: longer"),
    (b"\x80\x02](" + b"]" * 1_000_000 + b"e.", True, "no archive that PyTorch writes"),
]


@pytest.mark.parametrize(("content", "deflated", "message"), BOMBS)
def test_pickles_that_grow(
    content: bytes, deflated: bool, message: str, tmp_path: Path, check_refused: Refused
) -> None:
    compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(path := tmp_path / "evil.pt", "w", compression) as archive:
        archive.writestr("evil/data.pkl", content)
        archive.writestr("evil/version", b"3\n")
    check_refused(path, message, load_model, headless_vgg)


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    tensors = {key: value.detach() for key, value in VGG16(weights=None, include_top=False).state_dict().items()}
    tensors["block5_conv2.weight"] = tensors["block5_conv3.weight"]
    torch.save(tensors, path := tmp_path / "shared.pt")
    assert run(path, "--no-check", "-q") == 0
    assert torch.equal(
        VGG16(weights=tmp_path / "shared.safetensors", include_top=False).block5_conv2.weight,
        tensors["block5_conv3.weight"],
    )


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "fifo.h5")
    for read in (load_model, headless_vgg):
        with pytest.raises(ValueError, match=r"fifo.h5: no plain file|fifo.h5'\), which is no such name and no file"):
            read(path)
    assert run(path) == 1


def test_names_of_any_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with a line's end, with a terminal's commands and in no UTF-8 (which `safetensors` can't open)."""
    for name in (b"two\nlines.h5", b"\x1b[2J.h5", b"\xff.h5"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes((KERAS2 / "trained.h5").read_bytes())
        assert run(path) == (name[:1] == b"\xff")
        assert "\x1b" not in capsys.readouterr().out
        assert load_model(path).count_params() == 390
        path.write_bytes(b"")
        assert run(path, "--force") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error[:-1].isprintable()


def test_layers_of_long_names(tmp_path: Path) -> None:
    """Keras writes names of any length, and two may begin alike."""
    layers = [keras.layers.Dense(2, name="a" * 150 + end) for end in ("", "b")]
    keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), *layers]).save(path := tmp_path / "long.h5")
    model = load_model(path)
    for layer in layers:
        kernel = torch.from_numpy(np.array(layer.get_weights()[0]))
        ours = model.get_submodule(layer.name).weight.detach()
        assert sorted(ours.flatten().tolist()) == sorted(kernel.flatten().tolist())


@pytest.mark.parametrize(("old", "new"), [("conv2d_8", "conv2d_99"), ("conv2d_8", "zzz"), ("conv2d", "conv2d_13")])
def test_a_renamed_layer_moves_no_other(old: str, new: str, tmp_path: Path) -> None:
    keras_model(include_top=False).save_weights(path := tmp_path / "vgg.weights.h5")
    assert headless_vgg(path)
    with h5py.File(path, "r+") as file:
        (folder,) = [name for name in ("layers", "layers/functional/layers") if f"{name}/conv2d" in file]
        file.move(f"{folder}/{old}", f"{folder}/{new}")
    with pytest.raises(ValueError, match=r"numbered from 0 on|doesn't call conv2d"):
        headless_vgg(path)


def test_layers_in_another_order_than_their_names_say(headless: Path, tmp_path: Path, check_refused: Refused) -> None:
    (path := tmp_path / "vgg.h5").write_bytes(headless.read_bytes())
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        a, b = (next(i for i, name in enumerate(names) if f"block5_conv{n}" in str(name)) for n in (1, 2))
        names[a], names[b] = names[b], names[a]
        file.attrs["layer_names"] = names
    check_refused(path, "layers in another order than their names say", headless_vgg)


# The process


def amplified(file: h5py.File) -> None:
    """3900 names that are one and the same megabyte of the file: 4 GB."""
    names = ["a" * 2**20] + ["b"] * 3899
    attribute("model_weights", "layer_names", names, dtype=h5py.string_dtype())(file)
    file.flush()
    with open(file.filename, "rb+") as stream:
        entry = re.search(
            struct.pack("<I", 2**20) + b".{12}" + struct.pack("<I", 1), content := stream.read(), re.DOTALL
        )
        assert entry
        stream.seek(entry.start())
        stream.write(content[entry.start() : entry.start() + 16] * 3900)


DRIVER = """
import os, subprocess, sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
import torchvgg.loading, torchvgg.convert.source, torchvgg.convert.target
from torchvgg.convert.__main__ import main

log, *arguments = sys.argv[1:]
HOOK = f'''
import json, os, sys
def told(event, arguments, log=os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
    if event in ("open", "subprocess.Popen", "socket.connect") or event.startswith(("os.system", "os.exec", "os.posix")):
        os.write(log, (json.dumps([event, os.fsdecode(arguments[0]) if event == "open" else str(arguments[0])]) + chr(10)).encode())
sys.addaudithook(lambda event, arguments: None if event == "open" and isinstance(arguments[0], int) else told(event, arguments))
'''
run = subprocess.run
subprocess.run = lambda command, **options: run([*command[:3], "import h5py" + HOOK + command[3], *command[4:]], **options)
before = getrusage(RUSAGE_SELF).ru_maxrss
exec(HOOK)
status = main(arguments)
print(max(getrusage(RUSAGE_SELF).ru_maxrss - before, getrusage(RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""
LARGE: list[tuple[str, Callable[[Any], object]]] = [
    ("trained.h5", link(KERNEL)),
    ("trained.h5", external_storage),
    ("trained.h5", amplified),
    ("trained.h5", bomb(2**15)),
    ("trained.h5", put(KERNEL, (10**9, 1000), "f")),
    ("trained.keras", link("layers/dense/vars/0")),
    ("hostile.keras", members({W: bytes(200 << 20)}, deflated=True)),
    ("hostile.keras", members({"config.json": b'{"a": [' + b"[]," * 10**7 + b"0]}"}, deflated=True)),
]


@pytest.mark.parametrize(("source", "change"), LARGE)
def test_no_other_file_is_opened_and_little_memory_taken(
    source: str, change: Callable[[Any], object], tmp_path: Path
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    path, log = tmp_path / source, tmp_path / "log"
    if source == "hostile.keras":
        change(path)
    else:
        changed(source, change, tmp_path)
    command = [sys.executable, "-c", DRIVER, str(log), str(path), "-o", str(tmp_path / "out.pt")]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stderr.startswith(f"error: {path}: ")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert int(done.stdout) < 10**6  # KB
    assert list(temporary.iterdir()) == []
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert ["open", str(path)] in events
    own = tuple(os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, ROOT, temporary, path, os.devnull))
    others = [event for event in events if event != ["subprocess.Popen", sys.executable]]
    assert [name for event, name in others if event != "open" or not os.path.realpath(name).startswith(own)] == []


def test_no_other_code_opens_hdf5_or_zip_files() -> None:
    sources = {
        path.name: path.read_text("utf-8")
        for folder in ("convert", "torchvgg")
        for path in (ROOT / folder).glob("*.py")
    }
    pattern = re.compile(r"^\s*(?:import|from)\s.*\b(?:h5py|zipfile|tables|netCDF4)\b", re.MULTILINE)
    found = {name for name, source in sources.items() if pattern.search(source)}
    writers = {"keras_writer.py", "demo.py"}
    assert found == writers | {"hdf5.py", "hdf5_guard.py", "archive.py"}
    assert all(re.findall(r"h5py\.File\([^,]+, (.)w\1", sources[name]) for name in writers)
    assert not any("zipfile" in sources[name] for name in found - {"archive.py"})
