"""Whether a catalog does what it declares: search by ``updated`` or ``created``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from daemon.errors import CatalogInvalid, CatalogUnavailable
from daemon.watch.catalogs import TimeAxis
from daemon.watch.paging import WindowReader
from daemon.watch.stac_times import parse_time
from daemon.watch.windows import Window

_SECOND = timedelta(seconds=1)
_MAX_PAGES = 20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An Item that a catalog has listed, by which its searches can be tried."""

    key: tuple[object, object]
    """Collection and id."""
    at: datetime
    """Its value on the axis."""
    intersects: Mapping[str, Any]
    """The ground over which it was listed."""

    @classmethod
    def of(cls, item: Mapping[str, Any], axis: TimeAxis, intersects: Mapping[str, Any]) -> Sample | None:
        """The sample that ``item`` makes; None where it has no such time."""
        at = axis_time(item, axis)
        return None if at is None else cls(key=_key(item), at=at, intersects=intersects)


def axis_time(item: Mapping[str, Any], axis: TimeAxis) -> datetime | None:
    """An Item's time on an axis; None where it has none that can be read."""
    properties = item.get("properties")
    try:
        return parse_time(properties.get(axis) if isinstance(properties, Mapping) else None)
    except ValueError:
        return None


def searches_by(reader: WindowReader, axis: TimeAxis, sample: Sample) -> bool:
    """Whether a search by ``axis`` over the second around a known Item lists it, and lists nothing from elsewhere.

    Some servers declare such searches and ignore the condition, others answer every such search with nothing: both
    would lose scenes in silence. No answer proves nothing.
    """
    window = Window(start=sample.at - _SECOND, end=sample.at + _SECOND, axis=axis)
    found = False
    try:
        for page, _ in islice(reader.pages(window, sample.intersects), _MAX_PAGES):
            times = [axis_time(item, axis) for item in page.items]
            if any(at is None or abs(at - sample.at) > 2 * _SECOND for at in times):
                return False
            found = found or any(_key(item) == sample.key for item in page.items)
    except (CatalogUnavailable, CatalogInvalid):
        return False
    return found


def _key(item: Mapping[str, Any]) -> tuple[object, object]:
    return item.get("collection"), item.get("id")
