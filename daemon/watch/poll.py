"""One poll of one catalog: which windows are read, what is recorded, when the cursor moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from daemon.backoff import Backoff
from daemon.errors import CatalogUnavailable
from daemon.scenes import Area
from daemon.store.records import Cursor, PageCounts, Sighting, WatchedArea
from daemon.watch.catalogs import Catalog, Page, TimeAxis
from daemon.watch.notes import Note, OpenWindow
from daemon.watch.paging import Place, WindowReader
from daemon.watch.poll_report import Tally
from daemon.watch.proof import Sample, axis_time, searches_by
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

    def checkpoint(self, catalog: str, areas: Sequence[str], token: str) -> None:
        """Note where the reading of an open window stands."""
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
    silent_after: timedelta | None = None
    """A collection without a newer Item for longer than this is silent; none: by its usual gap."""
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
        self._reader = WindowReader(
            watch.catalog,
            collections=tuple(sorted(watch.sensors)),
            page_size=watch.page_size,
            tries=watch.page_tries,
            pause=pause,
            on_query=self._count_query,
            on_short=lambda fault: tally.refuse("unlisted", fault),
        )
        self._sieve = Sieve(self._name, watch.sensors, versions_of)
        self._listed = 0
        self._dated: Counter[TimeAxis] = Counter()
        self._samples: dict[TimeAxis, Sample] = {}

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
            self._record(self._latest((page for page, _ in self._pages(ground.area, span)), ground, grounds))
            if ground.since <= now + self._watch.pace.ahead:
                self._read(ground.area, Window(start=boundary, end=now + self._watch.pace.ahead), grounds)
        self._close(grounds, Cursor(time=now, settled=True, token=Note(axis=self._best_axis()).write(), swept_at=now))

    def _follow(self, cursor: Cursor, reached: datetime, grounds: Sequence[Ground]) -> None:
        """A later window: what may have come since the last; first what is left of one that was never finished."""
        note = Note.read(cursor.token)
        begun = note.open
        if begun is not None and begun.area in {ground.area.name for ground in grounds}:
            cursor = self._read_window(begun, cursor, reached, grounds, begun)
            reached = cursor.time or reached
        now = self._now()
        axis = note.axis
        sweep = sweep_due(cursor.swept_at, now, self._watch.pace)
        if self._catalog.reads_everything:
            axis, sweep = "datetime", True
        elif axis not in self._catalog.axes():
            axis = "datetime"
        window = next_window(reached, now, self._watch.pace, axis=axis, sweep=sweep)
        if self._catalog.reads_everything:
            earliest = min(ground.since for ground in grounds)
            window = Window(start=min(window.start, earliest), end=window.end)
        first = grounds[0].area.name
        whole = Place(pieces=(), token=None)
        fresh = OpenWindow(window=window, sweep=sweep, asked_at=now, slice_start=window.start, area=first, place=whole)
        self._read_window(fresh, cursor, reached, grounds, None)

    def _read_window(
        self, open_: OpenWindow, cursor: Cursor, reached: datetime, grounds: Sequence[Ground], begun: OpenWindow | None
    ) -> Cursor:
        """Read a window slice by slice, from where ``begun`` stands, and return the cursor that it leaves."""
        slices = open_.window.slices(self._catalog.longest_window)
        axis = Note.read(cursor.token).axis
        for piece in slices:
            if begun is not None and piece.start < begun.slice_start:
                continue
            for ground in grounds:
                resume = None
                if begun is not None:
                    if ground.area.name != begun.area:
                        continue  # this slice has been read for it
                    resume, begun = begun.place, None
                self._read(ground.area, piece, grounds, replace(open_, slice_start=piece.start), axis, resume)
            last = piece is slices[-1]
            if last and open_.sweep:
                axis = self._best_axis()
            cursor = Cursor(
                time=open_.asked_at if last else min(open_.asked_at, max(reached, piece.end)),
                settled=True,
                token=Note(axis=axis).write(),
                swept_at=open_.asked_at if open_.sweep and last else cursor.swept_at,
            )
            self._close(grounds, cursor)
        return cursor

    def _read(
        self,
        area: Area,
        window: Window,
        grounds: Sequence[Ground],
        open_: OpenWindow | None = None,
        axis: TimeAxis = "datetime",
        resume: Place | None = None,
    ) -> None:
        """Record a window over one area; with ``open_`` a checkpoint is left after each page that has one after it."""
        names = [ground.area.name for ground in grounds]
        for page, place in self._pages(area, window, resume):
            self._record(self._sieve.sift(page.items, grounds, self._tally))
            if open_ is not None and place is not None and place.pieces:
                note = Note(axis=axis, open=replace(open_, area=area.name, place=place))
                self._store.checkpoint(self._name, names, note.write())

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

    def _pages(self, area: Area, window: Window, resume: Place | None = None) -> Iterator[tuple[Page, Place | None]]:
        """All pages of a window over an area, counted."""
        for page, place in self._reader.pages(window, area.geometry, resume=resume):
            self._count(page, area)
            yield page, place

    def _count_query(self) -> None:
        self._tally.queries += 1

    def _count(self, page: Page, area: Area) -> None:
        self._beat()
        self._tally.pages += 1
        self._tally.items += len(page.items)
        for fault in page.broken:
            self._tally.refuse("unreadable", fault)
        self._listed += len(page.items)
        for item in page.items:
            for axis in _DATES:
                if axis_time(item, axis) is not None:
                    self._dated[axis] += 1
        for axis in _DATES:
            # The last Item of a page will do: any that the catalog has listed must be found again.
            if page.items and (sample := Sample.of(page.items[-1], axis, area.geometry)):
                self._samples[axis] = sample

    def _best_axis(self) -> TimeAxis:
        """The axis for the next polls: one that the API can search by *and* every Item seen carries, proven by trying.

        Some catalogs declare the query extension while their Items have no ``updated``: searching by it would find
        nothing, for ever, in silence. Some ignore the condition or answer it with nothing.
        """
        if self._catalog.reads_everything or not self._listed:
            return "datetime"
        axes = self._catalog.axes()
        for axis in _DATES:
            if axis in axes and self._dated[axis] == self._listed and axis in self._samples:
                if searches_by(self._reader, axis, self._samples[axis]):
                    return axis
                self._tally.faults.append(
                    f"{self._name} declares searches by {axis!r}, but does not find its own Items by it; "
                    "it is searched by 'datetime', with an overlap and a daily sweep"
                )
        return "datetime"
