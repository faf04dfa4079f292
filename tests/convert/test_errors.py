"""Messages name the file that the user named, not an unfinished one."""

import errno
from pathlib import Path

import pytest

from torchvgg.convert.atomic_files import writing
from torchvgg.convert.errors import explaining_failed_write, message_of, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/.out.h5-0123456789abcdef/unfinished.h5: full", "/a/out.h5: full"),
        ("name = '/a/.b-c.pt-0123456789abcdef/unfinished.pt', errno", "name = '/a/b-c.pt', errno"),
        ("/a/.out.h5-0123456789abcdef: full", "/a/out.h5: full"),
        ("/a/.config/out-2.h5", "/a/.config/out-2.h5"),
    ],
)
def test_unfinished_files_have_their_last_name(text: str, expected: str) -> None:
    assert one_line(text) == expected


@pytest.mark.parametrize("is_explained", [False, True])
def test_a_failed_write_names_the_output(is_explained: bool, tmp_path: Path) -> None:
    def fail(unfinished: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(unfinished))

    with (
        pytest.raises(OSError, match="No space left on device") as raised,
        writing(target := tmp_path / "o.h5") as path,
    ):
        if is_explained:
            with explaining_failed_write(tmp_path):
                fail(path)
        fail(path)
    assert "unfinished" not in message_of(raised.value)
    if is_explained:
        assert message_of(raised.value).startswith(f"{tmp_path}: can't be written to (")
    else:
        assert message_of(raised.value) == f"{target}: No space left on device"
    assert not list(tmp_path.iterdir())
