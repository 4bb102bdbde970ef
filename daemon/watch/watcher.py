"""The watcher: keeps polling every catalog, and lets none stop another."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from daemon.clock import Clock
from daemon.errors import CatalogUnavailable
from daemon.store.records import WatchedArea
from daemon.watch.freshness import Passes
from daemon.watch.poll import CatalogWatch, Poll, WatchStore
from daemon.watch.poll_report import PollReport, Tally
from daemon.watch.sifting import VersionsOf
from engine.errors import VigieError

log = logging.getLogger(__name__)

_MAX_TOLD = 10_000


class Watcher:
    """Polls catalogs, each in a thread of its own, so that none waits for another.

    A poll reads its windows whole before the cursor moves: after a crash or a failure the window is read again, and the
    store knows what it has seen. Thread-safe.
    """

    def __init__(
        self,
        watches: Sequence[CatalogWatch],
        store: WatchStore,
        clock: Clock,
        *,
        rng: random.Random,
        versions_of: VersionsOf = lambda identity: (),
        on_report: Callable[[PollReport], None] = lambda report: None,
        on_beat: Callable[[str], None] = lambda catalog: None,
    ) -> None:
        """``versions_of``: what the store holds of an identity, to tell copies; the default takes every version.

        ``on_report`` gets each poll's outcome, ``on_beat`` the catalog's name whenever its loop advances (at least
        once per page and per wait of a minute); both are called from the catalog's thread.
        """
        self._watches = {watch.catalog.name: watch for watch in watches}
        if len(self._watches) != len(watches):
            raise ValueError("two catalogs have the same name")
        self._store = store
        self._clock = clock
        self._rng = rng
        self._versions_of = versions_of
        self._on_report = on_report
        self._on_beat = on_beat
        self._registered: Mapping[str, WatchedArea] | None = None
        self._passes = {name: Passes(silent_after=watch.silent_after) for name, watch in self._watches.items()}
        self._silent: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._answered: set[str] = set()
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Watch every catalog until ``stop`` is set; returns when all their threads have ended."""
        threads = [
            threading.Thread(target=self._watch, args=(watch, stop), name=f"watch-{name}")
            for name, watch in self._watches.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def poll(self, catalog: str, stop: threading.Event | None = None) -> PollReport:
        """Read one catalog once for all its areas, and record what it lists.

        A catalog's or the store's failure ends the poll early and is told in the report, not raised. Setting ``stop``
        ends it early too.
        """
        watch = self._watches[catalog]
        started_at = self._clock.now()
        tally = Tally()
        error: str | None = None
        retry_after_s: float | None = None
        try:
            self._prepared(watch, tally, stop or threading.Event()).run()
        except VigieError as failure:
            error = str(failure)
            retry_after_s = failure.retry_after_s if isinstance(failure, CatalogUnavailable) else None
        report = tally.report(catalog, started_at, self._clock.now(), error, retry_after_s)
        # An archive that is read from a folder is not expected to bring anything new, unless someone says when.
        if error is None and (watch.silent_after is not None or not watch.catalog.reads_everything):
            self._passes[catalog].see(report.sensed)
            fresh = self._passes[catalog].freshness(watch.sensors, report.finished_at)
            report = replace(report, freshness=fresh)
            self._tell_silence(report)
        self._tell(report)
        self._on_report(report)
        return report

    def _prepared(self, watch: CatalogWatch, tally: Tally, stop: threading.Event) -> Poll:
        name = watch.catalog.name

        def beat() -> None:
            if stop.is_set():
                raise CatalogUnavailable(f"the poll of {name} was stopped; its window is read again next time")
            self._on_beat(name)

        def pause(failures: int, error: CatalogUnavailable) -> None:
            wait_s = self._delay_s(watch, failures, error.retry_after_s)
            if wait_s > watch.longest_wait_s:
                raise error
            self._wait(name, stop, wait_s)
            beat()

        return Poll(
            watch,
            watched=self._areas(),
            store=self._store,
            now=self._clock.now,
            versions_of=self._versions_of,
            tally=tally,
            beat=beat,
            pause=pause,
        )

    def _watch(self, watch: CatalogWatch, stop: threading.Event) -> None:
        name = watch.catalog.name
        failures = 0
        while not stop.is_set():
            try:
                report = self.poll(name, stop)
                failed, asked_s = report.error is not None, report.retry_after_s
            except Exception:
                # A fault of our own in one catalog's answers must not end the watch over it, nor over the others.
                log.exception("The poll of %s met a fault.", name, extra={"action": "poll", "catalog": name})
                failed, asked_s = True, None
            failures = failures + 1 if failed else 0
            wait_s = watch.poll_every_s
            if failures:
                wait_s = self._delay_s(watch, failures, asked_s)
            self._wait(name, stop, wait_s)

    def _delay_s(self, watch: CatalogWatch, failures: int, asked_s: float | None) -> float:
        with self._lock:
            return watch.backoff.delay_s(failures, self._rng, asked_s=asked_s)

    def _wait(self, name: str, stop: threading.Event, seconds: float) -> None:
        """Wait, beating all the while; a long wait in order must not be taken for a hang."""
        until = self._clock.monotonic() + seconds
        self._on_beat(name)
        while not stop.is_set() and (left_s := until - self._clock.monotonic()) > 0:
            self._clock.wait(stop, min(left_s, 60.0))
            self._on_beat(name)

    def _areas(self) -> Mapping[str, WatchedArea]:
        with self._lock:
            if self._registered is None:
                areas = {area.name: area for watch in self._watches.values() for area in watch.areas}
                self._registered = self._store.register_areas(
                    list(areas.values()),
                    {name: [area.name for area in watch.areas] for name, watch in self._watches.items()},
                )
            return self._registered

    def _tell_silence(self, report: PollReport) -> None:
        for fresh in report.freshness:
            key = (report.catalog, fresh.collection)
            fields = {"action": "silence", "catalog": report.catalog, "collection": fresh.collection}
            if not fresh.silent and key in self._silent:
                log.info("%s brings Items again for %s.", report.catalog, fresh.collection, extra=fields)
                self._silent.discard(key)
            elif fresh.silent and key not in self._silent:
                self._silent.add(key)
                if fresh.newest is None:
                    why = "it has listed nothing at all; check the collection's name and the areas"
                else:
                    why = f"its newest Item is of {fresh.newest:%Y-%m-%d %H:%M} UTC, longer than its usual gap ago"
                log.warning("%s is silent about %s: %s.", report.catalog, fresh.collection, why, extra=fields)

    def _tell(self, report: PollReport) -> None:
        fields = {"action": "poll", "catalog": report.catalog}
        for fault in report.faults:
            # Polls overlap, and would tell of the same fault each time.
            if fault not in self._told and len(self._told) < _MAX_TOLD:
                self._told.add(fault)
                log.warning("Passed over: %s", fault, extra=fields)
        if report.error is not None:
            log.warning("The poll of %s ended early: %s", report.catalog, report.error, extra=fields)
            return
        # That a catalog answers at all is news once; every few minutes the same nothing is not.
        is_news = report.catalog not in self._answered or report.new or report.changed or report.made_claimable
        self._answered.add(report.catalog)
        level = logging.INFO if is_news else logging.DEBUG
        log.log(
            level,
            "Polled %s: %d Items on %d pages, %d new scenes, %d changed.",
            report.catalog,
            report.items,
            report.pages,
            report.new,
            report.changed,
            extra={**fields, "claimable": report.made_claimable, "passed_over": dict(report.passed_over)},
        )
