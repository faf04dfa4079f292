"""Downloads: resumed if they were interrupted, checked by their MD5, one process at a time."""

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from .atomic_files import locked, md5
from .errors import FULL, one_line
from .progress import DownloadProgress

SLOWEST, PATIENCE = 1000, 60  # bytes a second on average, over so many seconds; slower downloads are given up


def download(url: str, target: Path, size: int, expected_md5: str) -> None:
    """Fetches `url`, of `size` bytes, to `target`, which appears only when it is complete and right. An interrupted download is resumed.

    Raises:
        OSError: it can't be fetched or written, or has another hash; the message says what to do.
    """
    partial = target.with_name(f"{target.name}.part")
    by_hand = f"fetch it by hand and put it at {target}"
    try:
        with locked(target.with_name(f"{target.name}.lock")):
            if target.is_file() and md5(target) == expected_md5:
                return  # by another process
            _fetch(url, partial, size)
            if (received := md5(partial)) == expected_md5:
                partial.replace(target)
                return
            received_size = partial.stat().st_size
            partial.unlink()
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: HTTP status {error.code} ({one_line(str(error.reason))}); {by_hand}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException, EOFError) as error:
        reason = one_line(str(getattr(error, "reason", error)))
        raise OSError(f"{url}: no full download ({reason}); run it again to resume, or {by_hand}") from None
    except OSError as error:
        advice = f"{'make room, or ' if error.errno in FULL else ''}set TORCHVGG_HOME to another folder, or {by_hand}"
        raise OSError(f"{target}: {error.strerror or error}; {advice}") from None
    more = " and more" if received_size > size else ""
    raise OSError(
        f"{url}: expected MD5 {expected_md5}, {size:,} bytes. Received: {received}, {received_size:,} bytes{more}, deleted; "
        f"run it again, or {by_hand}"
    )


def _fetch(url: str, partial: Path, size: int) -> None:
    """Appends to `partial` what is missing of `url`, until it has all of it, or more than `size` bytes."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response: Any = urllib.request.urlopen(request, timeout=60)  # seconds, for each read
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing follows: `partial` is complete, or another file, which the MD5 shows
            return
        raise
    with response:
        if packing := response.headers.get("Content-Encoding"):
            raise EOFError(f"the server packed it as {packing}, which nobody asked for")
        if response.status != 206:
            done = 0  # the server sends all of it
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            partial.unlink(missing_ok=True)
            raise EOFError("the server sent another part than was asked for; what was there is deleted")
        length = getattr(response, "length", None)  # of HTTP, unless it is no number
        total = size if length is None else done + length
        with open(partial, "ab" if done else "wb") as stream, DownloadProgress(partial.stem, total) as progress:
            since, before = time.monotonic(), done
            while done <= size and (block := response.read1(1 << 18)):
                stream.write(block)
                done += len(block)
                progress.update(done)
                if (seconds := time.monotonic() - since) > PATIENCE:
                    if done - before < SLOWEST * seconds:
                        raise TimeoutError(f"{done - before:,} bytes in {seconds:.0f} seconds, which is too slow")
                    since, before = time.monotonic(), done
    if done < total <= size:
        raise EOFError(f"the connection ended after {done:,} of {total:,} bytes")
