"""What is to be harvested, as one value: the same order on the same catalog reads the same tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from daemon.errors import HarvestInvalid
from engine.grid import BASE_GSD_M


@dataclass(frozen=True, kw_only=True)
class Order:
    """One harvest."""

    collections: tuple[str, ...]
    """STAC collection ids; tiles of any two of them are paired by the ground that they show."""
    area: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat."""
    start: datetime
    """Sensing times from here, included; aware UTC."""
    end: datetime
    """To here, included."""
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Common names of the bands of a collection's tiles; one that is not named has its family's usual ones."""
    side_m: float = 64 * BASE_GSD_M
    """Side of a tile on the ground, metres: the same for all sensors, so fine ones have more pixels."""
    tiles: int = 200
    """Squares of ground, at most; each scene gives at most so many tiles."""
    scenes: int = 12
    """Scenes of one collection, at most."""
    max_cloud_percent: float = 40.0
    """Scenes cloudier than this, by their catalog's word, are not read."""
    min_clear: float = 0.95
    """Tiles with a smaller share of clear ground are left out."""
    within_days: float = 5.0
    """Two looks that are further apart in time are no pair."""
    seed: int = 0
    """Which scenes and which squares are taken, where there are more."""

    def __post_init__(self) -> None:
        if not self.collections or len(set(self.collections)) != len(self.collections):
            raise HarvestInvalid(f"collections {list(self.collections)}: name each once, and one at least")
        if self.start >= self.end:
            raise HarvestInvalid(f"the harvest would end ({self.end}) before it begins ({self.start})")
        if self.side_m <= 0 or self.side_m % BASE_GSD_M:
            raise HarvestInvalid(f"a tile of {self.side_m:g} m: give a multiple of {BASE_GSD_M:g} m, such as 640")
        unknown = sorted(set(self.bands) - set(self.collections))
        if unknown:
            raise HarvestInvalid(f"bands are named for {', '.join(unknown)}, which is not among the collections")

    @property
    def within(self) -> timedelta:
        """:attr:`within_days` as a span."""
        return timedelta(days=self.within_days)

    def to_json(self) -> dict[str, Any]:
        """Plain values, by which two orders are compared."""
        return {
            "collections": list(self.collections),
            "area": dict(self.area),
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "bands": {name: list(bands) for name, bands in sorted(self.bands.items())},
            "side_m": self.side_m,
            "tiles": self.tiles,
            "scenes": self.scenes,
            "max_cloud_percent": self.max_cloud_percent,
            "min_clear": self.min_clear,
            "within_days": self.within_days,
            "seed": self.seed,
        }
