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
from torch import Tensor, nn

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


@pytest.mark.parametrize("name", ["", "a.b", "block1_conv1"])
def test_names_that_a_module_cannot_have(name: str, ours: Path, tmp_path: Path, check_refused: Refused) -> None:
    header, data = parts(ours)
    hostile = header.replace(b'\\"dense\\"', rf"\"{name}\"".encode())
    write_safetensors(path := tmp_path / "ours.safetensors", hostile, data)
    check_refused(
        path,
        f"an architecture that `convert` didn't write: expected other names than {re.escape(repr(name))}",
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
    (Pickled(storage=Saved(torch.UntypedStorage, length=16)), "names torch.storage.UntypedStorage, which isn't run"),
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


WIDE = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
READ: list[tuple[str, Any]] = [
    *((str(kind), {"x": WIDE.to(kind)}) for kind in (torch.float64, torch.float16, torch.bfloat16)),
    *((str(kind), {"x": WIDE.to(kind)}) for kind in (torch.int64, torch.int32, torch.int16, torch.int8)),
    *((str(kind), {"x": WIDE.to(kind)}) for kind in (torch.uint8, torch.bool)),
    ("a state_dict", VGG16(weights=None, include_top=False).block1_conv1.state_dict()),
    ("parameters", {"x": nn.Parameter(WIDE), "y": nn.Parameter(WIDE[1], requires_grad=False)}),
    ("a module's parameters", dict(nn.Linear(3, 2).named_parameters())),
    ("shared memory", {"x": WIDE, "y": WIDE, "z": WIDE[1:], "other": WIDE.clone()}),
    ("views", {"x": WIDE[1:, ::2, 3], "y": WIDE.permute(2, 0, 1), "z": WIDE[2, 3, 4]}),
    ("channels last", {"x": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)}),
    ("nothing in it", {"x": torch.ones(0), "y": torch.ones(2, 0, 3), "z": WIDE[3:], "number": torch.tensor(3.0)}),
    ("many", OrderedDict((f"{n}.ü", torch.full((n % 3,), float(n))) for n in range(3000))),
    ("none", {}),
]


@pytest.mark.parametrize(("crc", "protocol"), [(True, 2), (False, 3)])
@pytest.mark.parametrize(("name", "tensors"), READ, ids=[name for name, _ in READ])
def test_tensors_are_read_as_torch_load_reads_them(
    name: str, tensors: Any, crc: bool, protocol: int, tmp_path: Path
) -> None:
    torch.serialization.set_crc32_options(crc)
    torch.save(tensors, path := tmp_path / "x.pt", pickle_protocol=protocol)
    torch.serialization.set_crc32_options(True)
    check_like_torch_load(path)


@pytest.mark.parametrize(("name", "tensors"), READ, ids=[name for name, _ in READ])
def test_tensors_of_pytorch_before_1_6(name: str, tensors: Any, tmp_path: Path) -> None:
    torch.save(tensors, path := tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    check_like_torch_load(path)


def check_like_torch_load(path: Path) -> None:
    expected, found = torch.load(path, weights_only=True), read_torch_file(path).tensors

    def described(tensors: dict[str, Tensor]) -> list[Any]:
        storages = [tensor.untyped_storage() for tensor in tensors.values()]
        places = [storage.data_ptr() for storage in storages]
        lengths = [storage.nbytes() for storage in storages]
        shared = [places.index(place) if length else None for place, length in zip(places, lengths, strict=True)]
        own = [(key, x.dtype, x.shape, x.stride(), x.storage_offset(), x.tolist()) for key, x in tensors.items()]
        return [own, shared, lengths]

    assert described(found) == described(expected)


def old_file(
    state: bytes = b"", keys: Any = ("0",), numbers: bytes = struct.pack("<q4f", 4, 1, 2, 3, 4), **system: Any
) -> bytes:
    """What PyTorch 0.1 wrote in Python 2 for `OrderedDict(x=FloatTensor([1, 2, 3, 4]))`, by default."""
    storage = b"(U\x07storageq\x03ctorch\nFloatStorage\nq\x04U\x010q\x05U\x03cpuq\x06K\x04Ntq\x07Q"
    tensor = b"ctorch._utils\n_rebuild_tensor\nq\x02(" + storage + b"K\x00K\x04\x85q\x08K\x01\x85q\x09tq\x0aRq\x0b"
    whole = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01]q\x0c(U\x01xq\x0d" + tensor + b"ea\x85q\x0eRq\x0f."
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}} | system
    first, *others = (pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, facts, list(keys)))
    return b"".join([first, *others[:2], state or whole, others[2], numbers])


