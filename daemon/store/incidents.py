"""Incidents and the detections behind them, as they are read outside an ending."""

from __future__ import annotations

from sqlalchemy import RowMapping, select

from daemon.store.database import Database
from daemon.store.records import DetectionRow, IncidentRow
from daemon.store.schema import DETECTION, INCIDENT


class Incidents:
    """What was found. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def incidents(self, area: str | None = None) -> tuple[IncidentRow, ...]:
        """Return the incidents of ``area``, or all; oldest first."""
        statement = select(INCIDENT).order_by(INCIDENT.c.opened_at, INCIDENT.c.incident_key)
        if area is not None:
            statement = statement.where(INCIDENT.c.area == area)
        with self._database.read() as connection:
            return tuple(incident_of(row) for row in connection.execute(statement).mappings())

    def detections(self, scene_id: str) -> tuple[DetectionRow, ...]:
        """Return what a scene version raised, in order of area and detection id."""
        statement = (
            select(DETECTION)
            .where(DETECTION.c.scene_id == scene_id)
            .order_by(DETECTION.c.area, DETECTION.c.detection_id)
        )
        with self._database.read() as connection:
            return tuple(DetectionRow(**row) for row in connection.execute(statement).mappings())


def incident_of(row: RowMapping) -> IncidentRow:
    """Rebuild an incident from its row."""
    return IncidentRow(**{**row, "cells": tuple(row["cells"])})
