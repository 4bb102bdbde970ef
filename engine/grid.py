"""The cell grid: squares of ground with one identity for every sensor and date.

The grid is WGS 84 / UTM (EPSG:326xx north, EPSG:327xx south). Level k has pixels of ``10 m / 2**k`` (k = 0..6); a
cell is a square of ``tile_px`` such pixels, snapped to whole multiples of its own side from easting 0, northing 0 of
its zone. So a cell of level k lies in exactly one cell of level k - 1, and four cells fill their parent exactly.

A place near a zone's edge has a cell in each of the two zones; which zone a scene uses is the reader's choice
(:mod:`engine.raster`), not the grid's.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer
from shapely.affinity import translate
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry
from shapely.geometry.polygon import orient

BASE_GSD_M = 10.0
"""Pixel size of level 0, metres: the finest bands of Sentinel-2."""
MAX_LEVEL = 6
"""Finest level: 0.15625 m."""
MAX_CELLS = 2_000_000
"""No single request enumerates more cells than this; a whole Sentinel-2 tile has 30 000 of 640 m."""

_ID = re.compile(r"(\d{5})-([0-6])-(\d{1,5})-(-?\d{1,9})-(-?\d{1,9})")
# Half-width of the part of a zone that is projected, degrees: a zone is 6 wide, Sentinel-2 tiles reach about 1 beyond,
# the Norwegian and Svalbard zones up to 6 from their meridian.
_ZONE_HALF_WIDTH = 12.0


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One square of the cell grid."""

    epsg: int
    """WGS 84 / UTM zone, 32601..32660 or 32701..32760."""
    level: int
    """k: the pixel is 10 m / 2**k, 0..6."""
    tile_px: int
    """Side in pixels."""
    col: int
    """Column, counted eastwards from easting 0."""
    row: int
    """Row, counted northwards from northing 0."""

    def __post_init__(self) -> None:
        if not is_utm(self.epsg):
            raise ValueError(f"EPSG:{self.epsg} is not a WGS 84 / UTM zone (326xx or 327xx)")
        if not 0 <= self.level <= MAX_LEVEL:
            raise ValueError(f"level {self.level} is outside 0..{MAX_LEVEL}")
        if not 0 < self.tile_px < 100_000:
            raise ValueError(f"a cell of {self.tile_px} pixels; 1..99999 is expected")

    @classmethod
    def parse(cls, cell_id: str) -> Cell:
        """The cell of an id text such as ``32629-0-64-812-9120``.

        Raises:
            ValueError: the text is not a cell id.
        """
        match = _ID.fullmatch(cell_id)
        if match is None:
            raise ValueError(f"{cell_id!r} is not a cell id (epsg-level-tile_px-col-row, e.g. 32629-0-64-812-9120)")
        epsg, level, tile_px, col, row = (int(part) for part in match.groups())
        return cls(epsg=epsg, level=level, tile_px=tile_px, col=col, row=row)

    @property
    def id(self) -> str:
        """The text that names this cell everywhere."""
        return f"{self.epsg}-{self.level}-{self.tile_px}-{self.col}-{self.row}"

    @property
    def crs(self) -> str:
        """``EPSG:326xx`` or ``EPSG:327xx``."""
        return f"EPSG:{self.epsg}"

    @property
    def gsd_m(self) -> float:
        """Pixel size, metres."""
        return gsd_of_level(self.level)

    @property
    def side_m(self) -> float:
        """Side of the square, metres."""
        return self.tile_px * self.gsd_m

    @property
    def area_m2(self) -> float:
        """Area on the projected grid, square metres."""
        return self.side_m**2

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in metres of the zone; exact, since gsd is a binary fraction of ten."""
        side = self.side_m
        return self.col * side, self.row * side, (self.col + 1) * side, (self.row + 1) * side

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine a, b, c, d, e, f from (column, row) in pixels, origin north-west, to (easting, northing) in metres."""
        west, _, _, north = self.bounds
        return self.gsd_m, 0.0, west, 0.0, -self.gsd_m, north

    @property
    def polygon(self) -> shapely.Polygon:
        """The square in metres of its zone."""
        return shapely.box(*self.bounds)

    @property
    def lonlat(self) -> BaseGeometry:
        """The square in EPSG:4326, anticlockwise, cut at 180° where it crosses it."""
        return to_lonlat(self.polygon, self.epsg)

    @property
    def geojson(self) -> Mapping[str, Any]:
        """The square as an RFC 7946 geometry."""
        geometry: Mapping[str, Any] = mapping(self.lonlat)
        return geometry

    def parent(self, level: int | None = None) -> Cell:
        """The cell of a coarser level (one coarser by default) that this one lies in.

        Raises:
            ValueError: ``level`` is finer than the cell's own, or below 0.
        """
        target = self.level - 1 if level is None else level
        if not 0 <= target <= self.level:
            raise ValueError(f"cell {self.id} has no parent of level {target}")
        shift = self.level - target
        # An arithmetic shift floors, also south of a false origin where rows are negative.
        return replace(self, level=target, col=self.col >> shift, row=self.row >> shift)

    def children(self) -> tuple[Cell, Cell, Cell, Cell]:
        """The four cells of the next finer level that fill this one: south-west, south-east, north-west, north-east.

        Raises:
            ValueError: the cell is of the finest level.
        """
        if self.level == MAX_LEVEL:
            raise ValueError(f"cell {self.id} is of the finest level and has no children")
        col, row, finer = 2 * self.col, 2 * self.row, replace(self, level=self.level + 1)
        return (
            replace(finer, col=col, row=row),
            replace(finer, col=col + 1, row=row),
            replace(finer, col=col, row=row + 1),
            replace(finer, col=col + 1, row=row + 1),
        )

    def neighbours(self) -> tuple[Cell, ...]:
        """The eight cells that share an edge or a corner."""
        steps = (-1, 0, 1)
        return tuple(
            replace(self, col=self.col + dx, row=self.row + dy) for dy in steps for dx in steps if (dx, dy) != (0, 0)
        )


