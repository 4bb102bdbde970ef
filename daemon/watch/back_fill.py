"""History on request: what catalogs hold of a past span of time, queued behind everything that is watched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from daemon.errors import CatalogUnavailable
from daemon.store.records import BACK_FILL, Cursor, PageCounts, Sighting, WatchedArea
from daemon.watch.paging import Place, WindowReader
from daemon.watch.poll import CatalogWatch
from daemon.watch.poll_report import Tally
from daemon.watch.sifting import Ground, Sieve, VersionsOf
from daemon.watch.stac_times import format_time
from daemon.watch.windows import Window

_SLICE = timedelta(days=31)


class HistoryStore(Protocol):
    """What a back-fill asks of the store; :class:`daemon.store.store.Store` says what each does."""

    def cursor(self, catalog: str, area: str) -> Cursor | None:
        """Return how far a source has been read for an area."""
        ...

    def mark(self, source: str, area: str, cursor: Cursor) -> None:
        """Remember how far a source has been read for an area."""
        ...

    def record_page(self, catalog: str, sightings: Sequence[Sighting]) -> PageCounts:
        """Store what a page lists."""
        ...

    def release_listed(self, source: str, areas: Sequence[str]) -> int:
        """Make what a source has listed claimable; return how many scenes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a back-fill of one catalog over one area has come."""

    catalog: str
    area: str
    reached: datetime
    """Everything sensed before this is recorded."""
    share: float
    """Of the span, 0..1."""


class BackFill:
    """Reads a span of sensing time of one catalog, area by area and slice by slice.

    What it finds is recorded with the priority of a back-fill, and may be claimed once all of it is listed, so that it
    is scored in sensing order. It stops and goes on: a slice or a page that is recorded is not read again by a later
    call for the same span. Run twice, it changes nothing.
    """

    def __init__(
        self,
        watch: CatalogWatch,
        store: HistoryStore,
        watched: Mapping[str, WatchedArea],
        *,
        versions_of: VersionsOf,
        pause: Callable[[int, CatalogUnavailable], None],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """``pause``: called after so many failures of a page in a row; waits, or raises to give up."""
        self._watch = watch
        self._store = store
        self._watched = watched
        self._on_progress = on_progress
        self.tally = Tally()
        self._sieve = Sieve(watch.catalog.name, watch.sensors, versions_of)
        self._reader = WindowReader(
            watch.catalog,
            collections=tuple(sorted(watch.sensors)),
            page_size=watch.page_size,
            tries=watch.page_tries,
            pause=pause,
            on_short=lambda fault: self.tally.refuse("unlisted", fault),
        )

    @property
    def source(self) -> str:
        """The name under which the store knows this back-fill."""
        return f"back-fill {self._watch.catalog.name}"

    def run(self, start: datetime, end: datetime, *, again: bool = False) -> Tally:
        """Read from ``start`` to ``end``, both aware UTC; ``again``: also what an earlier call has read.

        Raises :class:`daemon.errors.CatalogUnavailable`, :class:`daemon.errors.CatalogInvalid` or
        :class:`daemon.errors.StoreUnavailable`; a later call goes on from there.
        """
        span = f"{format_time(start)}/{format_time(end)}"
        for area in self._watch.areas:
            since = self._watched[area.name].watched_since
            # The span was asked for, however far back it reaches beyond what the area's history needs.
            days = max(area.history_days, (since - start) // timedelta(days=1) + 1)
            ground = Ground.of(replace(area, history_days=days), since)
            slices = Window(start=start, end=end).slices(None if self._watch.catalog.reads_everything else _SLICE)
            done, place = (0, None) if again else self._mark(area.name, span)
            for index, window in enumerate(slices):
                if index < done:
                    continue
                for page, stands in self._reader.pages(window, area.geometry, resume=place):
                    self.tally.pages += 1
                    self.tally.items += len(page.items)
                    for fault in page.broken:
                        self.tally.refuse("unreadable", fault)
                    found = self._sieve.sift(page.items, [ground], self.tally)
                    sightings = [replace(sighting, priority=BACK_FILL) for sighting in found]
                    if sightings:
                        self.tally.add(self._store.record_page(self.source, sightings))
                    if stands is not None and stands.pieces:
                        self._remember(area.name, span, index, stands, window.start)
                place = None
                self._remember(area.name, span, index + 1, None, window.end)
                share = (index + 1) / len(slices)
                self._on_progress(
                    Progress(catalog=self._watch.catalog.name, area=area.name, reached=window.end, share=share)
                )
        names = [area.name for area in self._watch.areas]
        self.tally.made_claimable += self._store.release_listed(self.source, names)
        return self.tally

    def _mark(self, area: str, span: str) -> tuple[int, Place | None]:
        """Slices that are done, and the place within the next one, of an earlier call for the same span."""
        cursor = self._store.cursor(self.source, area)
        try:
            told = json.loads((cursor.token if cursor else None) or "{}")
            if told.get("span") != span:
                return 0, None
            place = Place.from_json(told["place"], axis="datetime") if told.get("place") else None
            return int(told["slices"]), place
        except (ValueError, TypeError, KeyError, AttributeError):
            return 0, None

    def _remember(self, area: str, span: str, slices: int, place: Place | None, reached: datetime) -> None:
        told = {"span": span, "slices": slices, "place": place.to_json() if place else None}
        self._store.mark(self.source, area, Cursor(time=reached, settled=True, token=json.dumps(told)))
