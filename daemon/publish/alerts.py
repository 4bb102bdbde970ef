"""Alerts as consumers read them: CloudEvents 1.0 whose data is a GeoJSON Feature of schema ``alert.v1``.

Every byte of a message is a pure function of the alert's fields, and no field is the present time, so a
retry, a restart or a second worker writes the same message. ``ce_time`` is the sensing time: when the
thing that the event tells of happened.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Literal
from urllib.parse import quote

import jsonschema
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from daemon.errors import AlertInvalid
from daemon.publish.sinks import CONTENT_TYPE, PREFIX, Message
from daemon.scenes import VIGIE_NAMESPACE, Area, Scene
from engine.calibrate import Budget
from engine.detect import Detection

State = Literal["new", "updated", "confirmed", "ended"]
Kind = Literal["flood", "anomaly"]

SCHEMA = "alert.v1"
SCHEMA_URI = "urn:vigie:schema:alert.v1"
EVENT_TYPE = "vigie.alert.v1"
MEDIA_TYPE = "application/geo+json"

MAX_TILES = 2_000
"""Cell ids that one message lists; ``tile_count`` says how many there are."""
MAX_VERTICES = 10_000
"""Vertices of an outline beyond which its convex hull is sent, so that a message stays below a broker's 1 MB."""
COORDINATE_DECIMALS = 7
"""About 1 cm; the finest grid cell is 10 m."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One message about one incident."""

    alert_id: str
    """UUIDv5, from :func:`alert_id` or :func:`lifecycle_id`."""
    incident: str
    """Key of the incident."""
    place: str
    """Partition key: messages of one place keep their order."""
    state: State
    sequence: int
    """Revision of the incident, from 1."""
    kind: Kind
    area: str
    """Name of the area of interest."""
    sensing_time: datetime
    """When the ground was seen, aware."""
    geometry: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat."""
    affected_area_m2: float
    tiles: tuple[str, ...] = ()
    """Ids of all flagged grid cells."""
    scene: Mapping[str, Any] | None = None
    """``identity, version, catalog, collection, item_id, platform, sensor``; None in a message without a scene."""
    score: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    calibration: Mapping[str, Any] | None = None
    """``level, looks, tiles, extrapolated``."""
    budget: Mapping[str, Any] | None = None
    """``alerts_per_month, min_tiles, supported_alerts_per_month, false_tiles_per_1000``."""
    evidence: Mapping[str, Any]
    """``odeed, xstars, water, notes`` and what else the detection says for itself."""
    model_name: str
    model_hash: str
    reference_id: str | None = None
    links: tuple[Mapping[str, str], ...] = ()
    """Web links: ``rel, href`` and, where known, ``type, title``."""
    data: bytes = field(init=False, repr=False, compare=False)
    """The Feature as canonical JSON: sorted keys, no spaces, UTF-8."""

    def __post_init__(self) -> None:
        if self.sensing_time.tzinfo is None:
            raise AlertInvalid(f"alert {self.alert_id} breaks {SCHEMA} at properties.sensing_time: it has no time zone")
        # Made here and not on the way out: an alert that cannot be published must never enter the outbox.
        object.__setattr__(self, "data", self._encode())

    def feature(self) -> dict[str, Any]:
        """Return the GeoJSON Feature, a fresh copy."""
        feature: dict[str, Any] = json.loads(self.data)
        return feature

    def to_message(self) -> Message:
        """Return the CloudEvent in Kafka binary mode.

        Attributes are those of CloudEvents 1.0.2 with the extensions *partitioning* (``partitionkey``) and
        *sequence* (zero-padded, so that the order of strings is the order of revisions), mapped to headers
        by the Kafka protocol binding 1.0.2, section 3.2.
        """
        attributes = {
            "specversion": "1.0",
            "id": self.alert_id,
            "source": f"/vigie/areas/{quote(self.area, safe='')}",
            "type": EVENT_TYPE,
            "subject": self.incident,
            "time": _utc(self.sensing_time),
            "dataschema": SCHEMA_URI,
            "partitionkey": self.place,
            "sequence": f"{self.sequence:010d}",
        }
        headers = [(CONTENT_TYPE, MEDIA_TYPE.encode())]
        headers += [(PREFIX + name, value.encode()) for name, value in attributes.items()]
        return Message(alert_id=self.alert_id, key=self.place.encode(), headers=tuple(headers), value=self.data)

    def _encode(self) -> bytes:
        geometry, geometry_notes = _outline(self.alert_id, self.geometry)
        notes = [*self.evidence.get("notes", ()), *geometry_notes]
        if len(self.tiles) > MAX_TILES:
            notes.append(f"{len(self.tiles)} tiles are flagged; the first {MAX_TILES} are listed")
        feature = {
            "type": "Feature",
            "id": self.alert_id,
            "geometry": geometry,
            "properties": {
                "schema": SCHEMA,
                "incident": self.incident,
                "state": self.state,
                "sequence": self.sequence,
                "kind": self.kind,
                "area": self.area,
                "sensing_time": _utc(self.sensing_time),
                "scene": self.scene,
                "score": self.score,
                "p_value": self.p_value,
                "threshold": self.threshold,
                "calibration": self.calibration,
                "budget": self.budget,
                "affected_area_m2": self.affected_area_m2,
                "tile_count": len(self.tiles),
                "tiles": sorted(self.tiles)[:MAX_TILES],
                "evidence": {**self.evidence, "notes": notes},
                "model": {"name": self.model_name, "hash": self.model_hash},
                "reference": self.reference_id,
                "links": [dict(link) for link in self.links],
            },
        }
        try:
            data = json.dumps(feature, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AlertInvalid(f"alert {self.alert_id} cannot be written as JSON: {error}") from error
        check_feature(json.loads(data))
        return data.encode()


def alert_of(
    detection: Detection,
    scene: Scene,
    *,
    area: Area,
    incident: str,
    place: str,
    state: Literal["new", "updated"],
    sequence: int,
    budget: Budget | None,
    model_name: str,
    model_hash: str,
    reference_id: str | None,
    notes: tuple[str, ...] = (),
    links: tuple[Mapping[str, str], ...] = (),
) -> Alert:
    """Return the alert that a detection in a scene makes.

    Raises:
        AlertInvalid: the outcome does not satisfy the schema; the message names the path.
    """
    evidence = {key: value for key, value in detection.evidence.items() if key not in ("looks", "calibration_tiles")}
    evidence.setdefault("odeed", None)
    if evidence.setdefault("water", None) is None:
        evidence.setdefault("water_reason", f"no flagged tile has a water index with sensor {scene.sensor}")
    if evidence.setdefault("xstars", None) is None:
        evidence.setdefault("xstars_reason", "too few earlier looks of this place")
    evidence["notes"] = [*evidence.get("notes", ()), *notes]
    return Alert(
        alert_id=alert_id(
            scene_identity=scene.identity,
            scene_version=scene.version,
            anchor_cell=detection.anchor_cell,
            kind=detection.kind,
            model_hash=model_hash,
            reference_id=reference_id,
        ),
        incident=incident,
        place=place,
        state=state,
        sequence=sequence,
        kind=detection.kind,
        area=area.name,
        sensing_time=scene.sensing_time,
        geometry=detection.geometry,
        affected_area_m2=detection.area_m2,
        tiles=detection.cell_ids,
        scene={
            "identity": scene.identity,
            "version": scene.version,
            "catalog": scene.catalog,
            "collection": scene.collection,
            "item_id": scene.item_id,
            "platform": scene.platform,
            "sensor": scene.sensor,
        },
        score=detection.score,
        p_value=detection.p_value,
        threshold=detection.threshold,
        calibration={
            "level": detection.calibration,
            "looks": detection.evidence.get("looks", 0),
            "tiles": detection.evidence.get("calibration_tiles", 0),
            "extrapolated": detection.extrapolated,
        },
        budget={
            "alerts_per_month": area.alerts_per_month,
            "min_tiles": area.min_tiles,
            "supported_alerts_per_month": budget.supported_alerts_per_month if budget else None,
            "false_tiles_per_1000": budget.false_tiles_per_1000 if budget else None,
        },
        evidence=evidence,
        model_name=model_name,
        model_hash=model_hash,
        reference_id=reference_id,
        links=links,
    )


def alert_id(
    *, scene_identity: str, scene_version: str, anchor_cell: str, kind: Kind, model_hash: str, reference_id: str | None
) -> str:
    """Return the UUIDv5 of an alert that a scene raised: the same for every worker and every retry."""
    parts = ("alert", scene_identity, scene_version, anchor_cell, kind, model_hash, reference_id)
    return str(uuid.uuid5(VIGIE_NAMESPACE, json.dumps(parts)))


def lifecycle_id(*, incident: str, state: State, sequence: int) -> str:
    """Return the UUIDv5 of a message that no scene caused, such as the end of an incident."""
    return str(uuid.uuid5(VIGIE_NAMESPACE, json.dumps(("lifecycle", incident, state, sequence))))


def alert_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an alert's data."""
    text = resources.files("daemon").joinpath(f"schemas/{SCHEMA}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_feature(feature: Mapping[str, Any]) -> None:
    """Check the data of an alert against its schema.

    Raises:
        AlertInvalid: the message names the alert, the path and what is wrong there.
    """
    error = jsonschema.exceptions.best_match(_validator().iter_errors(feature))
    if error is not None:
        path = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise AlertInvalid(f"alert {feature.get('id')} breaks {SCHEMA} at {path}: {error.message[:300]}")


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(alert_schema())


def _outline(alert: str, geometry: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the geometry as RFC 7946 wants it: rounded, exterior rings anticlockwise (section 3.1.6)."""
    try:
        outline = shape(dict(geometry))
    except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise AlertInvalid(f"alert {alert} breaks {SCHEMA} at geometry: {error}") from error
    notes: list[str] = []
    vertices = shapely.get_num_coordinates(outline)
    if vertices > MAX_VERTICES:
        outline = _hull(outline)
        notes.append(f"the outline is the convex hull: the exact one has {vertices} vertices")
    outline = shapely.transform(outline, lambda points: points.round(COORDINATE_DECIMALS))
    return mapping(shapely.orient_polygons(outline)), notes


def _hull(outline: BaseGeometry) -> BaseGeometry:
    """Convex hull; on each side of 180° for itself where the outline was cut there, or it would span the world."""
    west, _, east, _ = outline.bounds
    if east - west <= 180.0:
        return outline.convex_hull
    halves = (outline.intersection(shapely.box(*half)) for half in ((-180, -90, 0, 90), (0, -90, 180, 90)))
    return shapely.union_all([half.convex_hull for half in halves])


def _utc(moment: datetime) -> str:
    """Return RFC 3339 in UTC with ``Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