def test_a_file_of_pytorch_0_1_and_python_2(tmp_path: Path) -> None:
    """As torchvision's published weights are: `vgg16-397923af.pth` is of 2017."""
    (path := tmp_path / "old.pth").write_bytes(old_file())
    check_like_torch_load(path)
    assert read_torch_file(path).tensors["x"].tolist() == [1, 2, 3, 4]


HUGE = b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NLENGTHNtQK\x00)"
OLD: list[tuple[bytes, str]] = [
    (old_file(numbers=b""), "4 numbers are declared, and another number"),
    (old_file(numbers=struct.pack("<q3f", 4, 1, 2, 3)), "4 numbers are declared, and another number"),
    (old_file(numbers=struct.pack("<q4f", 3, 1, 2, 3, 4)), "4 numbers are declared, and another number"),
    (old_file(keys=()), "4 numbers are declared, and 0 bytes stored"),
    (old_file(keys=("1",)), "a damaged pickle"),
    (old_file(keys=([],)), "a damaged pickle"),
    (old_file(little_endian=False), "its numbers have another order of bytes"),
    (old_file()[:40], "Received"),
    (old_file()[:-60], "Received"),
    (old_file().replace(b"U\x03cpuq\x06K\x04N", b"U\x03cpuq\x06K\x04K\x01"), "a storage that torch.save doesn't write"),
    *(
        (old_file(HUGE.replace(b"LENGTH", length) + b")tRs."), "numbers are declared|Received: [0-9,]{150}")
        for length in (b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255)
    ),
    (old_file(b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R.", keys=()), "names posix.system, which isn't run"),
]


@pytest.mark.parametrize(("content", "message"), OLD, ids=[str(number) for number in range(len(OLD))])
def test_hostile_files_of_pytorch_before_1_6(
    content: bytes, message: str, tmp_path: Path, check_refused: Refused
) -> None:
    (path := tmp_path / "old.pt").write_bytes(content)
    check_refused(path, message, load_model, headless_vgg)


CHECKPOINTS: list[tuple[Any, str]] = [
    (
        {"net": {"x": WIDE}},
        r"isn't a dict of tensors, nor has one as state_dict, model_state_dict, model \('net' is no tensor",
    ),
    ({"epoch": 3, "x": WIDE}, "'epoch' is no tensor"),
    ({"model": nn.Linear(3, 2)}, r"names torch.nn.modules.linear.Linear, .*torch.save\(model.state_dict\(\), path\)"),
    (nn.Linear(3, 2), r"names torch.nn.modules.linear.Linear, .*torch.save\(model.state_dict\(\), path\)"),
    ({"state_dict": {"x": WIDE, "y": [WIDE]}}, "'y' is no tensor"),
]


@pytest.mark.parametrize(("saved", "message"), CHECKPOINTS)
def test_checkpoints_without_a_state_dict(saved: Any, message: str, tmp_path: Path, check_refused: Refused) -> None:
    torch.save(saved, path := tmp_path / "x.pt")
    check_refused(path, message, load_model, headless_vgg)


def test_a_dict_within_itself(tmp_path: Path, check_refused: Refused) -> None:
    checkpoint: dict[str, Any] = {"model": {}}
    checkpoint["model"]["model"] = checkpoint["state_dict"] = checkpoint
    torch.save(checkpoint, path := tmp_path / "x.pt")
    check_refused(path, "isn't a dict of tensors", load_model, headless_vgg)


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
