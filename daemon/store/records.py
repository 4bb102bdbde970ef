"""What the store hands out and takes in: frozen rows, all times aware UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from daemon.scenes import Scene

Role = Literal["history", "fresh"]
"""``history``: learnt from, never alerted on. ``fresh``: may raise alerts."""

BACK_FILL = 1
"""Priority of history that was asked for: no fresh scene waits for it."""

SceneState = Literal["discovered", "pending", "claimed", "done", "failed", "superseded"]
"""``discovered``: in a window that is still open. ``superseded``: never scored, and a newer version has arrived."""

SCENE_STATES: tuple[SceneState, ...] = ("discovered", "pending", "claimed", "done", "failed", "superseded")


@dataclass(frozen=True, kw_only=True)
class WatchedArea:
    """An area of interest as the store remembers it."""

    name: str
    """Unique name, as configured."""
    geometry: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat."""
    watched_since: datetime
    """``alert_since`` as first configured, else when the area was first registered. Never changes."""
    revision: int
    """How many scenes have ended in this area."""
    active: bool
    """False once the configuration no longer names it: nothing is claimed for it."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far a catalog has been read for an area."""

    time: datetime | None = None
    """Everything that the catalog changed up to here is stored. None: nothing yet."""
    settled: bool = False
    """A first window has been closed, or the catalog was excused: scenes of the area no longer wait for it."""
    token: str | None = None
    """The watcher's own note, opaque to the store."""
    swept_at: datetime | None = None
    """When the long window was last swept."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A scene listed by a catalog, with the areas that it meets."""

    scene: Scene
    areas: Mapping[str, Role]
    """Area name to the part that the scene plays there; not empty."""
    priority: int = 0
    """0: as watched. :data:`BACK_FILL`: taken up only when nothing else waits."""


@dataclass(frozen=True, kw_only=True)
class PageCounts:
    """What a recorded page held."""

    new: int = 0
    """Scenes never seen."""
    changed: int = 0
    """New versions of known scenes."""
    known: int = 0
    """Scene versions seen before, those that gained an area included."""
    gained: int = 0
    """Known scene versions that gained an area."""
    refused: tuple[str, ...] = ()
    """One sentence for each scene that no database can hold (NUL characters, NaN in the Item); it is not stored."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A scene that one worker may score until its lease runs out."""

    scene: Scene
    areas: Mapping[str, Role]
    """The areas to score it for, in name order: those of the scene that are not done yet."""
    owner: str
    """The worker that holds it."""
    fence: int
    """Rises with every claim of the scene; every completing write checks it."""
    attempt: int
    """1 for the first try since discovery or replay."""
    lease_until: datetime
    """By the database's clock."""


WorkAhead = Literal["none", "waiting", "claimed"]
"""``claimed``: somebody scores a scene. ``waiting``: nobody does, but a scene may be claimed."""


@dataclass(frozen=True, kw_only=True)
class SceneRow:
    """A scene version and how far it has come."""

    scene: Scene
    state: SceneState
    areas: Mapping[str, Role]
    """All areas that the scene meets, in name order."""
    attempts: int
    not_before: datetime | None
    """A retry waits until then."""
    lease_owner: str | None
    lease_until: datetime | None
    fence: int
    outcome: str | None
    """How it ended, as the worker said."""
    reason: str | None
    """Why it ended so, or the last error."""
    stats: Mapping[str, Any]
    """Counts and seconds, as the worker said."""
    superseded_by: str | None
    """``scene_id`` of the newer version of the same identity."""
    discovered_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class LookRow:
    """What one scene showed of one area, through one model."""

    scene_id: str
    area: str
    family: str
    model_hash: str
    sensing_time: datetime
    flagged: bool
    """Something anomalous was in it, so it is no reference for later scenes."""
    blob: bytes
    """A serialised :class:`engine.look.Look`; opaque to the store."""


@dataclass(frozen=True, kw_only=True)
class LookKey:
    """A look without its blob."""

    scene_id: str
    area: str
    family: str
    model_hash: str
    sensing_time: datetime
    flagged: bool


@dataclass(frozen=True, kw_only=True)
class LookCount:
    """How many looks are kept of one area through one model."""

    area: str
    model_hash: str
    looks: int


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a scene version covers."""

    scene_id: str
    geometry: Mapping[str, Any]
    """GeoJSON, EPSG:4326 lon/lat."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """An immutable choice of earlier looks that a scene is compared with."""

    reference_id: str
    area: str
    family: str
    model_hash: str
    look_ids: tuple[str, ...]
    """``scene_id`` of each look, in the order given when pinned."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class DetectionRow:
    """One joined polygon that a scene version raised in an area."""

    detection_id: str
    scene_id: str
    area: str
    kind: str
    p_value: float
    threshold: float
    anchor_cell: str
    geometry: Mapping[str, Any]
    """GeoJSON, EPSG:4326 lon/lat."""
    evidence: Mapping[str, Any]
    """JSON values; NaN is refused."""
    incident_key: str | None
    published: bool
    """An alert was made of it."""


@dataclass(frozen=True, kw_only=True)
class IncidentRow:
    """One event at one place, over all the scenes that show it."""

    incident_key: str
    area: str
    kind: str
    state: str
    """``new``, ``updated``, ``confirmed`` or ``ended``."""
    opened_at: datetime
    """Sensing time or clock time, as the worker decides."""
    first_sensing_time: datetime
    last_sensing_time: datetime
    sequence: int
    """The revision that the incident's latest alert carried."""
    geometry: Mapping[str, Any]
    """GeoJSON, EPSG:4326 lon/lat."""
    cells: tuple[str, ...]
    """Ids of the grid cells it has covered."""


@dataclass(frozen=True, kw_only=True)
class OutboxAlert:
    """An alert to be published, ready for the wire."""

    alert_id: str
    incident_key: str
    sensing_time: datetime
    key: bytes
    """Kafka message key."""
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


@dataclass(frozen=True, kw_only=True)
class OutboxRow:
    """An alert in the outbox and how far it has come."""

    seq: int
    """Publishing order: rises within an incident."""
    alert: OutboxAlert
    created_at: datetime
    sent_at: datetime | None
    """When its delivery was marked. None: not confirmed by the broker."""
    parked_at: datetime | None
    """When the relay gave it up as undeliverable; ``unpark`` offers it again."""
    attempts: int
    last_error: str | None
    discovered_at: datetime | None = None
    """When a catalog first showed the scene that raised it. None: no scene did, or nobody asked."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A named lease, such as the relay's."""

    name: str
    owner: str
    fence: int
    """Rises each time that the lease changes hands."""
    until: datetime
    """By the database's clock."""


@dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """What the metrics show of the store."""

    scenes: Mapping[SceneState, int] = field(default_factory=dict)
    """Every state, zeros included."""
    pending_oldest_age_s: float | None = None
    """Seconds since the longest-waiting pending or claimed scene was discovered. None: none waits."""
    outbox_unsent: int = 0
    outbox_parked: int = 0
    outbox_oldest_age_s: float | None = None
    """Seconds since the oldest unsent alert was written. None: the outbox is empty."""
    incidents_opened: Mapping[str, int] = field(default_factory=dict)
    """Area name to the incidents first seen in the last 30 days; active areas only, zeros included."""
