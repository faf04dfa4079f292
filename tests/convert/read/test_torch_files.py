"""What `torch.save` writes, and wrote before PyTorch 1.6: dicts of tensors, and checkpoints of training scripts."""

import io
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchvgg import VGG16, load_model
from torchvgg.convert.read.torch_file import read_torch_file
from torchvgg.convert.read.torch_pickle import read_pickle

from ...helpers.hostile import ROOT, Refused, headless_vgg

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


@pytest.mark.parametrize(("name", "tensors"), READ, ids=[name for name, _ in READ])
def test_tensors_of_pytorch_before_1_6(name: str, tensors: Any, tmp_path: Path) -> None:
    torch.save(tensors, path := tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    check_like_torch_load(path)


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


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_8_bits_are_refused(kind: torch.dtype, suffix: str, tmp_path: Path, check_refused: Refused) -> None:
    tensors = {key: x.detach().to(kind) for key, x in VGG16(weights=None, include_top=False).state_dict().items()}
    save = save_file if suffix == ".safetensors" else torch.save
    save(tensors, path := tmp_path / f"x{suffix}")
    check_refused(path, r"(numbers such as |torch\.)float8.*n't read; save tensor.float\(\)", headless_vgg)


@pytest.mark.parametrize("name", ["vgg-12:30.pt", "modèle.pt", "a\\b.pt", "..pt", "a b.pt"])
def test_names_of_files_that_are_names_in_the_archive(name: str, tmp_path: Path) -> None:
    torch.save({"x": WIDE}, path := tmp_path / name)
    check_like_torch_load(path)


@pytest.mark.parametrize("how", ["streamed", "with Zip64", "with other lengths behind the members"])
def test_other_ways_to_write_the_archive(how: str, tmp_path: Path) -> None:
    """The lengths stand behind each member, or in a Zip64 field; the archive's directory decides, as for PyTorch."""

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return how == "with Zip64"

        def tell(self) -> int:
            if not self.seekable():
                raise io.UnsupportedOperation
            return super().tell()

    torch.save({"x": WIDE}, content := io.BytesIO())
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(stream := Stream(), "w") as archive:
        for name in whole.namelist():
            with archive.open(name, "w", force_zip64=how == "with Zip64") as member:
                member.write(whole.read(name))
    written = stream.getvalue()
    assert written.count(b"PK\x07\x08") == (0 if how == "with Zip64" else len(whole.namelist()))
    if how.startswith("with other"):
        written = re.sub(rb"(PK\x07\x08)(.{12})", rb"\1" + b"\7" * 12, written, flags=re.DOTALL)
    (path := tmp_path / "x.pt").write_bytes(written)
    assert torch.equal(read_torch_file(path).tensors["x"], WIDE)


WARNED = """
import sys, warnings
from pathlib import Path
from contextlib import suppress
import torch
from torchvgg.convert.read.torch_file import read_torch_file

for read in (read_torch_file, torch.load):
    with warnings.catch_warnings(record=True) as caught, suppress(ValueError):
        warnings.simplefilter("always")
        read(Path(sys.argv[1]))
    print(len(caught))
"""


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*TypedStorage", "ignore:.*Sparse CSR")
@pytest.mark.parametrize("kind", ["quantized", "sparse"])
def test_pytorchs_warnings_do_not_come(kind: str, tmp_path: Path) -> None:
    """PyTorch warns, once a process, when it loads these."""
    x = torch.quantize_per_tensor(WIDE, 1, 0, torch.qint8) if kind == "quantized" else WIDE[0].to_sparse_csr()
    torch.save({"x": x}, path := tmp_path / "x.pt")
    ours, theirs = subprocess.check_output([sys.executable, "-c", WARNED, str(path)], cwd=ROOT).split()
    assert (int(ours), int(theirs) > 0) == (0, True)


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


NAMED = b"ccollections\nOrderedDict\nq\x01"
REPEATED = {
    "pairs": (b"](" + b"".join(b"](X\4\0\0\0%04xNe" % n for n in range(20_000)) + b"eq\x00", NAMED, b"h\x01h\x00\x85R"),
    "sizes": (
        b"("
        + b"K\x01" * 100_000
        + b"tq\x00(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x01tQq\x02",
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x01",
        b"h\x01(h\x02K\x00h\x00h\x00\x89NtR",
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_what_calls_name_again_and_again_takes_no_memory_and_time(name: str) -> None:
    """The same long list in a thousand calls, 10 bytes each: once 500 MB, or a minute."""
    long, called, call = REPEATED[name]
    calls = b"".join(b"X\4\0\0\0%04x" % n + call for n in range(1000))
    started = time.process_time()
    with pytest.raises(ValueError, match="a pickle"):
        read_pickle(b"\x80\x02](" + long + called + b"}(" + calls + b"ue.")
    assert time.process_time() - started < 2
