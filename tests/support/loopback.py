"""A web server on the loopback interface that can be told to misbehave, and archives to serve."""

import contextlib
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path


class Site:
    """What the server sends, how it misbehaves, and what it was asked."""

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, bytes] = {}
        self.ranges = True  # answers Range with 206
        self.chunked = False  # no Content-Length, as GitHub does for archives made on demand
        self.cuts: list[int] = []  # bytes after which the next connections are dropped
        self.status = 200  # or an error to answer everything with
        self.asked: list[str | None] = []  # the Range header of every request


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range")
        site.asked.append(asked)
        self.close_connection = True
        if self.path not in site.files or site.status != 200:
            self.send_error(site.status if site.status != 200 else 404)
            return
        body, start = site.files[self.path], 0
        if asked and site.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            rest = f"{len(rest):x}\r\n".encode() + rest + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: site.cuts.pop(0)] if site.cuts else rest)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """A `Site` at its `address` while the block runs."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of path → content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def listed(files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    """Path → (bytes, SHA-256), as `unpack` wants it."""
    return {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden or not, sorted."""
    return sorted(path.name for path in folder.iterdir())
