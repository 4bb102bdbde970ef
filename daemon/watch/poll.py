"""One poll of one catalog: which windows are read, what is recorded, when the cursor moves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from daemon.backoff import Backoff
from daemon.errors import CatalogUnavailable
from daemon.scenes import Area
from daemon.store.records import Cursor, PageCounts, Sighting, WatchedArea
from daemon.watch.catalogs import Catalog, Page, SceneQuery, TimeAxis
from daemon.watch.poll_report import Tally
from daemon.watch.sifting import Ground, Sieve, VersionsOf, is_copy
from daemon.watch.windows import Pace, Window, next_window, sweep_due

_DATES: tuple[TimeAxis, ...] = ("updated", "created")


class WatchStore(Protocol):
    """What the watcher asks of the store; :class:`daemon.store.store.Store` says what each does."""

    def register_areas(self, areas: Sequence[Area], catalogs: Mapping[str, Sequence[str]]) -> Mapping[str, WatchedArea]:
        """Make these the areas that are watched, and say since when."""
        ...

    def cursor(self, catalog: str, area: str) -> Cursor | None:
        """Return how far a catalog has been read for an area."""
        ...

    def record_page(self, catalog: str, sightings: Sequence[Sighting]) -> PageCounts:
        """Store what a page lists."""
        ...

    def close_window(self, catalog: str, areas: Sequence[str], cursor: Cursor) -> int:
        """Move the cursor and make what was listed claimable; return how many scenes."""
        ...


@dataclass(frozen=True, kw_only=True)
class CatalogWatch:
    """A catalog and what is wanted of it."""

    catalog: Catalog
    areas: tuple[Area, ...]
    """The areas that it is asked about."""
    sensors: Mapping[str, str] = field(default_factory=dict)
    """Collection id to sensor name, or ``auto`` to let the Item tell. Only these are asked for; empty: all."""
    poll_every_s: float = 300.0
    """Seconds between two polls."""
    page_size: int = 100
    pace: Pace = field(default_factory=Pace)
    page_tries: int = 3
    """How often a page is tried within one poll."""
    longest_wait_s: float = 30.0
    """A wait longer than this ends the poll; the next one comes when the wait is over."""
    backoff: Backoff = field(default_factory=Backoff)


class Poll:
    """One poll of one catalog."""

    def __init__(
        self,
        watch: CatalogWatch,
        *,
        watched: Mapping[str, WatchedArea],
        store: WatchStore,
        now: Callable[[], datetime],
        versions_of: VersionsOf,
        tally: Tally,
        beat: Callable[[], None],
        pause: Callable[[int, CatalogUnavailable], None],
    ) -> None:
        """``beat`` is called on each page and may raise to end the poll.

        ``pause`` is called after a page failed so many times in a row; it waits, or raises to end the poll.
        """
        self._watch = watch
        self._watched = watched
        self._catalog = watch.catalog
        self._name = watch.catalog.name
        self._store = store
        self._now = now
        self._tally = tally
        self._beat = beat
        self._pause = pause
        self._sieve = Sieve(self._name, watch.sensors, versions_of)
        self._listed = 0
        self._dated: Counter[TimeAxis] = Counter()

    def run(self) -> None:
        """Read and record. Raises :class:`engine.errors.VigieError` where a catalog or the store fails."""
        groups: dict[tuple[object, ...], tuple[Cursor, list[Ground]]] = {}
        for area in self._watch.areas:
            cursor = self._store.cursor(self._name, area.name) or Cursor()
            key = (cursor.time, cursor.settled, cursor.token, cursor.swept_at)
            groups.setdefault(key, (cursor, []))[1].append(Ground.of(area, self._watched[area.name].watched_since))
        # Areas that stand at the same cursor close together, so a scene over two of them is claimed once for both.
        for cursor, grounds in groups.values():
            if cursor.time is None or not cursor.settled:
                self._fill_back(grounds)
            else:
                self._follow(cursor, cursor.time, grounds)

    def _fill_back(self, grounds: Sequence[Ground]) -> None:
        """The first window: the last clear scenes before each area's alerts begin, and everything since."""
        now = self._now()
        for ground in grounds:
            boundary = min(ground.since, now)
            span = Window(start=boundary - timedelta(days=ground.area.history_days), end=boundary)
            self._record(self._latest(self._pages(ground.area, span), ground, grounds))
            if ground.since <= now + self._watch.pace.ahead:
                self._read(ground.area, Window(start=boundary, end=now + self._watch.pace.ahead), grounds)
        self._close(grounds, Cursor(time=now, settled=True, token=self._note(), swept_at=now))

    def _follow(self, cursor: Cursor, reached: datetime, grounds: Sequence[Ground]) -> None:
        """A later window: what may have come since the last."""
        now = self._now()
        axis = _noted_axis(cursor.token)
        sweep = sweep_due(cursor.swept_at, now, self._watch.pace)
        if self._catalog.reads_everything:
            axis, sweep = "datetime", True
        elif axis not in self._catalog.axes():
            axis = "datetime"
        window = next_window(reached, now, self._watch.pace, axis=axis, sweep=sweep)
        if self._catalog.reads_everything:
            earliest = min(ground.since for ground in grounds)
            window = Window(start=min(window.start, earliest), end=window.end)
        slices = window.slices(self._catalog.longest_window)
        for piece in slices:
            for ground in grounds:
                self._read(ground.area, piece, grounds)
            last = piece is slices[-1]
            self._close(
                grounds,
                Cursor(
                    time=now if last else min(now, max(reached, piece.end)),
                    settled=True,
                    token=self._note() if sweep and last else cursor.token,
                    swept_at=now if sweep and last else cursor.swept_at,
                ),
            )

    def _read(self, area: Area, window: Window, grounds: Sequence[Ground]) -> None:
        for page in self._pages(area, window):
            self._record(self._sieve.sift(page.items, grounds, self._tally))

    def _latest(self, pages: Iterator[Page], ground: Ground, grounds: Sequence[Ground]) -> list[Sighting]:
        """The newest history of ``ground`` per sensor: twice the looks it wants, for some will be clouded over it."""
        wanted = 2 * ground.area.history_looks
        kept: dict[str, dict[str, Sighting]] = {}
        name = ground.area.name
        for page in pages:
            for sighting in self._sieve.sift(page.items, grounds, self._tally):
                if sighting.areas.get(name) != "history":
                    continue
                scenes = kept.setdefault(sighting.scene.sensor, {})
                rival = scenes.get(sighting.scene.identity)
                if rival is not None and is_copy(sighting.scene, [rival.scene]):
                    self._tally.passed_over["copy"] += 1
                    continue
                scenes[sighting.scene.identity] = sighting
                if len(scenes) > wanted:
                    oldest = min(scenes.values(), key=lambda kept: (kept.scene.sensing_time, kept.scene.identity))
                    del scenes[oldest.scene.identity]
                    self._tally.passed_over["surplus"] += 1
        return [sighting for scenes in kept.values() for sighting in scenes.values()]

    def _record(self, sightings: Sequence[Sighting]) -> None:
        if sightings:
            self._tally.add(self._store.record_page(self._name, sightings))

    def _close(self, grounds: Sequence[Ground], cursor: Cursor) -> None:
        names = [ground.area.name for ground in grounds]
        self._tally.made_claimable += self._store.close_window(self._name, names, cursor)

    def _pages(self, area: Area, window: Window) -> Iterator[Page]:
        """All pages of a window; one that fails is asked for again, from where it stood."""
        for piece in window.slices(self._catalog.longest_window):
            query = SceneQuery(
                collections=tuple(sorted(self._watch.sensors)),
                start=piece.start,
                end=piece.end,
                axis=piece.axis,
                intersects=area.geometry,
                page_size=self._watch.page_size,
            )
            self._tally.queries += 1
            token: str | None = None
            failures = 0
            while True:
                try:
                    for page in self._catalog.pages(query, resume=token):
                        failures = 0
                        token = page.next
                        self._count(page)
                        yield page
                    break
                except CatalogUnavailable as error:
                    failures += 1
                    if failures >= self._watch.page_tries:
                        raise
                    self._pause(failures, error)

    def _count(self, page: Page) -> None:
        self._beat()
        self._tally.pages += 1
        self._tally.items += len(page.items)
        for fault in page.broken:
            self._tally.refuse("unreadable", fault)
        self._listed += len(page.items)
        for item in page.items:
            properties = item.get("properties")
            if isinstance(properties, Mapping):
                self._dated.update(axis for axis in _DATES if isinstance(properties.get(axis), str))

    def _note(self) -> str:
        """The axis for the next polls: one that the API can search by *and* every Item seen carries.

        Some catalogs declare the query extension while their Items have no ``updated``: searching by it would find
        nothing, for ever, in silence.
        """
        axes = self._catalog.axes()
        usable = [axis for axis in _DATES if axis in axes and self._listed and self._dated[axis] == self._listed]
        return json.dumps({"axis": usable[0] if usable else "datetime"})


def _noted_axis(token: str | None) -> TimeAxis:
    axis = json.loads(token).get("axis") if token else None
    return axis if axis in ("created", "updated") else "datetime"