def is_utm(epsg: int | None) -> bool:
    """Whether an EPSG code is a WGS 84 / UTM zone."""
    return epsg is not None and (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760)


def gsd_of_level(level: int) -> float:
    """Pixel size of a level, metres: 10 / 2**level."""
    return BASE_GSD_M / float(2**level)


def level_for_gsd(gsd_m: float) -> int:
    """The level whose pixel is nearest to ``gsd_m`` as a power of two, held within 0..6.

    Raises:
        ValueError: ``gsd_m`` is not a positive, finite number.
    """
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise ValueError(f"a pixel size of {gsd_m} m; a positive number is expected")
    return min(MAX_LEVEL, max(0, round(math.log2(BASE_GSD_M / gsd_m))))


def utm_epsg_for(lon: float, lat: float) -> int:
    """The UTM zone of a place, with the zones of south-west Norway and Svalbard as MGRS has them.

    Sentinel-2 tiles follow the same rule.

    Raises:
        ValueError: the place lies beyond 80° S or 84° N, where UTM ends.
    """
    if not -80.0 <= lat <= 84.0:
        raise ValueError(f"latitude {lat:.3f} lies beyond UTM (80° S to 84° N)")
    lon = (lon + 180.0) % 360.0 - 180.0
    zone = int((lon + 180.0) // 6.0) + 1
    if 56.0 <= lat < 64.0 and 3.0 <= lon < 12.0:
        zone = 32
    elif lat >= 72.0 and 0.0 <= lon < 42.0:
        zone = 31 + 2 * int((lon + 3.0) // 12.0)
    return (32600 if lat >= 0 else 32700) + zone


def to_utm(geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """A lon/lat geometry in metres of a zone; what lies too far from the zone is cut away, so it may come back empty.

    Long edges are followed as straight lines in lon/lat, as GeoJSON defines them.
    """
    meridian = _central_meridian(epsg)
    window = shapely.box(meridian - _ZONE_HALF_WIDTH, -80.5, meridian + _ZONE_HALF_WIDTH, 84.5)
    whole = geometry if geometry.is_valid else shapely.make_valid(geometry)
    # Areas are written from -180 to 180 or past it: whichever copy falls near the zone is meant.
    near = shapely.union_all([translate(whole, xoff=turn).intersection(window) for turn in (-360.0, 0.0, 360.0)])
    if near.is_empty:
        return near
    forward = _transformer(4326, epsg)
    return shapely.transform(shapely.segmentize(near, 0.05), _projector(forward))


def to_lonlat(geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """A geometry of a zone in EPSG:4326, exterior rings anticlockwise, cut at 180° (RFC 7946 sections 3.1.6, 3.1.9)."""
    inverse = _transformer(epsg, 4326)
    meridian = _central_meridian(epsg)

    def project(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        lon, lat = inverse.transform(points[:, 0], points[:, 1])
        # Keep longitudes in one piece around the zone's meridian, also where they pass 180°.
        return np.stack([(lon - meridian + 180.0) % 360.0 - 180.0 + meridian, lat], axis=1)

    flat = shapely.transform(geometry, project)
    west, _, east, _ = flat.bounds if not flat.is_empty else (0.0, 0.0, 0.0, 0.0)
    if west < -180.0 or east > 180.0:
        world = shapely.box(-180.0, -90.0, 180.0, 90.0)
        flat = shapely.union_all([translate(flat, xoff=turn).intersection(world) for turn in (-360.0, 0.0, 360.0)])
    return _anticlockwise(flat)


def cells_over(geometry: BaseGeometry, epsg: int, level: int, tile_px: int = 64) -> tuple[Cell, ...]:
    """The cells whose ground meets a lon/lat area, from north to south and west to east, each once.

    A cell that only touches the area's edge is not taken.

    Raises:
        ValueError: the area has more cells than :data:`MAX_CELLS`.
    """
    return cells_over_utm(to_utm(geometry, epsg), epsg, level, tile_px)


def cells_over_utm(geometry: BaseGeometry, epsg: int, level: int, tile_px: int = 64) -> tuple[Cell, ...]:
    """As :func:`cells_over`, for an area in metres of the zone."""
    if geometry.is_empty:
        return ()
    side = tile_px * gsd_of_level(level)
    west, south, east, north = geometry.bounds
    cols = np.arange(math.floor(west / side), math.floor(east / side) + 1)
    rows = np.arange(math.floor(south / side), math.floor(north / side) + 1)[::-1]
    if cols.size * rows.size > MAX_CELLS:
        raise ValueError(
            f"an area of {cols.size} x {rows.size} cells of {side:g} m is over {MAX_CELLS}: use a smaller one"
        )
    shapely.prepare(geometry)
    cells: list[Cell] = []
    for row in rows.tolist():
        squares = shapely.box(cols * side, row * side, (cols + 1) * side, (row + 1) * side)
        met = shapely.intersects(geometry, squares) & ~shapely.touches(geometry, squares)
        cells += [Cell(epsg=epsg, level=level, tile_px=tile_px, col=col, row=row) for col in cols[met].tolist()]
    return tuple(cells)


def union_lonlat(cells: tuple[Cell, ...]) -> BaseGeometry:
    """The ground of several cells of one zone as one lon/lat geometry.

    Raises:
        ValueError: no cell, or cells of more than one zone.
    """
    zones: set[int] = {cell.epsg for cell in cells}
    if len(zones) != 1:
        raise ValueError(f"cells of one UTM zone are expected, not of {sorted(zones)}")
    return to_lonlat(shapely.union_all([cell.polygon for cell in cells]), zones.pop())


def _central_meridian(epsg: int) -> float:
    return -183.0 + 6.0 * (epsg % 100)


def _transformer(source: int, target: int) -> Transformer:
    return _thread_transformer(source, target, threading.get_ident())


@lru_cache(maxsize=256)
def _thread_transformer(source: int, target: int, thread: int) -> Transformer:
    # pyproj's transformers may not be shared between threads, and are slow to make.
    return Transformer.from_crs(source, target, always_xy=True)


def _projector(transformer: Transformer) -> Any:
    def project(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)

    return project


def _anticlockwise(geometry: BaseGeometry) -> BaseGeometry:
    if isinstance(geometry, shapely.Polygon):
        return orient(geometry, 1.0)
    if isinstance(geometry, shapely.MultiPolygon):
        return shapely.MultiPolygon([orient(part, 1.0) for part in geometry.geoms])
    return geometry
