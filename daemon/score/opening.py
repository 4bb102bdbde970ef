"""Opening the networks before the first scene: who waits, who is told, and how it is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from daemon.operate.metrics import Metrics
from engine.errors import RunnerUnavailable
from engine.runners.build_watch import BuildWatch
from engine.scoring import SceneScorer, ScorerEvents


class Opening:
    """Opens every family's networks once, however many workers ask; on a GPU that may take minutes.

    While it lasts, the loops that wait beat (they advance, in the build's steps), readiness says ``building``, and a
    stop ends the build.
    """

    def __init__(self, families: Sequence[str], metrics: Metrics) -> None:
        self.watch = BuildWatch(stop=self._stopping, beat=self._beat)
        """For the scorer: what it builds is told here."""
        self.events = ScorerEvents(
            on_open=lambda family, chosen: metrics.runner(family, chosen.runner, chosen.device, chosen.precision),
            on_fallback=lambda family, chosen, why: metrics.runner_passed_over(chosen.runner, why),
            on_halving=metrics.batch_halved,
        )
        self._families = tuple(families)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[tuple[threading.Event, Callable[[], None]]] = []

    def open(self, scorer: SceneScorer, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Open all families; blocks until they are open.

        Raises:
            BuildStopped: ``stop`` was set meanwhile.
            RunnerUnavailable: no runner that the settings allow can run here and agrees with the golden batch.
        """
        caller = (stop, beat)
        with self._lock:
            self._waiting.append(caller)
        try:
            for family in self._families:
                self.watch.check()
                scorer.open(family)
        finally:
            with self._lock:
                self._waiting.remove(caller)
        self._done.set()

    def check(self) -> None:
        """Raise :class:`~engine.errors.RunnerUnavailable` until all is open; for ``/readyz``."""
        if not self._done.is_set():
            doing = self.watch.doing
            raise RunnerUnavailable(doing or "the networks are being opened; wait a few seconds")

    def _stopping(self) -> bool:
        with self._lock:
            return any(stop.is_set() for stop, _ in self._waiting)

    def _beat(self) -> None:
        # A build advances for all who wait for it, not only for the one whose thread it has.
        with self._lock:
            beats = [beat for _, beat in self._waiting]
        for beat in beats:
            beat()
