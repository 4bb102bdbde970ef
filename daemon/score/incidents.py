"""Detections to incidents: one event at one place is one incident, however many tiles and passes show it.

Pure functions. The worker calls them inside the transaction that ends a scene, under the area's row lock and in
sensing order, so that a retry or another worker comes to the same keys.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from shapely import orient_polygons, union_all
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from daemon.scenes import VIGIE_NAMESPACE, Scene
from daemon.store.records import IncidentRow
from engine.detect import Detection
from engine.grid import Cell, to_utm


@dataclass(frozen=True, kw_only=True)
class IncidentRules:
    """When a detection belongs to an incident that is already open."""

    reach_m: float = 640.0
    """Largest distance between their outlines, metres: one Sentinel-2 cell."""
    quiet_days: float = 30.0
    """Days without a detection after which an incident takes no more."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A detection and the incident as it stands after it."""

    detection: Detection
    incident: IncidentRow
    state: Literal["new", "updated"]


def assign(
    detections: Sequence[Detection],
    open_incidents: Sequence[IncidentRow],
    *,
    scene: Scene,
    area: str,
    rules: IncidentRules,
) -> tuple[Assignment, ...]:
    """Give each detection of a scene its incident, in the order of their anchor cells.

    Args:
        detections: what the scene raised in the area.
        open_incidents: the area's incidents.
        scene: the scene; its sensing time is the time of each detection.
        area: name of the area.
        rules: when they belong together.
    """
    incidents = {row.incident_key: row for row in open_incidents}
    assigned: list[Assignment] = []
    for detection in sorted(detections, key=lambda d: d.anchor_cell):
        epsg = Cell.parse(detection.anchor_cell).epsg
        outline = to_utm(shape(dict(detection.geometry)), epsg)
        near = [row for row in incidents.values() if _belongs(row, outline, epsg, scene, rules)]
        if near:
            oldest = min(near, key=lambda row: (row.first_sensing_time, row.incident_key))
            incident = _extended(oldest, detection, scene)
            state: Literal["new", "updated"] = "updated"
        else:
            incident = _opened(detection, scene, area)
            state = "new"
        incidents[incident.incident_key] = incident
        assigned.append(Assignment(detection=detection, incident=incident, state=state))
    return tuple(assigned)


def _belongs(row: IncidentRow, outline: BaseGeometry, epsg: int, scene: Scene, rules: IncidentRules) -> bool:
    quiet = timedelta(days=rules.quiet_days)
    # A scene that arrives late may be older than the incident it belongs to: the gap counts both ways.
    if not row.first_sensing_time - quiet <= scene.sensing_time <= row.last_sensing_time + quiet:
        return False
    return bool(to_utm(shape(dict(row.geometry)), epsg).distance(outline) <= rules.reach_m)


def _opened(detection: Detection, scene: Scene, area: str) -> IncidentRow:
    name = f"incident|{area}|{scene.identity}|{detection.anchor_cell}|{detection.kind}"
    return IncidentRow(
        incident_key=str(uuid.uuid5(VIGIE_NAMESPACE, name)),
        area=area,
        kind=detection.kind,
        state="new",
        opened_at=scene.sensing_time,
        first_sensing_time=scene.sensing_time,
        last_sensing_time=scene.sensing_time,
        sequence=1,
        geometry=detection.geometry,
        cells=detection.cell_ids,
    )


def _extended(row: IncidentRow, detection: Detection, scene: Scene) -> IncidentRow:
    outline = union_all([shape(dict(row.geometry)), shape(dict(detection.geometry))])
    return replace(
        row,
        # Water found once makes the whole event a flood; what is only strange never unmakes it.
        kind="flood" if "flood" in (row.kind, detection.kind) else row.kind,
        state="updated",
        first_sensing_time=min(row.first_sensing_time, scene.sensing_time),
        last_sensing_time=max(row.last_sensing_time, scene.sensing_time),
        sequence=row.sequence + 1,
        geometry=mapping(orient_polygons(outline)),
        cells=tuple(sorted({*row.cells, *detection.cell_ids})),
    )
