"""Writes down what a scene meant: look, detections, incidents and alerts, in the one transaction that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.publish.alerts import Alert, alert_id, alert_of
from daemon.scenes import Scene
from daemon.score.incidents import IncidentRules, assign
from daemon.score.judging import AreaVerdict, ModelIdentity
from daemon.store.records import DetectionRow, IncidentRow, LookRow, OutboxAlert
from engine.detect import Detection


class EndingTransaction(Protocol):
    """The part of the store's ending that is used here. Any call may raise ``StoreUnavailable``."""

    def open_incidents(self, area: str) -> tuple[IncidentRow, ...]:
        """Incidents of an area that have not ended, those put in this transaction included."""
        ...

    def has_alert(self, alert_id: str) -> bool:
        """Whether an alert with this id was ever laid into the outbox."""
        ...

    def put_look(self, look: LookRow) -> None:
        """Store a look."""
        ...

    def put_detection(self, detection: DetectionRow) -> None:
        """Store a detection."""
        ...

    def put_incident(self, incident: IncidentRow) -> None:
        """Store an incident's new state."""
        ...

    def put_alert(self, alert: OutboxAlert) -> bool:
        """Lay an alert into the outbox."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What was written."""

    alerts: tuple[Alert, ...]
    """Alerts laid into the outbox just now; those of an earlier try are not repeated."""
    detections: int
    """Detections over all areas, silent ones included."""


def conclude(
    ending: EndingTransaction,
    scene: Scene,
    verdicts: Sequence[AreaVerdict],
    *,
    family: str,
    model: ModelIdentity,
    rules: IncidentRules,
) -> Conclusion:
    """Store the verdicts of a scene and make its alerts.

    Scenes of an area's history are learnt from in silence: their detections are kept, unpublished.
    """
    alerts: list[Alert] = []
    count = 0
    for verdict in verdicts:
        ending.put_look(
            LookRow(
                scene_id=scene.scene_id,
                area=verdict.area.name,
                family=family,
                model_hash=model.model_hash,
                sensing_time=scene.sensing_time,
                flagged=verdict.flagged,
                blob=verdict.look.to_bytes(),
            )
        )
        count += len(verdict.detections)
        if verdict.role == "history":
            for detection in verdict.detections:
                ending.put_detection(_row(detection, scene, verdict, model, incident_key=None))
        else:
            alerts += _alert(ending, scene, verdict, model, rules)
    return Conclusion(alerts=tuple(alerts), detections=count)


def _alert(
    ending: EndingTransaction, scene: Scene, verdict: AreaVerdict, model: ModelIdentity, rules: IncidentRules
) -> list[Alert]:
    # A replayed scene has its alerts already: sending none twice also keeps its incidents from moving on.
    fresh = [d for d in verdict.detections if not ending.has_alert(_id(d, scene, verdict, model))]
    assigned = assign(
        fresh,
        ending.open_incidents(verdict.area.name),
        scene=scene,
        area=verdict.area.name,
        rules=rules,
    )
    alerts = []
    for one in assigned:
        alert = alert_of(
            one.detection,
            scene,
            area=verdict.area,
            incident=one.incident.incident_key,
            # All alerts of an area keep their order: an area is claimed by one worker at a time anyhow.
            place=verdict.area.name,
            state=one.state,
            sequence=one.incident.sequence,
            budget=one.detection.budget,
            model_name=model.name,
            model_hash=model.model_hash,
            reference_id=verdict.reference_id,
        )
        message = alert.to_message()
        ending.put_incident(one.incident)
        ending.put_detection(_row(one.detection, scene, verdict, model, incident_key=one.incident.incident_key))
        ending.put_alert(
            OutboxAlert(
                alert_id=alert.alert_id,
                incident_key=alert.incident,
                sensing_time=scene.sensing_time,
                key=message.key,
                headers=message.headers,
                value=message.value,
            )
        )
        alerts.append(alert)
    return alerts


def _id(detection: Detection, scene: Scene, verdict: AreaVerdict, model: ModelIdentity) -> str:
    return alert_id(
        scene_identity=scene.identity,
        scene_version=scene.version,
        anchor_cell=detection.anchor_cell,
        kind=detection.kind,
        model_hash=model.model_hash,
        reference_id=verdict.reference_id,
    )


def _row(
    detection: Detection, scene: Scene, verdict: AreaVerdict, model: ModelIdentity, *, incident_key: str | None
) -> DetectionRow:
    return DetectionRow(
        detection_id=_id(detection, scene, verdict, model),
        scene_id=scene.scene_id,
        area=verdict.area.name,
        kind=detection.kind,
        p_value=detection.p_value,
        threshold=detection.threshold,
        anchor_cell=detection.anchor_cell,
        geometry=detection.geometry,
        evidence=detection.evidence,
        incident_key=incident_key,
        published=incident_key is not None,
    )
