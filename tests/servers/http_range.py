"""A web server of one folder that answers range requests, and misbehaves on demand.

No test double: GDAL and urllib talk real HTTP to it over loopback.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

_TYPES = {".tif": "image/tiff", ".json": "application/json", ".geojson": "application/geo+json", ".png": "image/png"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What one answer does instead of serving the file."""

    status: int | None = None
    """Answer with this status and no body."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of such an answer, e.g. ``("Retry-After", "1")`` or ``("Location", …)``."""
    body: bytes = b""
    """Body of such an answer."""
    delay_s: float = 0.0
    """Wait before answering."""
    truncate: int | None = None
    """Announce the whole body, send this many bytes of it, and hang up."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    range: str | None


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in mid-answer; that is theirs to do."""


class RangeServer:
    """Serves ``folder`` on a free port of 127.0.0.1 while the context is open.

    ``faults`` is a queue: each answer takes one, none left means no fault. ``always`` is the fault of every answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            def do_HEAD(self) -> None:
                outer._serve(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, name: str = "") -> str:
        """Address of a file of the folder."""
        return f"http://{self.host}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            fault = self.faults.popleft() if self.faults else self.always
            self.requests.append(Request(method=handler.command, path=handler.path, range=handler.headers.get("Range")))
        try:
            self._answer(handler, fault or Fault())
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def _answer(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        if fault.delay_s:
            time.sleep(fault.delay_s)
        if fault.status is not None:
            self._send(handler, fault.status, fault.body, dict(fault.headers))
            return
        path = (self.folder / unquote(urlsplit(handler.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            self._send(handler, 404, b"", {})
            return
        data = path.read_bytes()
        headers = {"Accept-Ranges": "bytes", "Content-Type": _TYPES.get(path.suffix, "application/octet-stream")}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
        status, body = 200, data
        if match is not None:
            start, end = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            if start >= len(data):
                self._send(handler, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status, body = 206, data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(handler, status, body, headers, cut=fault.truncate)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            handler.close_connection = True
