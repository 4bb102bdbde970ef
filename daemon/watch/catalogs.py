"""The catalog port: what the watcher asks of anything that lists STAC Items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

TimeAxis = Literal["datetime", "created", "updated"]
"""The property of an Item that a window of time is laid over."""


@dataclass(frozen=True, kw_only=True)
class SceneQuery:
    """Which Items are wanted."""

    collections: tuple[str, ...]
    """STAC collection ids; empty: all of the catalog's."""
    start: datetime
    """Start of the window, included; aware UTC."""
    end: datetime
    """End of the window, included; aware UTC."""
    intersects: Mapping[str, Any]
    """GeoJSON geometry that Items must meet, EPSG:4326 lon/lat."""
    axis: TimeAxis = "datetime"
    """What the window is laid over."""
    page_size: int = 100
    """Items that a page should hold."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the Items that a query found."""

    items: tuple[Mapping[str, Any], ...]
    """Raw STAC Items, asset hrefs absolute. Not checked: an Item may still be invalid."""
    next: str | None
    """Token from which :meth:`Catalog.pages` goes on after this page; None after the last."""
    matched: int | None = None
    """Items that the whole search finds, where the catalog says so (``numberMatched``); some only estimate it."""
    broken: tuple[str, ...] = ()
    """What could not even be read as an Item, each as "address: reason"."""


class Catalog(Protocol):
    """A place that lists STAC Items. Calls block on I/O; each catalog is used from one thread at a time."""

    @property
    def name(self) -> str:
        """Unique name, as configured."""
        ...

    @property
    def base(self) -> str:
        """The catalog's root: a URL, or an absolute path where the catalog is a local folder."""
        ...

    @property
    def longest_window(self) -> timedelta | None:
        """The longest span of time that one query should cover; None: any.

        APIs give no more than so many results for one search, whatever it found.
        """
        ...

    @property
    def most_items(self) -> int | None:
        """Items that one search lists at most, however many it finds; None: no such cap."""
        ...

    @property
    def reads_everything(self) -> bool:
        """True where every query reads the whole catalog, as with static catalogs.

        Then narrow windows save nothing, and each poll asks for the whole span: an Item that is added late with an old
        time is found all the same.
        """
        ...

    def axes(self) -> frozenset[TimeAxis]:
        """The time axes that :meth:`pages` can search by; always holds ``datetime``.

        Raises :class:`daemon.errors.CatalogUnavailable` or :class:`daemon.errors.CatalogInvalid`.
        """
        ...

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        """Every Item that the query meets, page by page; the watcher drops repeats.

        ``resume`` is a token of an earlier page of the same query: reading goes on after that page. Raises, at any
        step, :class:`daemon.errors.CatalogUnavailable` (try again, from the last token),
        :class:`daemon.errors.WindowTooWide` (pages that lead in a circle or end too early: ask for less) or
        :class:`daemon.errors.CatalogInvalid` (this answer can never be used: not STAC).
        """
        ...
