"""An HTTP server that misbehaves as STAC APIs have been seen to, in the order that a test scripts."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Behaviour = Callable[["Request"], None]
"""Answers one request, in whatever way."""


class Request(BaseHTTPRequestHandler):
    """One request; ``server`` is the :class:`BadStac` it came to."""

    protocol_version = "HTTP/1.1"
    server: Any
    body: dict[str, Any]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"{}")
        bad: BadStac = self.server.owner
        if self.path.rstrip("/") == "":
            self.send_json(bad.landing())
            return
        with bad.lock:
            bad.searches.append(self.body)
            behave = bad.script.pop(0) if bad.script else bad.usual
        behave(self)

    def send_json(self, value: Any) -> None:
        self.send_text(json.dumps(value), "application/geo+json")

    def send_text(self, text: str, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        payload = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(payload)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


class BadStac:
    """A STAC API of ``items`` in pages of two, whose searches follow ``script`` while it lasts."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.script: list[Behaviour] = []
        self.usual: Behaviour = good_page
        self.searches: list[dict[str, Any]] = []
        self.conforms_to = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def landing(self) -> dict[str, Any]:
        links = [{"rel": "self", "href": self.url}, {"rel": "root", "href": self.url}]
        links.append({"rel": "search", "type": "application/geo+json", "href": f"{self.url}search", "method": "POST"})
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "bad",
            "description": "misbehaves",
            "conformsTo": self.conforms_to,
            "links": links,
        }

    def page(self, start: int) -> dict[str, Any]:
        stop = start + 2
        links = []
        if stop < len(self.items):
            links.append({"rel": "next", "href": f"{self.url}search", "method": "POST", "body": {"start": stop}})
        return {"type": "FeatureCollection", "features": self.items[start:stop], "links": links}

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def good_page(request: Request) -> None:
    request.send_json(request.server.owner.page(int(request.body.get("start", 0))))


def status(code: int, **headers: str) -> Behaviour:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: request.send_text("<h1>no</h1>", "text/html", code, named)


def html_200(request: Request) -> None:
    request.send_text("<html><body>We are down for maintenance</body></html>", "text/html")


def truncated_json(request: Request) -> None:
    request.send_text(json.dumps(request.server.owner.page(0))[:-30], "application/geo+json")


def cut_connection(request: Request) -> None:
    """Promise more bytes than come."""
    text = json.dumps(request.server.owner.page(0))
    request.send_response(200)
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text[: len(text) // 2].encode())
    request.wfile.flush()
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def wrong_types(request: Request) -> None:
    request.send_json({"type": "FeatureCollection", "features": {"id": 7}, "links": "none"})


def a_list(request: Request) -> None:
    request.send_json([1, 2, 3])


def silence(request: Request) -> None:
    """Accept, and never answer."""
    request.server.owner.closing.wait(30)


def slow_loris(request: Request) -> None:
    """A byte now and then: each read succeeds, the answer never ends."""
    text = json.dumps(request.server.owner.page(0)).encode()
    request.send_response(200)
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    _drip(request, text)


def slow_headers(request: Request) -> None:
    """As :func:`slow_loris`, but not even the headers end."""
    _drip(request, b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 500)


def _drip(request: Request, payload: bytes) -> None:
    for index in range(len(payload)):
        if request.server.owner.closing.is_set():
            return
        try:
            request.wfile.write(payload[index : index + 1])
            request.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def self_loop(request: Request) -> None:
    """Every page is the first, and its next link leads to it again."""
    page = request.server.owner.page(0)
    page["links"] = [{"rel": "next", "href": f"{request.server.owner.url}search", "method": "POST", "body": {}}]
    request.send_json(page)


def page_repeats(request: Request) -> None:
    """Every page is the first, under an ever new token."""
    page = request.server.owner.page(0)
    body = {"token": time.monotonic_ns()}
    page["links"] = [{"rel": "next", "href": f"{request.server.owner.url}search", "method": "POST", "body": body}]
    request.send_json(page)


def one_page_only(request: Request) -> None:
    """Heeds the window, but not the token: whatever is asked for, the first page comes, with a next one if any."""
    start, end = str(request.body.get("datetime", "/")).split("/")
    bad = request.server.owner
    found = [entry for entry in bad.items if not end or start <= entry["properties"]["datetime"] <= end]
    page = {"type": "FeatureCollection", "features": found[:2], "links": []}
    if len(found) > 2:
        body = {**request.body, "token": time.monotonic_ns()}
        page["links"] = [{"rel": "next", "href": f"{bad.url}search", "method": "POST", "body": body}]
    request.send_json(page)


def empty_for_ever(request: Request) -> None:
    body = {"token": time.monotonic_ns()}
    link = {"rel": "next", "href": f"{request.server.owner.url}search", "method": "POST", "body": body}
    request.send_json({"type": "FeatureCollection", "features": [], "links": [link]})


def elsewhere(request: Request) -> None:
    """The next page is at the cloud's metadata address."""
    page = request.server.owner.page(0)
    page["links"] = [{"rel": "next", "href": "http://169.254.169.254/latest/meta-data"}]
    request.send_json(page)


def redirect_elsewhere(request: Request) -> None:
    request.send_text("", "text/plain", 302, {"Location": "http://169.254.169.254/latest/meta-data"})


@pytest.fixture
def bad_stac() -> Iterator[Callable[[list[dict[str, Any]]], BadStac]]:
    """Makes misbehaving servers of the Items given, and closes them."""
    made: list[BadStac] = []

    def make(items: list[dict[str, Any]]) -> BadStac:
        made.append(BadStac(items))
        return made[-1]

    yield make
    for server in made:
        server.close()
