"""What one host is asked, over all its catalogs: a budget of requests, and a circuit breaker."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from daemon.backoff import Backoff
from daemon.clock import Clock
from daemon.errors import CatalogInvalid, CatalogUnavailable


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """How much a host is asked, and when it is left alone."""

    requests_per_minute: float = 120.0
    """Requests on average."""
    burst: int = 30
    """Requests that may follow one another at once after a quiet time."""
    failures: int = 5
    """Failures in a row after which the host is left alone."""
    rest: Backoff = field(default_factory=lambda: Backoff(base_s=60.0, cap_s=1800.0))
    """For how long: more after each trial that fails too."""


class HostGate:
    """Stands before every request to one host. Thread-safe: the catalogs of a host share it.

    A host that throttles or fails is made worse by asking on. After some failures in a row nothing is sent for a while;
    then one request is let through, and its outcome decides. What a host asks for by ``Retry-After`` holds for all its
    catalogs.
    """

    def __init__(self, host: str, clock: Clock, rng: random.Random, rules: GateRules) -> None:
        self._host = host
        self._clock = clock
        self._rng = rng
        self._rules = rules
        self._lock = threading.Lock()
        self._per_s = rules.requests_per_minute / 60.0
        self._tokens = float(rules.burst)
        self._filled_at = clock.monotonic()
        self._failures = 0
        self._closed_until = float("-inf")
        self._on_trial = False

    def enter(self) -> None:
        """Wait until the budget has a request left; blocks for seconds at most.

        Raises :class:`CatalogUnavailable` at once, with the seconds to wait, while the host is left alone.
        """
        with self._lock:
            now = self._clock.monotonic()
            left_s = self._closed_until - now
            if left_s > 0 or self._on_trial:
                why = f"after {self._failures} failures" if self._failures else "as it asked for"
                raise CatalogUnavailable(
                    f"{self._host} is left alone for {max(left_s, 1.0):.0f} s more, {why}",
                    retry_after_s=max(left_s, 1.0),
                )
            self._on_trial = self._failures >= self._rules.failures
            self._tokens = min(self._rules.burst, self._tokens + (now - self._filled_at) * self._per_s)
            self._filled_at = now
            # The budget may go below zero: who comes next waits the longer, so nobody jumps the queue.
            self._tokens -= 1.0
            wait_s = max(0.0, -self._tokens / self._per_s)
        if wait_s > 0.0:
            self._clock.wait(threading.Event(), wait_s)

    def limit(self, requests_per_minute: float) -> None:
        """Lower the budget to this, if it is higher."""
        with self._lock:
            self._per_s = min(self._per_s, requests_per_minute / 60.0)

    def succeeded(self) -> None:
        """Note that the host answered."""
        with self._lock:
            self._failures = 0
            self._on_trial = False

    def failed(self, retry_after_s: float | None = None) -> None:
        """Note that it did not, or that it asked to be left alone for some seconds."""
        with self._lock:
            self._failures += 1
            self._on_trial = False
            rest_s = retry_after_s or 0.0
            beyond = self._failures - self._rules.failures
            if beyond >= 0:
                rest_s = self._rules.rest.delay_s(beyond + 1, self._rng, asked_s=retry_after_s)
            self._closed_until = max(self._closed_until, self._clock.monotonic() + rest_s)


class HostGates:
    """One gate for each host. Thread-safe."""

    def __init__(self, clock: Clock, rng: random.Random, rules: GateRules | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._rules = rules or GateRules()
        self._gates: dict[str, HostGate] = {}
        self._lock = threading.Lock()

    def of(self, url: str) -> HostGate:
        """The gate of the host of ``url``."""
        host = origin_of(url)
        with self._lock:
            return self._gates.setdefault(host, HostGate(host, self._clock, self._rng, self._rules))

    def limit(self, url: str, requests_per_minute: float) -> None:
        """Lower the budget of the host of ``url``; the least that any catalog asks for holds."""
        self.of(url).limit(requests_per_minute)


def origin_of(url: str) -> str:
    """``scheme://name:port`` of a URL. Raises :class:`CatalogInvalid` where it is not http(s)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CatalogInvalid(f"{url!r} is not an http(s) URL")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise CatalogInvalid(f"{url!r} is not a URL: {error}") from error
    return f"{parts.scheme}://{parts.hostname.lower()}:{port}"
