"""Whether the daemon is alive (its loops advance) and ready (what it needs answers)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.clock import Clock
from engine.errors import VigieError


@dataclass(frozen=True, kw_only=True)
class Report:
    """The answer of a health check."""

    ok: bool
    details: Mapping[str, Any]
    """JSON values that name what is wrong."""


class Heartbeats:
    """Loops beat here; one that is silent for too long makes the process not alive.

    A loop that expects a long step says so with ``within_s``: a beat must come before the longest legal
    step ends, or a slow scene would be taken for a hang. May be called from any thread.
    """

    def __init__(self, clock: Clock, *, observe: Callable[[str, float], None] = lambda loop, epoch_s: None) -> None:
        self._clock = clock
        self._observe = observe
        self._lock = threading.Lock()
        self._within_s: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def expect(self, loop: str, within_s: float) -> None:
        """Expect ``loop`` to beat at least every ``within_s`` seconds from now on."""
        with self._lock:
            self._within_s[loop] = within_s
            self._last[loop] = self._clock.monotonic()

    def beat(self, loop: str) -> None:
        """Say that ``loop`` advances."""
        with self._lock:
            self._last[loop] = self._clock.monotonic()
        self._observe(loop, self._clock.now().timestamp())

    def forget(self, loop: str) -> None:
        """Expect nothing more of ``loop``: it ended in good order."""
        with self._lock:
            self._within_s.pop(loop, None)
            self._last.pop(loop, None)

    def check(self) -> Report:
        """Return whether every expected loop has beaten in time, naming those that have not."""
        now = self._clock.monotonic()
        with self._lock:
            silent = {loop: now - self._last[loop] for loop in self._within_s}
            late = sorted(loop for loop, age_s in silent.items() if age_s > self._within_s[loop])
            loops = {
                loop: {"silent_s": round(silent[loop], 3), "allowed_s": self._within_s[loop]} for loop in sorted(silent)
            }
        return Report(ok=not late, details={"late": late, "loops": loops})


class Readiness:
    """Asks what the daemon needs: store, sinks, engine. May be called from any thread.

    An answer is kept for ``max_age_s``, so that many probes do not become many connections, and one
    thread asks at a time.
    """

    def __init__(self, probes: Mapping[str, Callable[[], None]], clock: Clock, *, max_age_s: float = 2.0) -> None:
        self._probes = dict(probes)
        self._clock = clock
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._report = Report(ok=False, details={})

    def check(self) -> Report:
        """Return whether every probe passes; a probe fails by raising, and its message is part of the answer."""
        with self._lock:
            if self._clock.monotonic() - self._asked_at > self._max_age_s:
                failures = {name: told for name, probe in self._probes.items() if (told := _failure(probe)) is not None}
                ready = sorted(self._probes.keys() - failures.keys())
                self._report = Report(ok=not failures, details={"failing": failures, "ready": ready})
                self._asked_at = self._clock.monotonic()
            return self._report


def _failure(probe: Callable[[], None]) -> str | None:
    try:
        probe()
    except VigieError as error:
        return str(error)
    except Exception as error:  # A probe that breaks in a new way is a failing probe, not a failing health server.
        return f"{type(error).__name__}: {error}"
    return None
