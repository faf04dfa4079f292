"""Security advisories of what these files are made with, of 2025 and 2026 above all, and the tests that show that they don't apply.

What an advisory says was read in GitHub's and its vendor's texts in November 2026; where no text was found, its row says so. The HDF5
library is the one that is called with untrusted data: its errors of memory can't be mended here. They are kept to a process that has
limits and reads only, where a crash is one line; h5py 3.16 comes with HDF5 2.0.0, in which those of 2025 are mended.
"""

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchvgg import load_model
from torchvgg.convert.read.torch_file import read_torch_file

from ...helpers.hostile import CONFIG, KERAS2, ROOT, Refused, Watch, headless_vgg, rezip

HOSTILE = "tests/convert/read/test_hostile"
HERE = "tests/convert/read/test_advisories.py"
CODE, PATHS = f"{HOSTILE}_archives.py::test_code_in_a_configuration_is_not_run", f"{HERE}::test_no_path_is_opened"
ARCHIVES, HDF5 = f"{HOSTILE}_archives.py::test_hostile_archives", f"{HOSTILE}_hdf5.py::test_hostile_hdf5"
LITTLE = f"{HOSTILE}_files.py::test_no_other_file_is_opened_and_little_memory_taken"
STRUCTURES, CRASH = (
    f"{HERE}::test_structures_of_hdf5",
    "tests/convert/read/test_hdf5_process.py::test_how_the_process_ends",
)
MUTATED = "tests/convert/read/test_fuzz.py::test_mutated_files_are_read_or_refused_in_one_line"
ONNX = "tests/convert/read/test_onnx.py::test_hostile_files_are_refused"

ADVISORIES: list[tuple[str, str, list[str]]] = [
    # PyTorch, whose unpickler isn't called
    (
        "CVE-2026-24747 GHSA-63cw-57p8-fm3p",
        "weights_only: SETITEM on what is no dict, and storages of another length than their member, corrupt memory",
        [f"{HERE}::test_items_are_set_in_dicts_alone", f"{HOSTILE}_tensors.py::test_tensors_that_are_more_than_is_stored"],
    ),
    ("CVE-2025-32434 GHSA-53q9-r3pm-6pq6", "weights_only runs code", [f"{HOSTILE}_tensors.py::test_code_in_a_pickle_is_not_run"]),
    # Keras, none of whose code is called
    ("CVE-2024-3660", "a Lambda's code is run", [CODE]),
    ("CVE-2025-1550 GHSA-48g7-3x6r-xfhp", "config.json names any module and function, which is called", [CODE]),
    ("CVE-2025-8747 GHSA-c9rc-mg46-23w3", "config.json calls Keras's own functions, as get_file", [CODE, PATHS]),
    ("CVE-2025-9905 GHSA-36rr-ww3j-vrjv", "safe_mode is ignored for a Lambda in a .h5", [CODE]),
    ("CVE-2025-9906 GHSA-36fq-jgmw-4r9c", "config.json calls enable_unsafe_deserialization, then a Lambda", [CODE]),
    ("CVE-2025-49655", "TorchModuleWrapper unpickles what is in config.json", [CODE]),
    ("CVE-2025-12058 GHSA-qg93-c7p6-gg7f", "StringLookup reads the file or address that its vocabulary names", [PATHS]),
    ("CVE-2025-12060 CVE-2025-12638 GHSA-hjqc-jx6g-rwp9", "get_file unpacks a tar outside its folder", [ARCHIVES]),
    ("GHSA-hqp4-2352-xf5r", "members of an archive are unpacked outside its folder", [ARCHIVES]),
    ("CVE-2026-0897 GHSA-mgx6-5cf9-rr43 GHSA-xfhx-r7ww-5995", "a shape in a .weights.h5 takes all memory", [HDF5, LITTLE]),
    ("CVE-2026-1462 GHSA-4f3f-g24h-fr8m", "TFSMLayer loads the SavedModel that its path names", [PATHS]),
    ("CVE-2026-1669 GHSA-3m4q-jmj6-r34q", "HDF5's external datasets read any file", [HDF5, LITTLE]),
    ("CVE-2026-12479", "a layer's name leads out of the folder that a model is unpacked to", [PATHS]),
    ("CVE-2026-12481", "a Lambda's bytecode is run where safe_mode isn't set", [CODE]),
    # HDF5
    ("CVE-2025-2308 CVE-2025-44905", "the scale-offset filter overflows", [HDF5]),
    ("CVE-2025-2309", "the conversion of odd types overflows", [HDF5]),
    ("CVE-2025-2310", "an attribute's name of length 0", [STRUCTURES, CRASH]),
    ("CVE-2025-2913 CVE-2025-2926 CVE-2025-6817 CVE-2025-6858", "a continued header of length 0", [STRUCTURES, CRASH]),
    ("CVE-2025-2923 CVE-2025-6816 CVE-2025-6818 CVE-2025-6856", "a continued header that continues itself", [STRUCTURES, CRASH]),
    ("CVE-2025-2924", "a free list that leaves its heap", [STRUCTURES, CRASH]),
    ("CVE-2025-6857", "a tree whose branch is itself", [STRUCTURES, CRASH]),
    (
        "CVE-2025-2153 CVE-2025-2912 CVE-2025-2914 CVE-2025-2915 CVE-2025-2925 CVE-2025-6269 CVE-2025-6516 CVE-2025-6750 "
        "CVE-2025-7067 CVE-2025-7068 CVE-2025-7069 CVE-2026-26200",
        "other errors of memory, most of them where a file is written; no file of each kind was made",
        [CRASH, MUTATED],
    ),
    ("CVE-2025-6270 CVE-2025-44904", "errors of memory, of which no text was found", [CRASH, MUTATED]),
    # ONNX, whose package isn't called
    (
        "CVE-2024-27318 CVE-2025-51480 CVE-2026-27489 CVE-2026-34445 CVE-2026-34446",
        "external data: paths, links and attributes that lead elsewhere",
        [ONNX],
    ),
    # Others
    ("CVE-2020-14343 CVE-2020-1747", "PyYAML's full_load runs code", [f"{HERE}::test_yaml_runs_nothing_and_stays_small"]),
    ("CVE-2023-37470", "as said of safetensors: a header of any length; no advisory of its own was found", [f"{HOSTILE}_tensors.py::test_a_header_of_another_length"]),
    (
        "CVE-2026-40192 GHSA-whj4-6x5x-4v2j",
        "Pillow unpacks gzip in FITS without a limit; of its formats seven are opened, and FITS isn't one",
        ["tests/torchvgg/test_image_limits.py::test_what_is_no_image_is_refused"],
    ),
    ("zip bombs", "a member that unpacks to much more than is stored", [ARCHIVES, LITTLE]),
    ("npz bombs", "an .npz of a stranger isn't opened", ["tests/convert/read/test_file_kinds.py::test_every_kind_is_named"]),
]  # fmt: skip


