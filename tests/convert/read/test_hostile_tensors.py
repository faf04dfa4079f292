"""`.safetensors` and `.pt` files from untrusted sources: headers, architectures and pickles."""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchvgg import VGG16, load_model
from torchvgg.convert import convert
from torchvgg.convert.read.torch_file import read_torch_file

from ...helpers.command_line import run
from ...helpers.hostile import Refused, headless_vgg


def deep(layers: int) -> str:
    return '{"class_name": "Activation", "config": {"activation": ' * layers + '"relu"' + "}}" * layers


TENSORS: list[tuple[str, dict[str, Any], str]] = [
    ("dense.bias", {"data_offsets": [0, 8], "shape": [2]}, "damaged .saf"),
    *(("dense.bias", {"data_offsets": o}, "damaged .saf") for o in ([0, 8], [8, 0], [-8, 0], [10**12, 10**12 + 8])),
    ("dense.bias", {"shape": [2**62, 4]}, "damaged .saf"),
    ("dense.bias", {"dtype": "O"}, "damaged .saf"),
    ("dense.weight", {"shape": [96, 2]}, "dense.weight: expected shape"),
    *(("dense.weight", {"dtype": kind}, "dense.weight") for kind in ("I32", "U32")),
    ("dense.weight", {"dtype": "C64", "shape": [2, 48]}, "dense.weight|damaged .saf"),  # unknown before safetensors 0.7
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


@pytest.mark.parametrize("name", ["", "a.b", "block1_conv1"])
def test_names_that_a_module_cannot_have(name: str, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header, data = parts(ours)
    hostile = header.replace(b'\\"dense\\"', rf"\"{name}\"".encode())
    write_safetensors(path := tmp_path / "ours.safetensors", hostile, data)
    check_refused(
        path,
        f"an architecture that `convert` didn't write: expected (other names than|a layer.*'name':) {re.escape(repr(name))}",
        load_model,
    )


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
    (torch.save, "a pickle that names posix.system, which isn't run.*weights_only=True"),
    (save_old, "a pickle that names posix.system, which isn't run.*weights_only=True"),
    (lambda evil, path: path.write_bytes(pickle.dumps(evil, 2)), "a pickle, which isn't read"),
    (lambda evil, path: torch.save({"state_dict": evil}, path), "a pickle that names posix.system, which isn't run"),
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
    (lambda x: x.transpose(0, 1), "block1_conv1.weight: expected shape|input_shape: expected 64 channels"),
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
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", False, "a pickle of protocol 4"),
    (b"\x80\x02\x8c\x02os\x8c\x06system\x93.", False, "a pickle with SHORT_BINUNICODE, which isn't run"),
    (b"\x80\x02]r\xff\xff\xff\x7f.", False, "isn't a dict of tensors"),  # 16 GB for the entries before it
    (b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"K\x01s.", False, "isn't a dict of tensors"),  # 2**100 hashes
    (b"\x80\x02](" + b"]" * 40_000_000 + b"e.", False, "data.pkl: longer"),
    (b"\x80\x02](" + b"]" * 1_000_000 + b"e.", True, "no archive that PyTorch writes"),
    # Opcodes that take what isn't there: from an empty stack, below a mark, without a mark, or from the memo.
    *((b"\x80\x02" + code, False, "a damaged pickle") for code in (b".", b"R.", b"]q\x00(R.", b"t.", b"u.", b"h\x05.")),
    *((b"\x80\x02" + code, False, "isn't a dict of tensors") for code in (b"}K\x01a.", b"}(K\x01u.", b"]K\x01K\x02s.")),
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


class Saved:
    """What a pickle calls a storage."""

    def __init__(self, kind: Any = torch.FloatStorage, key: str = "0", length: Any = 4, what: str = "storage") -> None:
        self.parts = what, kind, key, "cpu", length


class Pickled:
    """What is pickled as a call, by default of what rebuilds a tensor of four float32."""

    def __init__(self, *arguments: Any, **changes: Any) -> None:
        tensor = {"storage": Saved(), "offset": 0, "size": (4,), "stride": (1,), "grad": False, "hooks": OrderedDict()}
        self.reduced: tuple[Any, ...] = torch._utils._rebuild_tensor_v2, tuple((tensor | changes).values())
        if arguments:
            self.reduced = arguments

    def __reduce__(self) -> Any:
        return self.reduced


def write_pt(path: Path, *values: object, **members: bytes) -> None:
    """Writes any "x" and "y" as torch.save does, beside a storage of four float32."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> Any:
            return found.parts if isinstance(found, Saved) else None

    Pickler(content := io.BytesIO(), 2).dump(dict(zip("xy", values, strict=False)))
    stored = {"data.pkl": content.getvalue(), "data/0": struct.pack("4f", 1, 2, 3, 4)} | members
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in stored.items():
            archive.writestr(f"evil/{name}", member)


STATE = (Saved(), 0, (10**9,), (0,))  # what Tensor.__setstate__ takes
UNTYPED = Pickled(torch.UntypedStorage, (10**9,))
FORGED: list[tuple[object, str]] = [
    (UNTYPED, "names torch.storage.UntypedStorage, which isn't run"),
    (Pickled(storage=UNTYPED), "names torch.storage.UntypedStorage, which isn't run"),
    (Pickled(storage=Saved(torch.UntypedStorage, length=16)), "numbers such as float8 or uint16, which aren't read"),
    (Pickled(*Pickled().reduced, STATE), "a tensor that has a state of its own"),
    (Pickled(OrderedDict, ([("x", 1)],)), "a tensor that torch.save doesn't write"),
    (Pickled(torch._utils._rebuild_parameter, (3, True, OrderedDict())), "a tensor that torch.save doesn't write"),
    (Pickled(storage=3), "a tensor that torch.save doesn't write"),
    (Pickled(storage=Saved(what="module")), "a storage that torch.save doesn't write"),
    (Pickled(storage=Saved(dict)), "names __builtin__.dict, which isn't run"),
    (Pickled(storage=Saved(key="../../x")), "'x': 4 numbers are declared, and 0 bytes stored"),
    (Pickled(storage=Saved(length=5)), "'x': 5 numbers are declared, and 16 bytes stored"),
    (Pickled(storage=Saved(length=3)), "'x': 3 numbers are declared, and 16 bytes stored"),
    (Pickled(storage=Saved(torch.DoubleStorage)), "'x': 4 numbers are declared, and 16 bytes stored"),
    (Pickled(storage=Saved(length=-4)), "'x': -4 numbers are declared"),
    (Pickled(offset=1), "'x': it reaches beyond the numbers"),
    (Pickled(offset=-1), "'x': it reaches beyond the numbers"),
    (Pickled(size=(5,)), "'x': it reaches beyond the numbers"),
    (Pickled(size=(-4,)), "'x': it reaches beyond the numbers"),
    (Pickled(offset=3, stride=(-1,)), "'x': it reaches beyond the numbers"),
    (Pickled(size=(2**40, 2**40)), "Received"),
    (Pickled(size=(2**62, 2**62, 4), stride=(0, 0, 1)), "Received|no plain tensor"),
    (Pickled(size=(2**70, 0), stride=(1, 1)), "Received"),
    (Pickled(size=(4.0,)), "a tensor that torch.save doesn't write"),
    (Pickled(size="4"), "a tensor that torch.save doesn't write"),
    (Pickled(size=(True,)), "a tensor that torch.save doesn't write"),
    (Pickled(size=(10**8,), stride=("a" * 100,)), "a tensor that torch.save doesn't write"),  # 10 GB, if multiplied
    (Pickled(size=(20_000,), stride=([1] * 10_000,)), "a tensor that torch.save doesn't write"),
    (Pickled(metadata={"neg": True}), "a negated or conjugated one"),
    (Pickled(size=(10**9,), stride=(0,)), "no plain tensor"),
]


@pytest.mark.parametrize(("value", "message"), FORGED)
def test_tensors_that_are_more_than_is_stored(
    value: object, message: str, tmp_path: Path, check_refused: Refused
) -> None:
    write_pt(path := tmp_path / "evil.pt", value)
    check_refused(path, message, load_model, headless_vgg)


def test_numbers_in_another_order_of_bytes(tmp_path: Path, check_refused: Refused) -> None:
    write_pt(path := tmp_path / "big.pt", Pickled(), byteorder=b"big")
    check_refused(path, "its numbers are big-endian; torch.load it and torch.save it again", load_model)


def saved(value: object) -> bytes:
    torch.save(value, content := io.BytesIO())
    return content.getvalue()


def test_the_pickle_that_was_looked_through_is_the_one_that_is_read(tmp_path: Path) -> None:
    """Of two directories `zipfile` takes the one before the end, PyTorch the one at the place that the end names."""
    first, last = saved({"x": torch.ones(4)}), saved({"x": torch.zeros(4)})
    assert len(first) == len(last)
    (path := tmp_path / "two.pt").write_bytes(first[:-22] + last)
    assert torch.load(path)["x"].tolist() == [1] * 4
    assert read_torch_file(path).tensors["x"].tolist() == [0] * 4


def test_numbers_that_are_stored_at_an_odd_place(tmp_path: Path) -> None:
    for length in range(8):
        write_pt(path := tmp_path / f"{length}.pt", Pickled(), Pickled(offset=1, size=(3,)), **{"a" * length: b""})
        first, second = read_torch_file(path).tensors.values()
        assert (first.tolist(), second.tolist()) == ([1, 2, 3, 4], [2, 3, 4])
        assert second.data_ptr() - first.data_ptr() == 4  # of one copy
        assert first.data_ptr() % 4 == 0


def test_a_pickle_with_one_bit_flipped(tmp_path: Path, check_refused: Refused) -> None:
    content = bytearray(saved({"block1_conv1": torch.ones(4)}))
    content[content.index(b"block1")] ^= 1
    (path := tmp_path / "flipped.pt").write_bytes(content)
    check_refused(path, "data.pkl: a damaged archive .its CRC-32 is wrong", headless_vgg)


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    tensors = {key: value.detach() for key, value in VGG16(weights=None, include_top=False).state_dict().items()}
    tensors["block5_conv2.weight"] = tensors["block5_conv3.weight"]
    torch.save(tensors, path := tmp_path / "shared.pt")
    assert run(path, "--no-check", "-q") == 0
    assert torch.equal(
        VGG16(weights=tmp_path / "shared.safetensors", include_top=False).block5_conv2.weight,
        tensors["block5_conv3.weight"],
    )
