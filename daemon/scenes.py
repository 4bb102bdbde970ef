"""What the daemon knows of the world: areas it watches and scenes that catalogs hold."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

VIGIE_NAMESPACE = uuid.UUID("6c1f6f0e-57a2-5d0b-9a53-0c1b8f8e7a11")
"""Namespace of every UUIDv5 that Vigie makes."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area of interest."""

    name: str
    """Unique name, as configured."""
    geometry: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat."""
    max_cloud_percent: float = 80.0
    """Scenes cloudier than this, by their catalog's word, are not taken."""
    history_looks: int = 12
    """How many earlier clear scenes make the reference of a place."""
    history_days: int = 400
    """How far back the back-fill looks for them, days."""
    alert_since: datetime | None = None
    """Earlier scenes are learnt from but never alerted on; aware UTC. None: when the area was first watched."""
    alerts_per_month: float = 0.2
    """Alert budget: false alerts that are tolerable a month."""
    min_tiles: int = 2
    """Flagged tiles that must touch before there is an alert."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One STAC Item of one sensor, as the daemon knows it."""

    identity: str
    """What was seen: (platform, acquisition time, grid code, datastrip) where given, else (collection, item id)."""
    version: str
    """Digest of processing baseline, asset checksums or sizes, and offsets: 16 hex digits."""
    catalog: str
    """Name of the catalog that listed it."""
    collection: str
    """STAC collection id."""
    item_id: str
    """STAC Item id."""
    sensor: str
    """Name in :data:`engine.sensors.SENSORS`."""
    platform: str | None
    """STAC ``platform``, where given."""
    sensing_time: datetime
    """Acquisition, aware UTC; the start of a range where the Item gives one."""
    grid_code: str | None
    """``grid:code`` or the MGRS tile, where given."""
    geometry: Mapping[str, Any]
    """GeoJSON footprint, EPSG:4326 lon/lat."""
    cloud_cover_percent: float | None
    """``eo:cloud_cover``, where given."""
    updated: datetime | None
    """When the catalog says it last changed the Item, aware UTC."""
    item: Mapping[str, Any]
    """The STAC Item as read, links removed, hrefs absolute."""

    @property
    def scene_id(self) -> str:
        """UUIDv5 of identity and version: the key of this scene version in the store."""
        return str(uuid.uuid5(VIGIE_NAMESPACE, f"scene|{self.identity}|{self.version}"))
