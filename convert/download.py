"""Downloads: resumed if they were interrupted, checked by their MD5, one process at a time."""

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from .atomic_files import locked, md5
from .errors import FULL
from .progress import DownloadProgress


def download(url: str, target: Path, expected_md5: str) -> None:
    """Fetches `url` to `target`, which appears only when it is complete and right. An interrupted download is resumed.

    Raises:
        OSError: it can't be fetched or written, or has another hash; the message says what to do.
    """
    partial = target.with_name(f"{target.name}.part")
    by_hand = f"fetch it by hand and put it at {target}"
    try:
        with locked(target.with_name(f"{target.name}.lock")):
            if target.is_file() and md5(target) == expected_md5:
                return  # by another process
            _fetch(url, partial)
            if (received := md5(partial)) == expected_md5:
                partial.replace(target)
                return
            partial.unlink()
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: HTTP status {error.code} ({error.reason}); {by_hand}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{url}: no full download ({reason}); run it again to resume, or {by_hand}") from None
    except OSError as error:
        advice = f"{'make room, or ' if error.errno in FULL else ''}set TORCHVGG_HOME to another folder, or {by_hand}"
        raise OSError(f"{target}: {error.strerror or error}; {advice}") from None
    raise OSError(f"{url}: expected MD5 {expected_md5}. Received: {received}, deleted; run it again, or {by_hand}")


def _fetch(url: str, partial: Path) -> None:
    """Appends to `partial` what is missing of `url`."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing follows: `partial` is complete, or another file, which the MD5 shows
            raise
        return
    with response:
        if response.status != 206:
            done = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(partial, "ab" if done else "wb") as stream, DownloadProgress(partial.stem, total) as progress:
            while block := response.read(1 << 18):
                stream.write(block)
                done += len(block)
                progress.update(done)
    if total is not None and done < total:
        raise EOFError(f"the connection ended after {done:,} of {total:,} bytes")
