"""A cache of its own for each test, and a web server on the loopback address that misbehaves on request."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backbones.weights import fetch


class Server(ThreadingHTTPServer):
    """Files by name, under ``/KIND/NAME``; the kind says how they are served.

    Attributes:
        files: Name -> content.
        requests: (path, Range header or None) of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, kind: str) -> int:
        return sum(path.startswith(f"/{kind}/") for path, _ in self.requests)

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        _, kind, name = self.path.split("?")[0].split("/", 2)
        visit = sum(path == self.path for path, _ in self.server.requests)
        if kind == "redirect":
            self.answer(302, b"", Location=f"/plain/{name}")
            return
        if name not in self.server.files or kind == "missing":
            self.answer(404, b"not here")
            return
        content = self.server.files[name]
        if kind == "page":
            self.answer(200, b"<!DOCTYPE html><html>Please log in</html>", content_type="text/html")
            return
        if kind == "busy" and visit == 1:
            self.answer(503, b"later")
            return
        if kind == "silent" or (kind == "silent-once" and visit == 1):
            time.sleep(1)
        if kind == "changed" and visit > 1:
            content = content[::-1]

        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {} if kind == "untagged" else {"ETag": tag}
        status, start = 200, 0
        if wanted and kind != "no-range" and self.headers.get("If-Range", tag) == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        broken = kind == "always-cut" or (kind in ("cut", "changed", "no-range", "untagged") and visit == 1)
        self.answer(status, body[: len(body) // 2] if broken else body, length=len(body), **headers)

    def answer(self, status, body, length=None, content_type="application/octet-stream", **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length not in (None, len(body)):
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no mirror, no waiting between attempts."""
    monkeypatch.setenv("BACKBONES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BACKBONES_MIRROR", raising=False)
    monkeypatch.setattr(fetch, "TIMEOUT", 5.0)
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    monkeypatch.setattr(fetch, "RETRIES", 2)
    return tmp_path / "home"
