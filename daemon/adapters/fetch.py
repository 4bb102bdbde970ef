"""HTTP for catalogs: bounded in time and bytes, and the one place where its failures become Vigie's errors."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from daemon.adapters.host_gate import HostGates, origin_of
from daemon.errors import CatalogInvalid, CatalogUnavailable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRYABLE = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
_TOO_SLOW = frozenset({408, 504})
_CHUNK = 1 << 16


class HttpUnavailable(CatalogUnavailable):
    """An HTTP status that may pass."""

    status: int


class HttpInvalid(CatalogInvalid):
    """An HTTP status that will not pass."""

    status: int


class Fetcher:
    """Fetches documents of one host. Every call opens no more than it must and ends by its deadline.

    ``requests`` bounds the wait for each packet, not the whole answer, so a server that sends a byte now and then holds
    a caller for ever; here a watchdog shuts the connection down at the deadline. Redirects are followed only within the
    host: a catalog must not be able to send the daemon to an address of its choosing. Nothing is retried here.

    Not for use from two threads at a time. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        base: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        max_bytes: int = 64 << 20,
        now: Callable[[], datetime],
        gates: HostGates | None = None,
    ) -> None:
        """``base``: any URL of the host. ``timeout_s``: for one document. ``now``: to read dates in ``Retry-After``.

        ``gates``: the budgets of hosts, shared by all who ask them; none: nothing is held back.
        """
        self._origin = origin_of(base)
        self._headers = {"User-Agent": "vigie", "Accept": "application/geo+json, application/json", **(headers or {})}
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._now = now
        self._gate = None if gates is None else gates.of(base)
        self._session: requests.Session | None = None
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens fresh ones."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        parameters: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """The body of ``url``, decoded as UTF-8. ``parameters`` are the JSON body of a POST, else the query string.

        Raises :class:`CatalogUnavailable` where another try may help and :class:`CatalogInvalid` where it cannot.
        """
        for _ in range(4):
            if origin_of(url) != self._origin:
                raise CatalogInvalid(
                    f"{self._origin} leads to another host, {url}; configure that address as the catalog if it is meant"
                )
            with self._gated(), self._bounded(url):
                status, location, body = self._exchange(url, method, parameters, headers)
            if location is None:
                break
            url = urljoin(url, location)
            if status == 303:
                method, parameters = "GET", None
        else:
            raise CatalogInvalid(f"{url}: redirected more than three times")
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CatalogUnavailable(f"{url}: the answer is not UTF-8 text: {error}") from error

    def fetch_json(self, url: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON object at ``url``; a body that is no JSON object raises :class:`CatalogUnavailable`."""
        return decode_object(self.fetch(url, **kwargs), url)

    def _exchange(
        self, url: str, method: str, parameters: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> tuple[int, str | None, bytes]:
        body = {"json": dict(parameters or {})} if method == "POST" else {"params": dict(parameters or {})}
        response = self._open_session().request(
            method,
            url,
            headers=dict(headers or {}),
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=True,
            **body,  # type: ignore[arg-type]
        )
        with response:
            status = response.status_code
            if status in _REDIRECTS and response.headers.get("Location"):
                return status, response.headers["Location"], b""
            if not 200 <= status < 300:
                raise status_error(url, status, response.headers.get("Retry-After"), self._now())
            parts: list[bytes] = []
            size = 0
            for part in response.iter_content(_CHUNK):
                size += len(part)
                if size > self._max_bytes:
                    raise CatalogInvalid(f"{url}: the answer exceeds {self._max_bytes} bytes; ask for smaller pages")
                parts.append(part)
        return status, None, b"".join(parts)

    @contextlib.contextmanager
    def _gated(self) -> Iterator[None]:
        """Asks the host's gate, and tells it the outcome: a refusal of this one request is an answer too."""
        if self._gate is None:
            yield
            return
        self._gate.enter()
        try:
            yield
        except CatalogUnavailable as error:
            self._gate.failed(error.retry_after_s)
            raise
        except BaseException:
            self._gate.succeeded()
            raise
        self._gate.succeeded()

    @contextlib.contextmanager
    def _bounded(self, url: str) -> Iterator[None]:
        """Shuts the connection down at the deadline, and translates what the libraries raise."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

        watchdog = threading.Timer(self._timeout_s, expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
            if expired.is_set():  # a cut answer without a declared length looks complete
                raise CatalogUnavailable(f"{url}: no complete answer within {self._timeout_s:g} s", too_slow=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            self.close()  # a fresh connection for the next try: after a 500 or a cut some servers reset the old one
            if expired.is_set():
                raise CatalogUnavailable(
                    f"{url}: no complete answer within {self._timeout_s:g} s", too_slow=True
                ) from error
            raise transport_error(url, error) from error
        except CatalogUnavailable:
            self.close()
            raise
        finally:
            watchdog.cancel()

    def _open_session(self) -> requests.Session:
        if self._session is None:
            self._sockets.clear()
            session = requests.Session()
            session.headers.update(self._headers)
            adapter = _RecordingAdapter(self._sockets)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            self._session = session
        return self._session


def decode_object(text: str, url: str) -> dict[str, Any]:
    """A JSON object. HTML with status 200, a cut text, a list: garbage that costs one poll, since it may pass."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CatalogUnavailable(f"{url}: the answer is not JSON ({error}); it begins {text[:60]!r}") from error
    if not isinstance(value, dict):
        raise CatalogUnavailable(f"{url}: the answer is a JSON {type(value).__name__}, not an object")
    return value


def status_error(url: str, status: int, retry_after: str | None, now: datetime) -> HttpUnavailable | HttpInvalid:
    """What an HTTP status means to the watcher."""
    error: HttpUnavailable | HttpInvalid
    if status in _RETRYABLE or status >= 500:
        wait_s = parse_retry_after(retry_after, now)
        asked = f" and asks to wait {wait_s:g} s" if wait_s is not None else ""
        error = HttpUnavailable(f"{url} answered {status}{asked}", retry_after_s=wait_s, too_slow=status in _TOO_SLOW)
    else:
        hint = {
            401: "give the catalog's credentials as headers",
            403: "check the credentials and that this address may be used",
            404: "check the catalog's URL and the collection names",
        }.get(status, "check the catalog's URL and what it supports")
        error = HttpInvalid(f"{url} answered {status}; {hint}")
    error.status = status
    return error


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3), seconds or a date, as seconds from ``now``; None where absent or odd."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        seconds = (at - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


