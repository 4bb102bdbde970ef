"""Which of a catalog's Items become sightings of which areas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry
from shapely.prepared import PreparedGeometry, prep

from daemon.errors import SceneInvalid
from daemon.scenes import Area, Scene
from daemon.store.records import Role, Sighting
from daemon.watch.identity import baseline_order, processing_baseline
from daemon.watch.poll_report import Tally
from daemon.watch.stac_items import scene_from_item
from engine.errors import SensorUnknown
from engine.sensors import sensor_for

VersionsOf = Callable[[str], Sequence[Scene]]
"""Scene identity to the versions of it that the store holds, in any order."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """An area of interest, prepared for many footprints."""

    area: Area
    since: datetime
    """Scenes sensed before this are history; aware UTC."""
    prepared: PreparedGeometry[BaseGeometry]

    @property
    def history_since(self) -> datetime:
        """Scenes sensed before this are not even history: a mass re-publication must not flood the queue."""
        return self.since - timedelta(days=self.area.history_days)

    @classmethod
    def of(cls, area: Area, since: datetime) -> Ground:
        """Prepare ``area``, whose alerts begin at ``since``."""
        return cls(area=area, since=since, prepared=prep(shape(dict(area.geometry))))


class Sieve:
    """Turns the Items of one catalog into sightings, and counts those it passes over."""

    def __init__(self, catalog: str, sensors: Mapping[str, str], versions_of: VersionsOf) -> None:
        """``sensors``: collection id to sensor name, or ``auto`` to let the Item tell; others are told by the Item."""
        self._catalog = catalog
        self._sensors = sensors
        self._versions_of = versions_of

    def sift(self, items: Iterable[Mapping[str, Any]], grounds: Sequence[Ground], tally: Tally) -> list[Sighting]:
        """The sightings among ``items``, with every area of ``grounds`` that each meets.

        Where one page lists several copies of a scene, the one with the newest baseline is kept.
        """
        chosen: dict[str, Sighting] = {}
        for item in items:
            sighting = self._sighting(item, grounds, tally)
            if sighting is None:
                continue
            key = f"{sighting.scene.identity}|{sighting.scene.sensor}"
            rivals = [chosen[key].scene] if key in chosen else []
            if is_copy(sighting.scene, rivals) or is_copy(sighting.scene, self._versions_of(sighting.scene.identity)):
                tally.passed_over["copy"] += 1
            else:
                if rivals:
                    tally.passed_over["copy"] += 1
                chosen[key] = sighting
        return list(chosen.values())

    def _sighting(self, item: Mapping[str, Any], grounds: Sequence[Ground], tally: Tally) -> Sighting | None:
        try:
            scene = scene_from_item(item, catalog=self._catalog, sensor_of=self._sensor_of)
        except SceneInvalid as error:
            tally.refuse("invalid", str(error))
            return None
        except SensorUnknown as error:
            tally.refuse("unknown sensor", f"{item.get('collection')}/{item.get('id')}: {error}")
            return None
        footprint = shape(dict(scene.geometry))
        met = [ground for ground in grounds if ground.prepared.intersects(footprint)]
        for ground in met:
            tally.see(ground.area.name, scene.collection, scene.sensing_time)
        clear = [ground for ground in met if _clear_enough(scene, ground.area)]
        wanted = [ground for ground in clear if scene.sensing_time >= ground.history_since]
        if not wanted:
            tally.passed_over["surplus" if clear else "clouded" if met else "outside"] += 1
            return None
        return Sighting(scene=scene, areas={ground.area.name: _role(scene, ground) for ground in wanted})

    def _sensor_of(self, collection: str, properties: Mapping[str, Any], assets: Mapping[str, Any]) -> str:
        named = self._sensors.get(collection, "auto")
        return sensor_for(collection, properties, assets, override=None if named == "auto" else named).name


def is_copy(scene: Scene, others: Iterable[Scene]) -> bool:
    """Whether one of ``others`` is the same scene, listed elsewhere, with processing at least as new.

    Copies of one product have different checksums (another COG writer, another offset convention), so their versions
    differ; yet nothing new was seen, and scoring each copy would alert once per catalog. The listing that came first
    stays. A changed version under the *same* listing is not a copy but a re-publication; a newer baseline is not a copy
    wherever it is listed. L1C and L2A of one pass are different sensors, and none is the other's copy.
    """
    own = (scene.catalog, scene.collection, scene.item_id)
    others = [other for other in others if other.identity == scene.identity and other.sensor == scene.sensor]
    if any((other.catalog, other.collection, other.item_id) == own for other in others):
        return False
    baseline = _baseline(scene)
    return any(_baseline(other) >= baseline for other in others)


def _baseline(scene: Scene) -> tuple[int, ...]:
    return baseline_order(processing_baseline(scene.item["properties"]))


def _clear_enough(scene: Scene, area: Area) -> bool:
    """A scene whose cover nobody states is taken: the reading of its pixels will tell."""
    return scene.cloud_cover_percent is None or scene.cloud_cover_percent <= area.max_cloud_percent


def _role(scene: Scene, ground: Ground) -> Role:
    return "fresh" if scene.sensing_time >= ground.since else "history"
