"""The daemon's memory: SQLite on one machine, PostgreSQL for many.

The one door of SQLAlchemy and Alembic. :class:`~daemon.store.store.Store` is the whole interface; it is made of one
class per noun, and speaks in the frozen rows of :mod:`daemon.store.records`. Every method may block on the database,
may be called from any thread, and raises :class:`daemon.errors.StoreUnavailable` where the database is locked, down,
full, read-only or not migrated.

::

    Store.open(url, *, clock, max_attempts=5, busy_timeout_s=10.0) -> Store      (a context manager)
    migrate()  ping()  close()

    register_areas(areas, catalogs: {catalog: [area name, ...]}) -> {name: WatchedArea}
    areas() -> {name: WatchedArea}                    settled(area=None) -> bool
    excuse(catalog) -> the areas that waited for a catalog that never answered
    cursor(catalog, area) -> Cursor | None            close_window(catalog, areas, cursor) -> int made pending
    checkpoint(catalog, areas, token)                 mark(source, area, cursor)
    release_listed(source, areas) -> int made pending  release_left(scene_ids) -> int made pending
    record_page(catalog, sightings) -> PageCounts     replay(*, scene_ids=(), item_ids=(), failed=False) -> int
    scene(scene_id) -> SceneRow | None                scenes(*, item_id=None, state=None) -> tuple[SceneRow, ...]
    versions_of(identity) -> tuple[Scene, ...]        identities_of(scene_ids) -> {scene id: identity}

    claim(owner, lease_s) -> Claim | None             renew(claim, lease_s) -> Claim
    work_ahead() -> WorkAhead                         whether scenes are scored, or wait for a worker
    release(claim)                                    fail(claim, error, retry_in_s) -> SceneState
    finish(claim) -> context manager of Ending:       open_incidents(area)  put_look  put_detection  put_incident
                                                      put_alert -> bool  has_alert(alert_id) -> bool
                                                      done(outcome, reason=None, stats=None)

    earlier_looks(area, family, model_hash, before: Scene, limit) -> tuple[LookRow, ...]   most recent first, unflagged
    earlier_footprints(area, family, model_hash, before: Scene, limit) -> tuple[Footprint, ...]   of the same scenes
    looks_by_id(area, family, model_hash, scene_ids) -> tuple[LookRow, ...]                in the order asked
    pin_reference(claim, area, family, model_hash, reference_id, look_ids) -> ReferenceRow the first pin wins
    pinned_reference(scene_id, area, family, model_hash) -> ReferenceRow | None
    look_keys(model_hash, *, areas, family, since, until) -> tuple[LookKey, ...]           of one model, latest first
    look(key) -> LookRow | None                       look_counts() -> tuple[LookCount, ...]  by area and model
    looks_to_renew(model_hash, *, areas, since) -> tuple[LookKey, ...]                     of other models
    renew_look(lease, look) -> bool                   false where there is one already
    incidents(area=None) -> tuple[IncidentRow, ...]   detections(scene_id) -> tuple[DetectionRow, ...]

    hold_lease(name, owner, ttl_s) -> Lease | None    drop_lease(lease)
    outbox_batch(limit, *, after_seq=0) -> tuple[OutboxRow, ...]
    mark_sent(lease, seqs)  mark_attempt(lease, seq, error)  park(lease, seq, error)  unpark() -> int
    alerts() -> tuple[OutboxRow, ...]                 counts() -> StoreCounts          idle() -> bool
"""

from __future__ import annotations

from daemon.store.ending import Ending
from daemon.store.records import (
    BACK_FILL,
    SCENE_STATES,
    Claim,
    Cursor,
    DetectionRow,
    IncidentRow,
    Lease,
    LookCount,
    LookKey,
    LookRow,
    OutboxAlert,
    OutboxRow,
    PageCounts,
    ReferenceRow,
    Role,
    SceneRow,
    SceneState,
    Sighting,
    StoreCounts,
    WatchedArea,
    WorkAhead,
)
from daemon.store.store import Store

__all__ = [
    "BACK_FILL",
    "SCENE_STATES",
    "Claim",
    "Cursor",
    "DetectionRow",
    "Ending",
    "IncidentRow",
    "Lease",
    "LookCount",
    "LookKey",
    "LookRow",
    "OutboxAlert",
    "OutboxRow",
    "PageCounts",
    "ReferenceRow",
    "Role",
    "SceneRow",
    "SceneState",
    "Sighting",
    "Store",
    "StoreCounts",
    "WatchedArea",
    "WorkAhead",
]
