"""A mirror of the published files on this machine: a real HTTP server, with the faults that servers have."""

import contextlib
import http.server
import time
from typing import Any

FILENAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, in the way that `fault` names, and notes what it was asked for."""

    content = b""
    fault = ""
    pause = 0.0  # seconds after each 100 KB, or each byte that trickles

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if self.server.fault in ("404", "416"):
            self.send_error(int(self.server.fault))
            return
        if self.server.fault == "no ranges":
            start = 0
        elif start >= len(self.server.content):
            self.send_error(416)
            return
        if self.server.fault in ("redirected", "redirected to itself"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd" if self.server.fault == "redirected" else self.path)
            self.end_headers()
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        lengths = {"no length": None, "endless": None, "trickling": None, "no number": "12abc", "too long": "9" * 12}
        if length := lengths.get(self.server.fault, str(len(body))):
            self.send_header("Content-Length", length)
        if start:
            first = 0 if self.server.fault == "another part" else start
            self.send_header(
                "Content-Range", f"bytes {first}-{len(self.server.content) - 1}/{len(self.server.content)}"
            )
        if self.server.fault == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.server.fault in ("cut off", "no length"):
            body = body[: len(body) // 2]
        with contextlib.suppress(ConnectionError):  # who asked may be dead by now, or have enough
            while self.server.fault in ("endless", "too long"):
                self.wfile.write(body)
            step = 1 if self.server.fault == "trickling" else 100_000
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                time.sleep(self.server.pause)

    def log_message(self, *_: Any) -> None:
        pass