_PERMANENT_TRANSPORT: tuple[type[BaseException], ...] = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.URLRequired,
    requests.exceptions.UnrewindableBodyError,
    requests.exceptions.InvalidJSONError,
)


def transport_error(url: str, error: BaseException) -> CatalogUnavailable | CatalogInvalid:
    """What an exception of requests, urllib3 or the socket means to the watcher.

    What was wrong before a byte was sent will be wrong again; everything else (refused, reset, timed out, cut, badly
    encoded) may pass.
    """
    # JSONDecodeError is an InvalidJSONError by inheritance, but says something about the answer, not the request.
    if isinstance(error, _PERMANENT_TRANSPORT) and not isinstance(error, requests.exceptions.JSONDecodeError):
        return CatalogInvalid(f"{url} cannot be requested: {error}")
    too_slow = isinstance(error, requests.exceptions.ReadTimeout)
    return CatalogUnavailable(f"{url} cannot be read: {type(error).__name__}: {error}", too_slow=too_slow)


class _RecordingAdapter(HTTPAdapter):
    """Keeps the sockets that are opened where the watchdog finds them."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        super().__init__(max_retries=0, pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        sockets = self._sockets

        class Plain(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets[:] = [self.sock]

        class Secure(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets[:] = [self.sock]

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
