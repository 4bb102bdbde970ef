"""What catalogs list, held against one another and against the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from daemon.errors import CatalogUnavailable
from daemon.scenes import Scene
from daemon.store.records import SceneRow, SceneState, Sighting, WatchedArea
from daemon.watch.paging import WindowReader
from daemon.watch.poll import CatalogWatch
from daemon.watch.poll_report import Tally
from daemon.watch.sifting import Ground, Sieve
from daemon.watch.windows import Window

_UNSCORED: tuple[SceneState, ...] = ("discovered", "pending", "claimed", "failed")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What one catalog lists of a span of sensing time, over the areas it is asked about."""

    catalog: str
    sightings: Mapping[str, Sighting]
    """Scene identity to the newest listing of it. Scenes that no area wants (clouded, elsewhere) are left out."""
    faults: tuple[str, ...]
    """One sentence for each of the first Items that could not be used."""


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """A scene that was discovered and has no result."""

    scene: Scene
    state: SceneState
    reason: str | None
    discovered_at: datetime


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The outcome."""

    start: datetime
    end: datetime
    listed: Mapping[str, int]
    """Catalog to the scenes that it lists."""
    lacks: Mapping[str, tuple[Scene, ...]]
    """Catalog to the scenes that another one lists and it does not."""
    missing: tuple[Sighting, ...]
    """Scenes that some catalog lists and the store has never heard of."""
    unscored: tuple[Unscored, ...]
    """Scenes that the store knows and nobody has scored, in sensing order."""
    withdrawn: tuple[Scene, ...]
    """Scenes that the store took from a catalog which no longer lists them: deleted, renamed, or lost."""
    faults: tuple[str, ...]

    @property
    def coverage(self) -> Mapping[str, float]:
        """Catalog to the share of all listed scenes that it lists, 0..1; 1 where none is listed."""
        every = {name: self.listed[name] + len(self.lacks[name]) for name in self.listed}
        return {name: self.listed[name] / every[name] if every[name] else 1.0 for name in self.listed}


def list_catalog(
    watch: CatalogWatch,
    watched: Mapping[str, WatchedArea],
    window: Window,
    *,
    pause: Callable[[int, CatalogUnavailable], None],
) -> Listing:
    """List everything wanted of one catalog in ``window``.

    Raises :class:`daemon.errors.CatalogUnavailable` and :class:`daemon.errors.CatalogInvalid`.
    """
    tally = Tally()
    reader = WindowReader(
        watch.catalog,
        collections=tuple(sorted(watch.sensors)),
        page_size=watch.page_size,
        tries=watch.page_tries,
        pause=pause,
        on_short=lambda fault: tally.refuse("unlisted", fault),
    )
    sieve = Sieve(watch.catalog.name, watch.sensors, lambda identity: ())
    grounds = []
    for area in watch.areas:
        since = watched[area.name].watched_since
        days = max(area.history_days, (since - window.start) // timedelta(days=1) + 1)
        grounds.append(Ground.of(replace(area, history_days=days), since))
    found: dict[str, Sighting] = {}
    for ground in grounds:
        for page, _ in reader.pages(window, ground.area.geometry):
            for fault in page.broken:
                tally.refuse("unreadable", fault)
            # Pages are laid over the last: what one of them lists twice the sieve has settled already.
            found |= {sighting.scene.identity: sighting for sighting in sieve.sift(page.items, grounds, tally)}
    return Listing(catalog=watch.catalog.name, sightings=found, faults=tuple(tally.faults))


def compare(listings: Sequence[Listing], rows: Iterable[SceneRow], window: Window, *, idle_before: datetime) -> Audit:
    """Hold listings against one another and against the store's ``rows``.

    A scene that is discovered, pending or claimed is on its way, and counts as unscored only where it was discovered
    before ``idle_before``.
    """
    inside = [row for row in rows if window.start <= row.scene.sensing_time <= window.end]
    known = {row.scene.identity for row in inside}
    everything: dict[str, Sighting] = {}
    for listing in listings:
        everything = {**listing.sightings, **everything}
    by_name = {listing.catalog: listing for listing in listings}
    return Audit(
        start=window.start,
        end=window.end,
        listed={listing.catalog: len(listing.sightings) for listing in listings},
        lacks={
            listing.catalog: _in_order(
                sighting.scene for key, sighting in everything.items() if key not in listing.sightings
            )
            for listing in listings
        },
        missing=tuple(
            sorted(
                (sighting for key, sighting in everything.items() if key not in known),
                key=lambda sighting: (sighting.scene.sensing_time, sighting.scene.identity),
            )
        ),
        unscored=tuple(
            Unscored(scene=row.scene, state=row.state, reason=row.reason, discovered_at=row.discovered_at)
            for row in inside
            if row.state in _UNSCORED
            and row.superseded_by is None
            and (row.state == "failed" or row.discovered_at < idle_before)
        ),
        withdrawn=_in_order(
            row.scene
            for row in inside
            if row.superseded_by is None
            and row.scene.catalog in by_name
            and row.scene.identity not in by_name[row.scene.catalog].sightings
        ),
        faults=tuple(fault for listing in listings for fault in listing.faults),
    )


def _in_order(scenes: Iterable[Scene]) -> tuple[Scene, ...]:
    return tuple(sorted(scenes, key=lambda scene: (scene.sensing_time, scene.identity)))