@pytest.mark.parametrize(("names", "what", "tests"), ADVISORIES, ids=[names.split()[0] for names, *_ in ADVISORIES])
def test_every_advisory_has_a_test(names: str, what: str, tests: list[str]) -> None:
    assert all(re.fullmatch(r"CVE-\d{4}-\d{4,5}|GHSA(-\w{4}){3}|zip|npz|bombs", name) for name in names.split())
    assert what
    assert tests
    for test in tests:
        path, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), test


def test_no_advisory_stands_twice() -> None:
    every = [name for names, *_ in ADVISORIES for name in names.split() if name != "bombs"]
    assert len(every) == len({*every})


# --- PyTorch

TENSOR = (  # x: FloatTensor(4), as torch.save writes it; ITEM stands where an item may be set in what is no dict
    b"\x80\x02}X\1\0\0\0xctorch._utils\n_rebuild_tensor_v2\nFUNCTION((X\7\0\0\0storagectorch\nFloatStorage\nTYPE"
    b"X\1\0\0\x000X\3\0\0\0cpuK\4tQSTORAGEK\0K\4\x85TUPLEK\1\x85\x89ccollections\nOrderedDict\n)RtRTENSORs."
)
PLACES = [b"FUNCTION", b"TYPE", b"STORAGE", b"TUPLE", b"TENSOR"]


