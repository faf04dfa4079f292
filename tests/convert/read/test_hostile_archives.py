"""`.keras` archives from untrusted sources: their members, and what their configurations name."""

import io
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import h5py
import pytest

from torchvgg import load_model

from ...helpers.hostile import CONFIG, KERAS2, Refused, W, member_of, members, rezip


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


def flipped(deflated: bool) -> Callable[[Path], None]:
    """Flips one bit of the weights; where they are stored, of a number that is as good as any other."""
    weights = member_of("trained.keras", W)
    with h5py.File(io.BytesIO(weights)) as file:
        number = file["layers/dense/vars/0"].id.get_offset()

    def change(path: Path) -> None:
        rezip(path, {}, deflated)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(W)
        content = bytearray(path.read_bytes())
        content[info.header_offset + 30 + len(W) + (info.compress_size // 2 if deflated else number)] ^= 1
        path.write_bytes(content)

    return change


def symlink() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("assets")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def crowded(count: int) -> Callable[[Path], None]:
    """So many members in the directory, of which none has a place of its own."""

    def change(path: Path) -> None:
        rezip(path, {})
        with zipfile.ZipFile(path, "a") as archive:
            first = archive.infolist()[0]
            for number in range(count):
                archive.filelist.append(info := copy(first))
                info.filename = info.orig_filename = f"{number:050}"
            archive._didModify = True

    return change


KERAS: list[tuple[Callable[[Path], None], str]] = [
    (crowded(10_000), "an archive of more than 10000 members"),
    (crowded(50_000), "its directory has more than 4,194,304 bytes"),
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
    *((flipped(deflated), "a damaged archive .*CRC-32 for file 'model.weights.h5'") for deflated in (False, True)),
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
    (
        members({"config.json": CONFIG.replace(b"[null, 16, 24, 3]", b"[null, 1600000, 2400000, 3]")}),
        "larger than any memory",
    ),
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
    ({"module": "os", "class_name": "system", "config": {"name": "touch MARKER"}}, r"\(system\): a custom layer"),
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
