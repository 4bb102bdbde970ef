"""The one transaction that ends a scene."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, exists, select, update

from daemon.store.columns import storable_text
from daemon.store.database import Database
from daemon.store.incidents import incident_of
from daemon.store.records import Claim, DetectionRow, IncidentRow, LookRow, OutboxAlert
from daemon.store.schema import AREA, DETECTION, INCIDENT, LOOK, OUTBOX, SCENE, SCENE_AREA


class Ending:
    """What :meth:`daemon.store.store.Store.finish` yields: all of it is committed together, or none.

    Used by one thread, inside the ``with`` block only. Any method may raise
    :class:`daemon.errors.StoreUnavailable`; the block then rolls back.
    """

    def __init__(self, database: Database, connection: Connection, claim: Claim) -> None:
        self._database = database
        self._connection = connection
        self._claim = claim
        self._detections: set[str] = set()
        self._is_done = False

    def open_incidents(self, area: str) -> tuple[IncidentRow, ...]:
        """Return the incidents of ``area`` that have not ended, those put in this block included; oldest first."""
        self._check(area)
        rows = self._connection.execute(
            select(INCIDENT)
            .where(INCIDENT.c.area == area, INCIDENT.c.state != "ended")
            .order_by(INCIDENT.c.opened_at, INCIDENT.c.incident_key)
        )
        return tuple(incident_of(row) for row in rows.mappings())

    def put_look(self, look: LookRow) -> None:
        """Store what the scene showed of an area, in place of what an earlier try stored."""
        self._check(look.area, look.scene_id)
        self._put(LOOK, ("scene_id", "area", "family", "model_hash"), asdict(look))

    def put_detection(self, detection: DetectionRow) -> None:
        """Store a detection, in place of one with the same id."""
        self._check(detection.area, detection.scene_id)
        self._put(DETECTION, ("detection_id",), asdict(detection))
        self._detections.add(detection.detection_id)

    def put_incident(self, incident: IncidentRow) -> None:
        """Store an incident, in place of its earlier state."""
        self._check(incident.area)
        self._put(INCIDENT, ("incident_key",), {**asdict(incident), "cells": list(incident.cells)})

    def put_alert(self, alert: OutboxAlert) -> bool:
        """Lay an alert into the outbox; false, and nothing is changed, where its id is there already."""
        self._check(None)
        headers = [[name, base64.b64encode(value).decode("ascii")] for name, value in alert.headers]
        inserted = self._connection.execute(
            self._database.insert(OUTBOX)
            .values(
                alert_id=alert.alert_id,
                incident_key=alert.incident_key,
                sensing_time=alert.sensing_time,
                key=alert.key,
                headers=headers,
                value=alert.value,
                created_at=self._database.now(self._connection),
                attempts=0,
            )
            .on_conflict_do_nothing(index_elements=["alert_id"])
            .returning(OUTBOX.c.seq)
        )
        return inserted.one_or_none() is not None

    def has_alert(self, alert_id: str) -> bool:
        """Whether an alert with this id was ever laid into the outbox."""
        self._check(None)
        return self._connection.execute(select(exists().where(OUTBOX.c.alert_id == alert_id))).scalar_one()

    def done(self, outcome: str, reason: str | None = None, stats: Mapping[str, Any] | None = None) -> None:
        """End the scene as done in the areas of the claim; comes last.

        Detections of an earlier try that were neither put again nor published are dropped. Where the scene has gained
        an area since it was claimed, it is pending again for that one.
        """
        self._check(None)
        scene_id, areas = self._claim.scene.scene_id, list(self._claim.areas)
        here = and_(DETECTION.c.scene_id == scene_id, DETECTION.c.area.in_(areas))
        stale = and_(here, ~DETECTION.c.published, DETECTION.c.detection_id.not_in(self._detections))
        self._connection.execute(delete(DETECTION).where(stale))
        in_scene = SCENE_AREA.c.scene_id == scene_id
        self._connection.execute(update(SCENE_AREA).where(in_scene, SCENE_AREA.c.area.in_(areas)).values(done=True))
        self._connection.execute(update(AREA).where(AREA.c.name.in_(areas)).values(revision=AREA.c.revision + 1))
        is_left = self._connection.execute(select(exists().where(in_scene, ~SCENE_AREA.c.done))).scalar_one()
        self._connection.execute(
            update(SCENE)
            .where(SCENE.c.scene_id == scene_id)
            .values(
                state="pending" if is_left else "done",
                attempts=0 if is_left else self._claim.attempt,
                lease_owner=None,
                lease_until=None,
                outcome=storable_text(outcome),
                reason=None if reason is None else storable_text(reason),
                stats=dict(stats or {}),
                finished_at=self._database.now(self._connection),
            )
        )
        self._is_done = True

    def close(self) -> None:
        """Refuse to commit a scene that has no outcome; called by the store as the block ends."""
        if not self._is_done:
            raise RuntimeError(
                f"the ending of {self._claim.scene.item_id!r} left its block without done(); nothing of it was stored"
            )

    def _put(self, table: Table, key: tuple[str, ...], values: dict[str, Any]) -> None:
        insert = self._database.insert(table).values(**values)
        changed = {name: insert.excluded[name] for name in values if name not in key}
        self._connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=changed))

    def _check(self, area: str | None, scene_id: str | None = None) -> None:
        if self._is_done:
            raise RuntimeError("done() comes last in an ending; put everything before it")
        if area is not None and area not in self._claim.areas:
            raise ValueError(f"area {area!r} is not among those claimed: {sorted(self._claim.areas)}")
        if scene_id is not None and scene_id != self._claim.scene.scene_id:
            raise ValueError(f"scene {scene_id} is not the one claimed: {self._claim.scene.scene_id}")
