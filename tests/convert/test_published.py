"""Getting the published files: where they are looked for, and downloads from a real HTTP server on this machine."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from torchvgg import VGG16, convert
from torchvgg.convert import download, published
from torchvgg.convert.command_line import main

from ..helpers.server import FILENAME, Server


def home(name: str = "") -> Path:
    return Path(os.environ["TORCHVGG_HOME"], name)


def contents() -> set[str]:
    return {path.name for path in home().iterdir()}


def test_imagenet_is_fetched_once_and_converted_once(server: Server) -> None:
    first = VGG16(include_top=False)
    assert server.requests == [(f"/mirror/{FILENAME}", None)]
    assert contents() == {FILENAME, "vgg16-notop.safetensors"}
    with safe_open(home("vgg16-notop.safetensors"), "pt") as file:
        assert file.metadata()["source_md5"] == published.FILES["vgg16-notop"].md5
    home(FILENAME).unlink()
    second = VGG16(include_top=False, weights="imagenet")
    assert len(server.requests) == 1
    for key, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor), key


def test_a_converted_top_serves_imagenet_without_it(server: Server, headless: Path) -> None:
    convert.convert(headless, home("vgg16.safetensors"), check=False)
    VGG16(include_top=False)
    assert server.requests == []


def test_what_keras_has_downloaded_is_used(server: Server, headless: Path) -> None:
    models = Path(os.environ["KERAS_HOME"], "models")
    models.mkdir()
    (models / FILENAME).write_bytes(b"broken")
    assert published.find("vgg16-notop") == home(FILENAME)  # its hash is wrong: fetched
    assert len(server.requests) == 1
    home(FILENAME).unlink()
    (models / FILENAME).write_bytes(headless.read_bytes())
    assert published.find("vgg16-notop") == models / FILENAME
    assert len(server.requests) == 1


def test_a_file_put_by_hand_is_checked(server: Server) -> None:
    home(FILENAME).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{FILENAME}: expected MD5 .* Received: .*delete it"):
        published.find("vgg16-notop")
    assert server.requests == []


def test_a_dropped_connection_is_resumed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.fault = "cut off"
    assert main(["vgg16-notop"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: http://127.0.0.1")
    assert "run it again to resume, or fetch it by hand and put it at" in error
    assert error.count("\n") == 1
    assert contents() == {f"{FILENAME}.part"}
    server.fault = ""
    half = home(f"{FILENAME}.part").stat().st_size
    assert half == len(server.content) // 2
    assert published.find("vgg16-notop").read_bytes() == server.content
    assert server.requests[-1] == (f"/mirror/{FILENAME}", f"bytes={half}-")


def test_a_server_without_ranges_sends_it_all_again(server: Server) -> None:
    home(f"{FILENAME}.part").write_bytes(server.content[:1000])
    server.fault = "no ranges"
    assert published.find("vgg16-notop").read_bytes() == server.content


@pytest.mark.parametrize("fault", ["no length", "no number"])
def test_without_a_length_the_known_size_counts(server: Server, fault: str) -> None:
    server.fault = fault
    if fault == "no length":  # and it breaks off in the middle
        with pytest.raises(
            OSError, match=r"the connection ended after [\d,]+ of [\d,]+ bytes\); run it again to resume"
        ):
            published.find("vgg16-notop")
        assert home(f"{FILENAME}.part").stat().st_size == len(server.content) // 2
        server.fault = ""
    assert published.find("vgg16-notop").read_bytes() == server.content


@pytest.mark.parametrize("fault", ["endless", "too long"])
def test_an_endless_body_is_cut_at_the_known_size(server: Server, fault: str) -> None:
    server.fault = fault
    with pytest.raises(OSError, match=r"expected MD5 .*, [\d,]+ bytes\. Received: .*, [\d,]+ bytes and more") as caught:
        published.find("vgg16-notop")
    received = re.search(r"([\d,]+) bytes and more, deleted", str(caught.value))
    assert received
    assert 0 < int(received[1].replace(",", "")) - len(server.content) <= 1 << 18
    assert contents() == set()


def test_a_trickle_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    server.fault, server.pause = "trickling", 0.02  # for days, if nobody gives up
    with pytest.raises(
        OSError, match=r"no full download \(\d+ bytes in 0 seconds, which is too slow\); run it again to"
    ):
        published.find("vgg16-notop")
    assert 0 < home(f"{FILENAME}.part").stat().st_size < 1000
    server.fault, server.pause = "", 0.0
    assert published.find("vgg16-notop").read_bytes() == server.content


def test_another_part_than_was_asked_for(server: Server) -> None:
    home(f"{FILENAME}.part").write_bytes(server.content[:1000])
    server.fault = "another part"
    with pytest.raises(OSError, match="the server sent another part than was asked for; what was there is deleted"):
        published.find("vgg16-notop")
    assert contents() == set()
    assert published.find("vgg16-notop").read_bytes() == server.content


def test_a_part_that_is_whole_is_taken(server: Server) -> None:
    home(f"{FILENAME}.part").write_bytes(server.content)
    assert published.find("vgg16-notop").read_bytes() == server.content


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", "HTTP status 404"),
        ("416", "HTTP status 416"),
        ("wrong", "expected MD5"),
        ("wrong part", "expected MD5"),
        ("closed", "no full download"),
        ("packed", "the server packed it as gzip, which nobody asked for"),
        ("redirected", "file:///etc/passwd"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(
    server: Server, fault: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fault = fault
    if fault == "wrong":
        server.content = b"something else"
    if fault == "wrong part":
        home(f"{FILENAME}.part").write_bytes(b"something else")
    if fault == "closed":
        monkeypatch.setenv("TORCHVGG_MIRROR", "http://127.0.0.1:1")
    assert main(["vgg16-notop"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(home(FILENAME)) in error
    assert error.count("\n") == 1
    assert contents() == set()


def test_what_a_server_says_is_one_line_in_python_too(server: Server) -> None:
    server.fault = "redirected to itself"
    with pytest.raises(OSError, match=r"infinite loop\. The last 30x error message was: Found") as error:
        published.find("vgg16-notop")
    assert str(error.value).isprintable()


def test_a_full_disk_is_one_line(server: Server, file_size_limit: int) -> None:
    with pytest.raises(OSError, match="make room, or set TORCHVGG_HOME to another folder, or fetch it by hand"):
        published.find("vgg16-notop")
    assert contents() == {f"{FILENAME}.part"}
    assert home(f"{FILENAME}.part").stat().st_size <= file_size_limit


def test_a_home_that_is_no_folder_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    home("file").touch()
    monkeypatch.setenv("TORCHVGG_HOME", str(home("file")))
    with pytest.raises(OSError, match="set TORCHVGG_HOME to another folder") as error:
        published.find("vgg16-notop")
    assert "make room" not in str(error.value)


def test_a_user_without_a_home_folder(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number: nothing is written to a folder called "~", and Keras's isn't needed."""
    for variable in ("HOME", "KERAS_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)
    assert published.find("vgg16-notop") == home(FILENAME)
    monkeypatch.delenv("TORCHVGG_HOME")
    with pytest.raises(OSError, match=r"^~/\.cache/torch/hub/torchvgg: no home folder is known; set TORCHVGG_HOME to"):
        VGG16(include_top=False)


def test_a_home_that_can_t_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHVGG_HOME", "/proc/torchvgg")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"^/proc is a folder that you can't write to; set TORCHVGG_HOME to"):
        VGG16(include_top=False)


def test_the_published_hashes_are_keras_own() -> None:
    """Each name and MD5 stands in the source of the Keras that is installed."""
    import keras.src.applications as applications

    for published_file in published.FILES.values():
        source = Path(applications.__path__[0], f"{published_file.folder}.py").read_text()
        assert published_file.filename in source
        assert published_file.md5 in source
        assert published.ADDRESS.split("/tensorflow/")[0] in source


@pytest.mark.parametrize(
    ("options", "message"),
    [({"layout": "mine"}, "layout: expected"), ({"dtype": "bfloat16", "output": "x.h5"}, "reads bfloat16 from a")],
)
def test_options_are_checked_before_anything_is_fetched(
    options: dict[str, Any], message: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert.convert("vgg16-notop", tmp_path / options.pop("output", "x.pt"), **options)
    assert server.requests == []