@pytest.mark.parametrize("set_items", [b"", b"K\0K\1s", b"(K\0K\1u"], ids=["whole", "SETITEM", "SETITEMS"])
@pytest.mark.parametrize("place", PLACES, ids=bytes.decode)
def test_items_are_set_in_dicts_alone(place: bytes, set_items: bytes, tmp_path: Path, check_refused: Refused) -> None:
    content = re.sub(b"|".join(PLACES), lambda found: set_items if found[0] == place else b"", TENSOR)
    with zipfile.ZipFile(path := tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", content)
        archive.writestr("evil/data/0", struct.pack("4f", 1, 2, 3, 4))
    if set_items:
        check_refused(path, "a pickle that isn't a dict of tensors", headless_vgg)
    else:
        assert read_torch_file(path).tensors["x"].tolist() == [1, 2, 3, 4]


# --- Keras


def function(module: str, name: str) -> dict[str, str]:
    return {"class_name": "function", "module": module, "config": name, "registered_name": "function"}


GET_FILE = function("keras.utils", "get_file")
NAMING: list[tuple[dict[str, Any], str]] = [
    ({"class_name": "StringLookup", "config": {"name": "a", "vocabulary": "MARKER"}}, "'a' .StringLookup.: a kind of layer"),
    ({"class_name": "IntegerLookup", "config": {"name": "a", "vocabulary": "MARKER"}}, "'a' .IntegerLookup.: a kind of layer"),
    ({"class_name": "TextVectorization", "config": {"name": "a", "vocabulary": "MARKER"}}, "a kind of layer"),
    ({"class_name": "TFSMLayer", "config": {"name": "a", "filepath": "MARKER"}}, "'a' .TFSMLayer.: a kind of layer"),
    (
        {"class_name": "Lambda", "config": {"name": "a", "function": GET_FILE, "arguments": {"origin": "file://MARKER"}}},
        "'a' .Lambda.: code",
    ),
    ({"class_name": "Activation", "config": {"name": "../../../MARKER", "activation": {"path": "MARKER"}}}, "can't be"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "message"), NAMING)
def test_no_path_is_opened(layer: dict[str, Any], message: str, tmp_path: Path, check_refused: Refused) -> None:
    (marker := tmp_path / "marker").write_text("secret\n")
    config = json.loads(CONFIG)
    config["config"]["layers"].append(layer)
    rezip(
        path := tmp_path / "hostile.keras", {"config.json": json.dumps(config).replace("MARKER", str(marker)).encode()}
    )
    watch, other = Watch(marker), Watch(marker)
    check_refused(path, message, load_model)
    assert not watch.was_opened()
    marker.read_text()
    assert other.was_opened()


# --- HDF5, version 0 of its format, as Keras writes it; the places are those in this file

WHOLE = (KERAS2 / "trained.h5").read_bytes()
CONTINUED = 112, 1152  # messages that say where an object's header goes on, of 8 bytes, an address and a length
TREE = WHOLE.index(b"TREE")
HEAP = WHOLE.index(b"HEAP")
NAME = WHOLE.index(b"keras_version\0")


def addresses(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def continued(place: int) -> tuple[int, int]:
    address, length = struct.unpack("<QQ", WHOLE[place + 8 : place + 24])
    return address, length


BYTES: dict[str, list[tuple[int, bytes]]] = {
    **{f"a header at {place} continued for 0 bytes": [(place + 16, addresses(0))] for place in CONTINUED},
    **{f"a header at {place} continued by itself": [(place + 8, addresses(place))] for place in CONTINUED},
    **{f"a header at {place} continued by its beginning": [(place + 8, addresses(96))] for place in CONTINUED},
    **{
        f"a part of a header at {place} continued by itself": [
            (continued(place)[0], struct.pack("<HHIQQ", 0x10, 16, 0, *continued(place)))
        ]
        for place in CONTINUED
    },
    "a header continued behind the end": [(120, addresses(len(WHOLE) - 8))],
    "an attribute's name of length 0": [(NAME - 6, b"\0\0")],
    "an attribute's name of length 65535": [(NAME - 6, b"\xff\xff")],
    "a tree whose branch is itself": [(TREE + 5, b"\1"), (TREE + 32, addresses(TREE))],
    "a tree of 65535 branches": [(TREE + 6, b"\xff\xff")],
    "a heap's free list behind its end": [(HEAP + 16, addresses(2**63 - 8))],
    "a heap longer than the file": [(HEAP + 8, addresses(2**40))],
    "a heap at the end of all addresses": [(HEAP + 24, addresses(2**64 - 16))],
}


@pytest.mark.parametrize("name", BYTES)
def test_structures_of_hdf5(name: str, tmp_path: Path, check_refused: Refused) -> None:
    content = bytearray(WHOLE)
    for place, new in BYTES[name]:
        content[place : place + len(new)] = new
    (path := tmp_path / "trained.h5").write_bytes(content)
    check_refused(path, "a damaged (or incomplete )?HDF5 file", load_model)


# --- PyYAML

LOL = "class_name: Sequential\na0: &a0 [" + "x, " * 30 + "x]\n"
YAML: dict[str, tuple[Callable[[Path], str], str]] = {
    "code": (lambda marker: f'class_name: !!python/object/apply:os.system ["touch {marker}"]\n', "YAML that can't be read"),
    "a new object": (lambda marker: f"class_name: !!python/object/new:os.system [[touch {marker}]]\n", "YAML that can't be read"),
    "aliases": (
        lambda _: LOL + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 30)}]\n" for n in range(1, 9)),
        "longer than Keras writes it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", YAML)
def test_yaml_runs_nothing_and_stays_small(name: str, tmp_path: Path) -> None:
    content, message = YAML[name]
    (path := tmp_path / "model.yaml").write_text(content(tmp_path / "marker"))
    with pytest.raises(ValueError, match=message):
        load_model(KERAS2 / "trained.h5", architecture=path)
    assert not (tmp_path / "marker").exists()
