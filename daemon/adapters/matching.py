"""Whether an Item meets a query, for catalogs that have no server to ask."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry
from shapely.prepared import prep

from daemon.errors import SceneInvalid
from daemon.watch.catalogs import SceneQuery
from daemon.watch.footprints import footprint
from daemon.watch.stac_times import parse_time


class Matcher:
    """A query, prepared for many Items.

    An Item whose time or footprint cannot be read is taken to meet the query: whoever turns it into a scene will refuse
    it with a reason, where dropping it here would lose it in silence.
    """

    def __init__(self, query: SceneQuery) -> None:
        self._query = query
        self._area = prep(shape(dict(query.intersects)))

    def meets(self, item: Mapping[str, Any]) -> bool:
        """True where the Item's collection, time and footprint are among those wanted."""
        if self._query.collections and item.get("collection") not in self._query.collections:
            return False
        properties = item.get("properties")
        if isinstance(properties, Mapping) and not self._in_window(properties):
            return False
        ground = _ground(item)
        return ground is None or bool(self._area.intersects(ground))

    def _in_window(self, properties: Mapping[str, Any]) -> bool:
        if self._query.axis != "datetime":
            at = _time(properties, self._query.axis)
            return at is not None and self._query.start <= at <= self._query.end
        start = _time(properties, "datetime") or _time(properties, "start_datetime")
        end = _time(properties, "datetime") or _time(properties, "end_datetime") or start
        return start is None or end is None or (start <= self._query.end and end >= self._query.start)


def _time(properties: Mapping[str, Any], key: str) -> datetime | None:
    try:
        return parse_time(properties.get(key))
    except ValueError:
        return None


def _ground(item: Mapping[str, Any]) -> BaseGeometry | None:
    try:
        return footprint(item.get("geometry"), of="an Item")
    except SceneInvalid:
        return None
