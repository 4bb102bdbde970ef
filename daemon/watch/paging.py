"""Windows read whole: page by page, and in narrower pieces where a catalog does not list one whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from daemon.errors import CatalogInvalid, CatalogUnavailable, WindowTooWide
from daemon.watch.catalogs import Catalog, Page, SceneQuery, TimeAxis
from daemon.watch.footprints import to_geojson
from daemon.watch.stac_times import format_time, parse_time
from daemon.watch.windows import Window

_MAX_PIECES = 4096
_MAX_SLOW_CUTS = 4
_MAX_SHORT_CUTS = 6
_NARROWEST_DEGREES = 0.01
_SHORT_SHARE = 0.05
"""A search that lists fewer than it says to find, by more than this share, has left some out."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a window over a part of the ground, and how often it was cut for which reason."""

    window: Window
    intersects: Mapping[str, Any]
    slow_cuts: int = 0
    short_cuts: int = 0

    def halves(self) -> tuple[Piece, ...]:
        """The piece cut in two by time, or, where that is one second, in up to four by ground; empty: it is the least.

        An Item on a cut is listed by both sides.
        """
        times = self.window.halves()
        if times:
            return tuple(replace(self, window=window) for window in times)
        return tuple(replace(self, intersects=to_geojson(part)) for part in _quarters(shape(dict(self.intersects))))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where reading a window stands after a page: what is left, and where to go on in the first of it."""

    pieces: tuple[Piece, ...]
    """What is left, the next one first."""
    token: str | None
    """Of the last page read of the first piece; None: it is read from its start."""

    def to_json(self) -> Any:
        """Plain JSON. The ground is left out: pieces that are cut by ground have no place (:meth:`of`)."""
        spans = [
            [format_time(piece.window.start), format_time(piece.window.end), piece.slow_cuts, piece.short_cuts]
            for piece in self.pieces
        ]
        return {"pieces": spans, "token": self.token}

    @classmethod
    def from_json(cls, told: Mapping[str, Any], *, axis: TimeAxis) -> Place:
        """The place that :meth:`to_json` wrote, its ground still empty. Raises ValueError, TypeError or KeyError."""
        pieces = tuple(
            Piece(
                window=Window(start=parse_time(start), end=parse_time(end), axis=axis),
                intersects={},
                slow_cuts=int(slow),
                short_cuts=int(short),
            )
            for start, end, slow, short in told["pieces"]
        )
        return cls(pieces=pieces, token=told["token"])

    @classmethod
    def of(cls, waiting: list[Piece], token: str | None, ground: Mapping[str, Any]) -> Place | None:
        """The place in front of ``waiting``, a stack; None where a piece of it is not over the whole ``ground``."""
        if any(piece.intersects is not ground for piece in waiting):
            return None
        return cls(pieces=tuple(reversed(waiting)), token=token)


class WindowReader:
    """Reads windows of one catalog whole.

    A page that fails is asked for again from where it stood. A search that a catalog does not list whole is cut into
    narrower ones: it finds more than the catalog's cap, its pages lead in a circle, they end before all is listed that
    was promised, or it takes longer than the catalog's time limit.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        collections: tuple[str, ...],
        page_size: int,
        tries: int,
        pause: Callable[[int, CatalogUnavailable], None],
        on_query: Callable[[], None] = lambda: None,
        on_short: Callable[[str], None] = lambda fault: None,
    ) -> None:
        """``tries``: of one page. ``pause``: called after so many failures in a row; waits, or raises to give up.

        ``on_query`` is called before each search; ``on_short`` gets a sentence where a search, cut as far as is
        sensible, still lists less than it says to find.
        """
        self._catalog = catalog
        self._collections = collections
        self._page_size = page_size
        self._tries = tries
        self._pause = pause
        self._on_query = on_query
        self._on_short = on_short

    def pages(
        self, window: Window, intersects: Mapping[str, Any], *, resume: Place | None = None
    ) -> Iterator[tuple[Page, Place | None]]:
        """Every page of ``window`` over the GeoJSON ``intersects``; a repeat now and then is the caller's to drop.

        With each page comes the place from which reading goes on after it (None: nowhere but from the start), which a
        later call takes as ``resume``; ``window`` is not looked at then. Raises :class:`CatalogUnavailable` where a
        page keeps failing, and :class:`daemon.errors.CatalogInvalid`.
        """
        token: str | None = None
        if resume is None:
            slices = window.slices(self._catalog.longest_window)
            waiting = [Piece(window=part, intersects=intersects) for part in reversed(slices)]
        else:
            waiting = [replace(piece, intersects=intersects) for piece in reversed(resume.pieces)]
            token = resume.token
        cuts = 0
        while waiting:
            piece = waiting.pop()
            try:
                for page in self._whole(piece, token):
                    left = waiting if page.next is None else [*waiting, piece]
                    yield page, Place.of(left, page.next, intersects)
            except WindowTooWide:
                halves = piece.halves()
                cuts += 1
                if not halves or cuts > _MAX_PIECES:
                    raise
                waiting.extend(reversed(halves))
            except _Slow as slow:
                halves = tuple(replace(half, slow_cuts=piece.slow_cuts + 1) for half in piece.halves())
                if not halves or piece.slow_cuts >= _MAX_SLOW_CUTS:
                    raise slow.error from slow
                waiting.extend(reversed(halves))
            except _Short as short:
                halves = tuple(replace(half, short_cuts=piece.short_cuts + 1) for half in piece.halves())
                if not halves or piece.short_cuts >= _MAX_SHORT_CUTS:
                    self._on_short(str(short))
                else:
                    waiting.extend(reversed(halves))
            token = None

    def _whole(self, piece: Piece, resume: str | None) -> Iterator[Page]:
        window, cap = piece.window, self._catalog.most_items
        query = SceneQuery(
            collections=self._collections,
            start=window.start,
            end=window.end,
            axis=window.axis,
            intersects=piece.intersects,
            page_size=self._page_size,
        )
        self._on_query()
        token = resume
        failures = listed = 0
        # A token may have died since it was noted: then the piece is read from its start.
        untried_start = resume is not None
        matched: int | None = None
        while True:
            try:
                for page in self._catalog.pages(query, resume=token):
                    failures = 0
                    untried_start = False
                    token = page.next
                    listed += len(page.items) + len(page.broken)
                    matched = matched if page.matched is None else page.matched
                    if cap is not None and max(matched or 0, listed) >= cap and piece.halves():
                        raise _too_wide(self._catalog, window, cap)
                    yield page
                break
            except (CatalogUnavailable, CatalogInvalid) as error:
                failures += 1
                if untried_start and (failures >= self._tries or isinstance(error, CatalogInvalid)):
                    token, untried_start = None, False
                    continue
                if isinstance(error, CatalogInvalid):
                    raise
                if failures >= self._tries:
                    if error.too_slow and error.retry_after_s is None:
                        raise _Slow(error) from error
                    raise
                self._pause(failures, error)
        if cap is not None and listed >= cap:
            self._on_short(
                f"{self._catalog.name} lists {listed} Items from {window.start} to {window.end}, which is all that it "
                "lists for one search, and the search cannot be cut any narrower; there may be more"
            )
        elif resume is None and matched is not None and matched - listed > _SHORT_SHARE * matched:
            raise _Short(
                f"{self._catalog.name} says that {matched} Items are from {window.start} to {window.end}, "
                f"but lists {listed} of them"
            )


class _Slow(Exception):
    """A piece that runs out of the catalog's time."""

    def __init__(self, error: CatalogUnavailable) -> None:
        super().__init__(str(error))
        self.error = error


class _Short(Exception):
    """A piece that was listed only in part."""


def _too_wide(catalog: Catalog, window: Window, cap: int) -> WindowTooWide:
    return WindowTooWide(
        f"{catalog.name} finds {cap} Items or more from {window.start} to {window.end} ({window.axis}), "
        "which is all that it lists for one search"
    )


def _quarters(ground: BaseGeometry) -> list[BaseGeometry]:
    west, south, east, north = ground.bounds
    if max(east - west, north - south) < _NARROWEST_DEGREES:
        return []
    x, y = (west + east) / 2.0, (south + north) / 2.0
    boxes = (box(west, south, x, y), box(x, south, east, y), box(west, y, x, north), box(x, y, east, north))
    return [part for each in boxes for part in [_polygons(ground.intersection(each))] if not part.is_empty]


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """What has area of it: a cut along an edge leaves lines and points behind."""
    members = getattr(geometry, "geoms", None)
    parts = [part for part in (members if members is not None else [geometry]) if isinstance(part, Polygon)]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)
