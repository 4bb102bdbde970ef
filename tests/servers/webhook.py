"""A receiver of webhooks on loopback that fails on demand."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Post:
    """One request as it came, and what it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


class WebhookReceiver:
    """Takes posts while the context is open. ``faults``: one an answer, a status or 0 to hang up; none left: 204."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.faults: deque[tuple[int, dict[str, str]]] = deque()

    @property
    def accepted(self) -> list[Post]:
        return [post for post in self.posts if post.status == 204]

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = receiver.faults.popleft() if receiver.faults else (204, {})
                if len(body) > MAX_BYTES:
                    status = 413
                receiver.posts.append(Post(path=self.path, headers=dict(self.headers), body=body, status=status))
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
