"""An untrusted HDF5 file is refused in one line, soon, and no other file is opened."""

import json
import re
import struct
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

from torchvgg import load_model
from torchvgg.convert.read import keras_file

from ...helpers.command_line import run
from ...helpers.hostile import (
    GROUP,
    KERAS2,
    KERNEL,
    Change,
    Refused,
    Watch,
    attribute,
    bomb,
    changed,
    external_storage,
    headless_vgg,
    link,
    put,
    right_file,
)
from ...helpers.keras_models import keras_model


def weight_names(*names: Any) -> Change:
    return attribute(GROUP, "weight_names", names, dtype=h5py.string_dtype())


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


def odd_type(change: Callable[[Any], object], base: Any = h5t.IEEE_F32LE) -> Change:
    """Numbers whose bits mean something else than numpy's, if in as many bytes."""

    def put_type(file: h5py.File) -> None:
        change(kind := base.copy())
        del file[KERNEL]
        h5d.create(file[f"{GROUP}/dense"].id, b"kernel:0", kind, h5s.create_simple((96, 2)))
        file[KERNEL].write_direct(np.ones((96, 2), "f"))

    return put_type


def declared(file: h5py.File) -> None:
    """Declares an array longer than the file, in its shape and in its stored length."""
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
ODD_BITS: list[tuple[Any, ...]] = [
    (lambda kind: kind.set_ebias(100),),
    (lambda kind: kind.set_fields(0, 1, 8, 9, 23),),  # the sign at the other end
    (lambda kind: kind.set_fields(31, 22, 9, 0, 22),),
    (lambda kind: kind.set_norm(h5t.NORM_NONE),),  # no implied bit
    (lambda kind: kind.set_size(8),),  # four of the bytes are empty
    (lambda kind: kind.set_precision(24), h5t.STD_I32LE),
]
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
    *((odd_type(*odd), "kernel:0: expected floating-point numbers") for odd in ODD_BITS),
    (put(KERNEL, data=h5py.Empty("f")), "kernel:0: an array of no shape"),
    (unknown_filter, "kernel:0: stored with a filter that isn't known"),
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
    *((put(KERNEL, data=np.ones((96, 2), "f"), **{k: v}), "stored with a filter") for k, v in PACKINGS.items()),
    (half_float, "kernel:0: two bytes a number, and not said to be bfloat16"),
    (attribute("/", "keras_version", "2." * 30_000), "keras_version: none that Keras writes"),
    (config(lambda layers: layers[-1].update(config=None)), "it has no configuration"),
    (config(lambda layers: layers[-1]["config"].update(activation="\x1b[2J\n")), r"the activation .*\[2J"),
    (config(lambda layers: layers[-1].update(class_name="\x1b[2J\n")), r"\(\?\[2J"),
    (config(lambda layers: layers.extend([layers[-1]] * 1000)), "up to 1,000 can be converted"),
    (config(lambda layers: layers[0]["config"].update(batch_input_shape=[None, 16.0, 24, 3])), "the shape of an input"),
    (config(lambda layers: layers[0]["config"].update(batch_input_shape=[None, True, 24, 3])), "the shape of an input"),
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
TRAINED = config(lambda layers: layers[-1]["inbound_nodes"][0][0][3].update(training=True))
HDF5 += [("functional.h5", TRAINED, "called with training=True")]
HDF5 += [("functional.h5", put(MEAN, data=np.ones(4, "i4")), "functional.h5")]


@pytest.mark.parametrize(("source", "change", "message"), HDF5)
def test_hostile_hdf5(source: str, change: Change, message: str, tmp_path: Path, check_refused: Refused) -> None:
    path = changed(source, change, tmp_path)
    watch = Watch(tmp_path / "right")
    check_refused(path, message, *([headless_vgg] if source == "trained.weights.h5" else [load_model]))
    assert not watch.was_opened()


KINDS = ["<f4", ">f4", "<f2", ">f8", "u1", "V2"]
PACKED_AS: list[dict[str, Any]] = [
    {},
    {"compression": "gzip"},
    {"shuffle": True},
    {"compression": 9, "shuffle": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", PACKED_AS, ids=str)
def test_packed_arrays_are_unpacked_whole(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    shapes = {
        "one": ((7,), (3,)),
        "two": ((5, 8), (2, 4)),
        "four": ((3, 3, 5, 7), (3, 2, 5, 3)),
        "none": ((0, 3), (2, 3)),
    }
    chance, expected = np.random.default_rng(0), {}
    with h5py.File(path := tmp_path / "packed.h5", "w") as file:
        file.attrs["layer_names"] = ["layer"]
        group = file.create_group("layer")
        for name, (shape, chunks) in shapes.items():
            expected[name] = chance.integers(0, 256, (*shape, np.dtype(kind).itemsize), "u1").view(kind)[..., 0]
            data = expected[name].view(h5py.opaque_dtype("V2")) if kind == "V2" else expected[name]
            group.create_dataset(name, data=data, chunks=chunks, maxshape=(None, *shape[1:]), **options)
        group.attrs["weight_names"] = list(shapes)
    with keras_file.open_keras_file(path) as found:
        assert [array.name for array in found.arrays] == list(shapes)
        for array in found.arrays:
            numbers = np.memmap(array.path, "u1")[array.offset :][: expected[array.name].nbytes]
            assert (array.shape, array.stored) == (expected[array.name].shape, kind)
            assert numbers.tobytes() == expected[array.name].tobytes()


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
    with pytest.raises(ValueError, match=r"numbered from 0 on|isn't a conv2d's"):
        headless_vgg(path)


def test_layers_in_another_order_than_their_names_say(headless: Path, tmp_path: Path, check_refused: Refused) -> None:
    (path := tmp_path / "vgg.h5").write_bytes(headless.read_bytes())
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        a, b = (next(i for i, name in enumerate(names) if f"block5_conv{n}" in str(name)) for n in (1, 2))
        names[a], names[b] = names[b], names[a]
        file.attrs["layer_names"] = names
    check_refused(path, "layers in another order than their names say", headless_vgg)
