"""One scene in one area: the reference that is pinned for it, and what its look means against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shapely.geometry import shape

from daemon.scenes import Area, Scene
from daemon.store.records import Claim, Footprint, LookRow, ReferenceRow, Role
from engine.cross_sensor import cross_sensor_distance
from engine.detect import Detection, Verdict, detect
from engine.judge import DetectSettings
from engine.look import Look
from engine.reference import EarlierLook, Reference, reference_id
from engine.similar import most_similar
from engine.tiles import Float32Array

CANDIDATES = 10
"""Earlier looks fetched for each one wanted: in a large area most show other ground."""
SIMILAR_TILES = 5
"""Earlier tiles that the evidence of a detection lists."""
MIN_COMMON_SHARE = 0.1
"""Share of a scene's ground in the area that an earlier look must show to be of use."""


class ReferenceStore(Protocol):
    """The part of the store that holds looks and references. May block; raises ``StoreUnavailable``."""

    def earlier_footprints(
        self, area: str, family: str, model_hash: str, before: Scene, limit: int
    ) -> tuple[Footprint, ...]:
        """What the scenes of unflagged looks before a scene cover, most recent first."""
        ...

    def earlier_looks(self, area: str, family: str, model_hash: str, before: Scene, limit: int) -> tuple[LookRow, ...]:
        """Unflagged looks sensed before a scene, most recent first."""
        ...

    def looks_by_id(self, area: str, family: str, model_hash: str, scene_ids: Sequence[str]) -> tuple[LookRow, ...]:
        """Looks of the named scenes."""
        ...

    def identities_of(self, scene_ids: Sequence[str]) -> Mapping[str, str]:
        """What the named scene versions show."""
        ...

    def pin_reference(
        self, claim: Claim, area: str, family: str, model_hash: str, reference_id: str, look_ids: Sequence[str]
    ) -> ReferenceRow:
        """Pin a reference to the claimed scene; the first pin wins."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model judges."""

    name: str
    model_hash: str
    families: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AreaVerdict:
    """What a scene meant in one area."""

    area: Area
    role: Role
    look: Look
    verdict: Verdict
    reference_id: str
    detections: tuple[Detection, ...]
    """The verdict's, with similar tiles and the distance to other sensors' looks added to their evidence."""

    @property
    def flagged(self) -> bool:
        """Whether this look must stay out of later references.

        In a place's history only new water excludes a look. Seasons are strange the first time that they are seen;
        left out for that, winter would never become normal.
        """
        if self.role == "fresh":
            return bool(self.detections)
        return any(detection.kind == "flood" for detection in self.detections)


def pin(store: ReferenceStore, claim: Claim, area: Area, family: str, model_hash: str) -> ReferenceRow:
    """Choose the earlier looks that a scene is compared with, once and for good.

    The most recent ``area.history_looks`` unflagged looks that show some of the scene's ground in the area.
    """
    scene = claim.scene
    ground = shape(dict(scene.geometry)).intersection(shape(dict(area.geometry)))
    chosen: list[str] = []
    for earlier in store.earlier_footprints(area.name, family, model_hash, scene, CANDIDATES * area.history_looks):
        if len(chosen) == area.history_looks:
            break
        common = shape(dict(earlier.geometry)).intersection(ground)
        if common.area >= MIN_COMMON_SHARE * ground.area:
            chosen.append(earlier.scene_id)
    identity = reference_id(area=area.name, family=family, model_hash=model_hash, scene_ids=chosen)
    return store.pin_reference(claim, area.name, family, model_hash, identity, chosen)


def judge(
    store: ReferenceStore,
    scene: Scene,
    area: Area,
    role: Role,
    pinned: ReferenceRow,
    look: Look,
    model: ModelIdentity,
    calibration: Mapping[str, Float32Array],
    settings: DetectSettings,
) -> AreaVerdict:
    """Judge a scene's look of an area against its pinned reference.

    Args:
        store: where the looks are.
        scene: the scene.
        area: the area, with its alert budget.
        role: part that the scene plays in the area.
        pinned: the reference, from :func:`pin`.
        look: what the scene shows of the area.
        model: the model that scored it.
        calibration: the bundle's arrays for the sensor family.
        settings: how to judge; budget and minimal group come from the area.
    """
    rows = store.looks_by_id(area.name, pinned.family, pinned.model_hash, pinned.look_ids)
    looks = [
        EarlierLook(scene_id=row.scene_id, sensing_time=row.sensing_time, look=Look.from_bytes(row.blob))
        for row in rows
    ]
    reference = Reference.over(look.cell_ids, looks, reference_id=pinned.reference_id)
    # Rounded as the store keeps it, so that a result does not depend on whether a look was just made or read back.
    verdict = detect(
        look.rounded(),
        reference,
        calibration,
        replace(settings, alerts_per_month=area.alerts_per_month, min_tiles=area.min_tiles),
    )
    others = _other_sensors(store, scene, area, pinned, model) if verdict.detections else {}
    similar = _similar_tiles(store, verdict.detections, look.rounded(), looks) if verdict.detections else []
    return AreaVerdict(
        area=area,
        role=role,
        look=look,
        verdict=verdict,
        reference_id=pinned.reference_id,
        detections=tuple(
            _with_other_sensors(replace(found, evidence={**found.evidence, "similar_tiles": tiles}), look, others)
            for found, tiles in zip(verdict.detections, similar, strict=True)
        ),
    )


def _similar_tiles(
    store: ReferenceStore, detections: Sequence[Detection], look: Look, looks: Sequence[EarlierLook]
) -> list[list[dict[str, Any]]]:
    """For each detection, the tiles of the pinned looks that are most like its strangest tile, anywhere in the area.

    Of the pinned looks alone, for a later retry may find more in the store and must say the same.
    """
    peaks = [look.row(found.evidence["peak_cell"]) for found in detections]
    found = most_similar(look.cls[[row for row in peaks if row is not None]], looks, SIMILAR_TILES)
    identities = store.identities_of(sorted({tile.scene_id for tiles in found for tile in tiles}))
    return [
        [
            {
                "cell": tile.cell_id,
                "sensing_time": tile.sensing_time.isoformat().replace("+00:00", "Z"),
                "scene": identities[tile.scene_id],
                "cosine": tile.cosine,
            }
            for tile in tiles
        ]
        for tiles in found
    ]


def _other_sensors(
    store: ReferenceStore, scene: Scene, area: Area, pinned: ReferenceRow, model: ModelIdentity
) -> dict[str, Look]:
    """The most recent earlier look of the area through each other family."""
    found: dict[str, Look] = {}
    for family in model.families:
        if family != pinned.family:
            for row in store.earlier_looks(area.name, family, model.model_hash, scene, 1):
                found[family] = Look.from_bytes(row.blob)
    return found


def _with_other_sensors(detection: Detection, look: Look, others: Mapping[str, Look]) -> Detection:
    distances = {
        family: round(distance, 6)
        for family, other in sorted(others.items())
        if (distance := cross_sensor_distance(detection.cell_ids, look, other)) is not None
    }
    if not distances:
        return detection
    evidence: dict[str, Any] = {**detection.evidence, "xstars_other_sensors": distances}
    return replace(detection, evidence=evidence)
