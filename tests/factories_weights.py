"""A small web server with all the bad habits that downloads meet, and manifests for it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from duet.weights import Manifest, load_manifest


@dataclass
class Site:
    """What the server serves, how, and what it was asked.

    Attributes:
        body: Content of every path.
        ranges: Whether it resumes.
        etag: Sent as ETag if not empty.
        cuts: Bytes after which the next answers break off, one answer each.
        announced: Content-Length, if not the true one; -1 sends none.
        statuses: Status codes of the next answers, before it serves the body.
        redirects: Where the next requests for ``/w.pt`` are sent, one each.
        blind: Resume even if the file has changed.
        stall: Seconds for which a cut answer stays open.
        asked: Headers of every request so far.
    """

    body: bytes
    ranges: bool = True
    etag: str = '"one"'
    cuts: list[int] = field(default_factory=list)
    announced: int | None = None
    statuses: list[int] = field(default_factory=list)
    redirects: list[str] = field(default_factory=list)
    blind: bool = False
    stall: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/w.pt"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(dict(self.headers))
        if site.redirects:
            return self._end(302, {"Location": site.redirects.pop(0)})
        if site.statuses:
            return self._end(site.statuses.pop(0), {})
        start = self._start()
        if start and start >= len(site.body):
            return self._end(416, {"Content-Range": f"bytes */{len(site.body)}"})
        rest = site.body[start:]
        headers = {"ETag": site.etag} if site.etag else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
        length = len(rest) if site.announced is None else site.announced
        if length >= 0:
            headers["Content-Length"] = str(length)
        self._head(206 if start else 200, headers)
        with contextlib.suppress(OSError):  # the other side may hang up first
            self.wfile.write(rest[: site.cuts[0]] if site.cuts else rest)
        if site.cuts:
            site.cuts.pop(0)
            time.sleep(site.stall)
        return None

    def _start(self) -> int:
        wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
        same = self.site.blind or known == self.site.etag
        return int(wanted[6:-1]) if wanted and self.site.ranges and same else 0

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _end(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": "0"})

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the name service for the name of 127.0.0.1.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve ``site`` on this machine."""
    handler = type("Handler", (_Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def checkpoint_bytes(numbers: int = 100_000, seed: int = 0) -> bytes:
    """Return a plain state dict as `torch.save` writes it; 4 bytes a number."""
    stream = io.BytesIO()
    generator = torch.Generator().manual_seed(seed)
    torch.save({"w": torch.randn(numbers, generator=generator)}, stream)
    return stream.getvalue()


def row(site: Site, **changes: Any) -> dict[str, Any]:
    """Return a row of a manifest for what ``site`` serves."""
    return {
        "name": "tiny", "family": "yolo", "architecture": "yolo11n.yaml", "classes": "pets",
        "licence": "AGPL-3.0", "file": "tiny.pt", "url": site.url, "sha256": site.sha256,
        "size": len(site.body), **changes,
    }  # fmt: skip


def write_manifest(folder: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    """Write a manifest of these rows."""
    document = {"schema": 1, "class_lists": {"pets": ["cat", "dog"]}, "weights": list(rows)}
    path = folder / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | changes))
    return path


def manifest_of(folder: Path, *rows: dict[str, Any]) -> Manifest:
    """Write and read a manifest."""
    return load_manifest(write_manifest(folder, *rows))
