"""How a daemon's scenes ended, read from its database, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.clock import SystemClock
from daemon.store import Store
from daemon.store.records import DetectionRow, OutboxRow


@dataclass(frozen=True, kw_only=True)
class SceneEnd:
    """One scene at the end."""

    item: str
    roles: Mapping[str, str]
    state: str
    outcome: str | None
    reason: str
    stats: Mapping[str, Any]
    detections: tuple[DetectionRow, ...]

    @property
    def how(self) -> str:
        """``scored``, ``skipped`` or the state of a scene that was neither."""
        return self.outcome if self.state == "done" and self.outcome else self.state

    @property
    def skipped(self) -> Mapping[str, int]:
        """Tiles that were not scored, by reason."""
        return dict(self.stats.get("skipped", {}))


def scene_ends(url: str) -> dict[str, SceneEnd]:
    """Every scene of a database by its Item's id, in order of sensing."""
    with Store.open(url, clock=SystemClock()) as store:
        rows = sorted(store.scenes(), key=lambda row: (row.scene.sensing_time, row.scene.item_id))
        found = {
            row.scene.item_id: SceneEnd(
                item=row.scene.item_id,
                roles=dict(row.areas),
                state=row.state,
                outcome=row.outcome,
                reason=row.reason or "",
                stats=dict(row.stats),
                detections=store.detections(row.scene.scene_id),
            )
            for row in rows
        }
    assert len(found) == len(rows), "an Item has two versions in the store"
    return found


def outbox(url: str) -> tuple[OutboxRow, ...]:
    """Every alert of a database, sent or not."""
    with Store.open(url, clock=SystemClock()) as store:
        return store.alerts()


def table(ends: Mapping[str, SceneEnd]) -> str:
    """What an assertion shows when it fails: each scene, and each of its detections."""
    lines = ["", f"{'item':45} {'roles':16} {'ended':8} {'tiles':>8} {'flag':>4} {'det':>3} {'alerts':>6}  why"]
    for end in ends.values():
        stats = end.stats
        tiles = f"{stats.get('scored', '')}/{stats.get('tiles', '')}"
        roles = ",".join(f"{area}:{role}" for area, role in end.roles.items())
        numbers = (
            f"{tiles:>8} {stats.get('flagged', ''):>4} {stats.get('detections', ''):>3} {stats.get('alerts', ''):>6}"
        )
        lines.append(f"{end.item:45} {roles:16} {end.how:8} {numbers}  {end.reason or dict(end.skipped) or ''}")
        for found in end.detections:
            told = found.evidence
            lines.append(
                f"    {found.kind}{'' if found.published else ' (silent)'} in {found.area} at {found.anchor_cell}: "
                f"p {found.p_value:.2g}, threshold {found.threshold:.3g}, basis {told.get('basis')}, "
                f"odeed {told.get('odeed')}, xstars {told.get('xstars')}, water {told.get('water')}"
            )
    return "\n".join(lines)
