"""Where else does it look like this? An exact search through all looks of one model, one look at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import shapely

from daemon.errors import ConfigError
from daemon.store.records import LookKey, LookRow
from engine.grid import Cell, to_lonlat, to_utm
from engine.look import Look
from engine.similar import Nearest
from engine.tiles import Float32Array

_TOUCH = 0.01
"""Share of a cell's side by which its ground is widened, so that neighbours count as the same place."""


class LookStore(Protocol):
    """The part of the store that is searched. May block; raises ``StoreUnavailable``."""

    def look_keys(
        self,
        model_hash: str,
        *,
        areas: Collection[str] | None = None,
        family: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[LookKey, ...]:
        """Looks of one model, latest first."""
        ...

    def look(self, key: LookKey) -> LookRow | None:
        """One look; None where it is gone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Query:
    """The tile that others are compared with."""

    cls: Float32Array
    """Class embedding.  (D,)"""
    cell: Cell
    family: str
    key: LookKey | None
    """The look that it was taken from; None for an image that is in no store."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which tiles may be found."""

    areas: tuple[str, ...] | None = None
    family: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    not_same_place: bool = False
    """Leave out tiles whose ground meets or touches the query's."""
    once_per_place: bool = False
    """Of each cell only its most similar look."""


def query_by_cell(store: LookStore, model_hash: str, cell: Cell, filters: Filters) -> Query:
    """The latest look of a cell among those that ``filters`` let through.

    Raises:
        ConfigError: no such look shows the cell.
    """
    return _latest(store, model_hash, filters, lambda look: cell.id, f"cell {cell.id}")


def query_by_point(store: LookStore, model_hash: str, lon: float, lat: float, filters: Filters) -> Query:
    """As :func:`query_by_cell`, for the cell over a place in EPSG:4326.

    Raises:
        ConfigError: no such look shows the place.
    """
    point = shapely.Point(lon, lat)

    def cell_of(look: Look) -> str | None:
        one = Cell.parse(look.cell_ids[0])
        # A look lies in one zone, at one level: its scene was read so.
        metres = to_utm(point, one.epsg)
        if metres.is_empty:
            return None
        col, row = (int(value // one.side_m) for value in metres.bounds[:2])
        return Cell(epsg=one.epsg, level=one.level, tile_px=one.tile_px, col=col, row=row).id

    return _latest(store, model_hash, filters, cell_of, f"the place {lon:g}, {lat:g}")


def _latest(
    store: LookStore, model_hash: str, filters: Filters, cell_of: Callable[[Look], str | None], what: str
) -> Query:
    for key in store.look_keys(model_hash, areas=filters.areas, family=filters.family, until=filters.until):
        row = store.look(key)
        look = Look.empty() if row is None else Look.from_bytes(row.blob)
        cell_id = cell_of(look) if len(look) else None
        at = None if cell_id is None else look.row(cell_id)
        if cell_id is not None and at is not None:
            return Query(cls=look.cls[at], cell=Cell.parse(cell_id), family=key.family, key=key)
    raise ConfigError(
        f"no look of this model shows {what} in the areas and times asked for; `vigie status` lists the scenes. "
        "After a change of the model, `vigie reembed` reads earlier scenes again"
    )


def search(
    store: LookStore,
    model_hash: str,
    query: Query,
    filters: Filters,
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Nearest:
    """Compare a query with every tile that ``filters`` let through; a hit's ``source`` is its :class:`LookKey`.

    The query's own tile is left out. Memory is bounded by one look and the list of keys. ``progress`` is told
    how many of how many looks are done.

    Raises:
        InputMismatch: a look comes from an encoder of another size.
    """
    keys = store.look_keys(
        model_hash, areas=filters.areas, family=filters.family, since=filters.since, until=filters.until
    )
    wide = query.cell.polygon.buffer(_TOUCH * query.cell.side_m, join_style="mitre")
    ground = to_lonlat(wide, query.cell.epsg)
    shapely.prepare(ground)

    def elsewhere(cell_id: str) -> bool:
        cell = Cell.parse(cell_id)
        if cell.epsg == query.cell.epsg:
            return not wide.intersects(cell.polygon)
        return not ground.intersects(cell.lonlat)

    nearest = Nearest(
        query.cls,
        limit,
        keep=elsewhere if filters.not_same_place else lambda cell_id: True,
        once_per_place=filters.once_per_place,
    )
    for done, key in enumerate(keys):
        progress(done, len(keys))
        row = store.look(key)
        if row is None:
            continue
        look = Look.from_bytes(row.blob)
        if query.key is not None and key.scene_id == query.key.scene_id:
            look = look.restrict(cell for cell in look.cell_ids if cell != query.cell.id)
        nearest.offer(key, key.scene_id, look.cell_ids, look.cls)
    progress(len(keys), len(keys))
    return nearest
