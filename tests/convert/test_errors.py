"""Messages name the file that the user named, not an unfinished one."""

import errno
from contextlib import nullcontext
from pathlib import Path

import pytest

from torchvgg.convert.atomic_files import writing
from torchvgg.convert.errors import explaining_failed_write, message_of, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/.out.h5-0123456789abcdef/unfinished.h5: full", "/a/out.h5: full"),
        (r"C:\\a\\.out.h5-0123456789abcdef\\unfinished.h5: full", r"C:\\a\\out.h5: full"),
        ("name = '/a/.b-c.pt-0123456789abcdef/unfinished.pt', errno", "name = '/a/b-c.pt', errno"),
        ("/a/.out.h5-0123456789abcdef: full", "/a/out.h5: full"),
        ("/a/.config/out-2.h5", "/a/.config/out-2.h5"),
    ],
)
def test_unfinished_files_have_their_last_name(text: str, expected: str) -> None:
    assert one_line(text) == expected


@pytest.mark.parametrize("is_explained", [False, True])
def test_a_failed_write_names_the_output(is_explained: bool, tmp_path: Path) -> None:
    target = tmp_path / "o.h5"

    def write() -> None:
        with writing(target) as unfinished, explaining_failed_write(tmp_path) if is_explained else nullcontext():
            raise OSError(errno.ENOSPC, "No space left on device", str(unfinished))

    with pytest.raises(OSError, match="No space left on device") as raised:
        write()
    message = message_of(raised.value)
    assert "unfinished" not in message
    assert message.startswith(f"{tmp_path}: can't be written to (" if is_explained else f"{target}: No space left")
    assert not list(tmp_path.iterdir())
