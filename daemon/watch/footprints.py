"""The footprint of a STAC Item: checked, repaired, and cut at the antimeridian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, Polygon, box, mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from daemon.errors import SceneInvalid

_MAX_POINTS = 100_000


def footprint(geometry: object, *, of: str) -> Polygon | MultiPolygon:
    """The ground that an Item covers, as a valid polygon in EPSG:4326 lon/lat.

    Self-touching rings are repaired and heights dropped. A polygon that spans more than 180° of longitude is read as
    one that crosses the antimeridian without being cut (RFC 7946, section 3.1.9 asks for the cut, many catalogs do not
    make it): taken literally it would meet every area at its latitude.

    ``geometry`` is the Item's GeoJSON geometry and ``of`` names the Item in messages. Raises :class:`SceneInvalid`
    where there is no geometry (a bounding box is no substitute: a swath's box is mostly ground it never saw), where it
    is not a polygon, or where its coordinates are not lon/lat degrees.
    """
    if not isinstance(geometry, Mapping):
        raise SceneInvalid(
            f"{of}: the Item has no geometry; a footprint polygon in lon/lat is needed (bbox is not used)"
        )
    try:
        given = shapely.force_2d(shape(dict(geometry)))
    except (ShapelyError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SceneInvalid(f"{of}: the geometry is not GeoJSON: {error}") from error
    if shapely.get_num_coordinates(given) > _MAX_POINTS:
        raise SceneInvalid(f"{of}: the geometry has more than {_MAX_POINTS} points")
    if given.is_empty or not all(math.isfinite(value) for value in given.bounds):
        raise SceneInvalid(f"{of}: the geometry is empty or not finite")
    west, south, east, north = given.bounds
    if west < -180.0 - 1e-6 or east > 360.0 + 1e-6 or south < -90.0 - 1e-6 or north > 90.0 + 1e-6:
        raise SceneInvalid(
            f"{of}: the geometry is not in lon/lat degrees (bounds {given.bounds}); reproject it to EPSG:4326"
        )
    parts = [_uncrossed(polygon) for polygon in _polygons(given)]
    ground = _polygons(unary_union(parts)) if parts else []
    ground = [polygon for polygon in ground if polygon.area > 0.0]
    if not ground:
        raise SceneInvalid(
            f"{of}: the geometry is a {given.geom_type} without area; a Polygon or MultiPolygon is needed"
        )
    return ground[0] if len(ground) == 1 else MultiPolygon(ground)


def to_geojson(geometry: BaseGeometry) -> dict[str, Any]:
    """A geometry as plain GeoJSON, lists in place of tuples, as it comes back from JSON."""
    given = mapping(geometry)
    return {"type": given["type"], "coordinates": _lists(given["coordinates"])}


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, (tuple, list)) else value


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    """The valid polygons within a geometry; points and lines are dropped."""
    repaired = geometry if geometry.is_valid else shapely.make_valid(geometry)
    return [part for part in _leaves(repaired) if isinstance(part, Polygon) and not part.is_empty]


def _leaves(geometry: BaseGeometry) -> list[BaseGeometry]:
    members = getattr(geometry, "geoms", None)
    return [geometry] if members is None else [leaf for member in members for leaf in _leaves(member)]


def _uncrossed(polygon: Polygon) -> BaseGeometry:
    """The polygon within -180..180, cut at the antimeridian where it crosses it."""
    west, _, east, _ = polygon.bounds
    if east - west > 180.0 and east <= 180.0 + 1e-6:
        if (
            west <= -180.0 + 1e-6
            and east >= 180.0 - 1e-6
            and polygon.area > 180.0 * (polygon.bounds[3] - polygon.bounds[1])
        ):
            return polygon  # a band round the whole globe, not a crossing
        shifted = shapely.transform(polygon, _eastward)
        return _cut(shifted if shifted.is_valid else shapely.make_valid(shifted))
    return _cut(polygon)


def _eastward(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes of -180..0 as 180..360; ``lonlat`` is (N, 2)."""
    return np.where((lonlat[:, :1] < 0.0) & [True, False], lonlat + 360.0, lonlat)


def _cut(geometry: BaseGeometry) -> BaseGeometry:
    """What lies east of 180° moved to where RFC 7946 has it, west of the cut."""
    if geometry.bounds[2] <= 180.0 + 1e-6:
        return geometry
    near = geometry.intersection(box(-180.0, -90.0, 180.0, 90.0))
    far = translate(geometry.intersection(box(180.0, -90.0, 540.0, 90.0)), xoff=-360.0)
    return unary_union([near, far])
