"""Downloads: resumed if they were interrupted, checked by their MD5, one process at a time."""

import errno
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from .files import locked, md5


def download(url: str, target: Path, expected_md5: str) -> None:
    """Fetches `url` to `target`, which appears only when it is complete and right. An interrupted download is resumed.

    Raises:
        OSError: it can't be fetched or written, or has another hash; the message says what to do.
    """
    partial = target.with_name(f"{target.name}.part")
    by_hand = f"fetch it by hand and put it at {target}"
    try:
        with locked(partial):
            if target.is_file() and md5(target) == expected_md5:
                return  # by another process
            _fetch(url, partial)
            _accept(url, partial, target, expected_md5)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: HTTP status {error.code} ({error.reason}); {by_hand}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{url}: no full download ({reason}); run it again to resume, or {by_hand}") from None
    except _WrongHashError as error:
        raise OSError(f"{error}; run it again, or {by_hand}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = f"{'make room, or ' if full else ''}set TORCHVGG_HOME to another folder, or {by_hand}"
        raise OSError(f"{partial}: {error.strerror or error}; {advice}") from None


class _WrongHashError(OSError):
    pass


def _accept(url: str, partial: Path, target: Path, expected_md5: str) -> None:
    """Renames a complete download if its MD5 is right."""
    if (received := md5(partial)) != expected_md5:
        partial.unlink()
        raise _WrongHashError(f"{url}: expected MD5 {expected_md5}. Received: {received}, deleted")
    partial.replace(target)


def _fetch(url: str, partial: Path) -> None:
    """Appends to `partial` what is missing of `url`."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing follows: `partial` is complete, or another file, which the MD5 shows
            raise
        return
    with response:
        if response.status != 206:
            start = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        done = start
        with open(partial, "ab" if start else "wb") as stream:
            progress = _progress_bar(partial.stem, total)
            while block := response.read(1 << 18):
                stream.write(block)
                done += len(block)
                progress(done)
    if total is not None and done < total:
        raise EOFError(f"the connection ended after {done:,} of {total:,} bytes")


def _progress_bar(label: str, total: int | None) -> Callable[[int], None]:
    """Returns a function that shows how much has come, on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        return lambda done: None

    def show(done: int) -> None:
        share = f"{done / total:4.0%} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
        print(f"\r{label}  {share}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
