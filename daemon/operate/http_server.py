"""The operators' HTTP port: ``/metrics``, ``/livez`` and ``/readyz``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from daemon.errors import ConfigError
from daemon.operate.health import Report

REQUEST_TIMEOUT_S = 10.0
"""A client that sends or reads nothing for so long is let go."""


class HttpServer:
    """Serves in threads of its own, as a context manager. On the loopback address unless told otherwise.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        live: Callable[[], Report],
        ready: Callable[[], Report],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another `http` address or port"
            ) from error
        self._server.registry, self._server.live, self._server.ready = registry, live, ready
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; with port 0, the one that was free."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where it answers."""
        host = str(self._server.server_address[0])
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to answer; does nothing where it already does."""
        if self._thread is not None:
            return  # Two loops on one socket cannot both be told to stop: closing would wait for ever.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to answer and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: CollectorRegistry
    live: Callable[[], Report]
    ready: Callable[[], Report]


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "vigie"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.server.registry))
        elif path == "/livez":
            self._report(self.server.live())
        elif path == "/readyz":
            self._report(self.server.ready())
        else:
            told = {"error": f"nothing is at {path[:100]}", "paths": ["/metrics", "/livez", "/readyz"]}
            self._answer(404, "application/json", json.dumps(told).encode())

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the standard library's
        """Write no access log: probes come every few seconds."""

    def _report(self, report: Report) -> None:
        body = json.dumps({"ok": report.ok, **report.details}, sort_keys=True).encode() + b"\n"
        self._answer(200 if report.ok else 503, "application/json", body)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
