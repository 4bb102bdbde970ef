"""The areas of interest of the configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, model_validator
from pydantic import field_validator as check
from shapely.errors import GEOSException
from shapely.geometry import box, mapping, shape
from shapely.ops import unary_union
from shapely.validation import explain_validity

from daemon.scenes import Area
from daemon.settings.sections import Name, Names, Section, SettingPath


class AreaSettings(Section):
    """An area of interest: exactly one of ``bbox``, ``geometry`` and ``file`` says where it is."""

    name: Name
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    geometry: Mapping[str, Any] | None = None
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat."""
    file: SettingPath | None = None
    """GeoJSON file: a geometry, a Feature or a FeatureCollection, of which the union is watched."""
    max_cloud_percent: float = Field(default=80.0, ge=0, le=100)
    history_looks: int = Field(default=12, ge=0)
    history_days: int = Field(default=400, ge=1)
    alert_since: AwareDatetime | None = None
    alerts_per_month: float = Field(default=0.2, gt=0)
    min_tiles: int = Field(default=2, ge=1)
    catalogs: Names = ("all",)
    """Names of the catalogs that are asked about this area, or ``all``."""

    @check("bbox")
    @classmethod
    def _bbox_order(cls, bbox: tuple[float, float, float, float] | None) -> Any:
        if bbox is None:
            return None
        west, south, east, north = bbox
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise ValueError(
                f"found {list(bbox)}; it must be [west, south, east, north] in degrees with west < east and"
                " south < north (across the 180th meridian, give a MultiPolygon as `geometry`)"
            )
        return bbox

    @check("geometry")
    @classmethod
    def _geometry_is_polygon(cls, geometry: Mapping[str, Any] | None) -> Any:
        return None if geometry is None else _polygon(geometry)

    @model_validator(mode="after")
    def _one_place(self) -> AreaSettings:
        given = [key for key in ("bbox", "geometry", "file") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"an area needs exactly one of bbox, geometry and file; found {found}")
        return self

    def watches(self, catalog: str) -> bool:
        """Whether this area is looked for in that catalog."""
        return "all" in self.catalogs or catalog in self.catalogs

    def to_area(self) -> Area:
        """The area as the daemon knows it; reads ``file`` where that is given.

        Raises:
            ValueError: the file is missing, or holds no polygon.
        """
        if self.bbox is not None:
            geometry: Mapping[str, Any] = mapping(box(*self.bbox))
        elif self.geometry is not None:
            geometry = self.geometry
        else:
            geometry = _read_geojson(self.file)
        return Area(
            name=self.name,
            geometry=json.loads(json.dumps(geometry)),
            max_cloud_percent=self.max_cloud_percent,
            history_looks=self.history_looks,
            history_days=self.history_days,
            alert_since=self.alert_since,
            alerts_per_month=self.alerts_per_month,
            min_tiles=self.min_tiles,
        )


def _read_geojson(path: Path | None) -> Mapping[str, Any]:
    try:
        document = json.loads(Path(path or "").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as GeoJSON: {error}") from error
    try:
        features = document["features"] if document.get("type") == "FeatureCollection" else [document]
        geometries = [feature["geometry"] if feature.get("type") == "Feature" else feature for feature in features]
        return _polygon(mapping(unary_union([shape(dict(_polygon(geometry))) for geometry in geometries])))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not GeoJSON of polygons") from error


def _polygon(geometry: Mapping[str, Any]) -> Mapping[str, Any]:
    remedy = "it must be a GeoJSON Polygon or MultiPolygon in lon/lat degrees"
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"found a geometry of type {geometry.get('type')!r}; {remedy}")
    try:
        polygon = shape(dict(geometry))
    except (KeyError, IndexError, TypeError, ValueError, GEOSException) as error:
        raise ValueError(f"the coordinates are not those of a {geometry['type']}; {remedy}") from error
    if polygon.is_empty or not polygon.is_valid:
        raise ValueError(f"the polygon is not valid ({explain_validity(polygon)}); {remedy}")
    west, south, east, north = polygon.bounds
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise ValueError(f"the polygon reaches to {[west, south, east, north]}; {remedy}")
    return geometry
