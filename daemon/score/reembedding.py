"""Re-embedding: the history of a place read again through a new model, when nothing more urgent is left to do.

Embeddings, scores and features of two models cannot be compared, so after a change of the model a place has no past
until its scenes are looked at again. Nothing is judged here and no alert is raised: only looks are stored.

A look of the old model that has no successor is the work list, so stopping and starting again goes on where it
stood, and a second run finds nothing to do. One process at a time renews an area: it holds a named lease, and
each look is stored under its fence. Between two batches of tiles it lets scenes go first that are being scored or
wait for a worker.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import structlog
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from daemon.backoff import Backoff
from daemon.clock import Clock
from daemon.errors import LeaseLost, StoreUnavailable
from daemon.scenes import VIGIE_NAMESPACE, Area, Scene
from daemon.score.named_lease import NamedLease
from daemon.score.renewal import LeftOut, Renewal, Turn
from daemon.score.worker import OpenScene, Scoring
from daemon.store.records import Lease, LookKey, LookRow, SceneRow, WorkAhead
from engine.errors import DeviceLost, PermanentError, RetryableError, SensorUnknown, VigieError
from engine.grid import Cell
from engine.look import Look
from engine.sensors import SENSORS

log = structlog.get_logger(__name__)


class RenewingStore(Protocol):
    """The part of the store that is used here. Any call may block and raise ``StoreUnavailable``."""

    def looks_to_renew(
        self, model_hash: str, *, areas: tuple[str, ...] | None = None, since: datetime | None = None
    ) -> tuple[LookKey, ...]:
        """Looks of other models without a successor, latest first."""
        ...

    def renew_look(self, lease: Lease, look: LookRow) -> bool:
        """Store a look unless there is one; raises ``LeaseLost``."""
        ...

    def scene(self, scene_id: str) -> SceneRow | None:
        """One scene version."""
        ...

    def work_ahead(self) -> WorkAhead:
        """Whether scenes are scored or wait."""
        ...

    def hold_lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or prolong a named lease."""
        ...

    def drop_lease(self, lease: Lease) -> None:
        """Give a lease up."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReembeddingRules:
    """How re-embedding behaves."""

    lease_s: float = 300.0
    """A re-embedder that is silent for so long is replaced by another."""
    attempts: int = 3
    """Passes over scenes that fail for a reason that may pass; a later run tries them again."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=5.0, cap_s=60.0))
    """Wait between two passes."""
    turn_s: float = 1.0
    """How often it is asked whether other work is done."""
    patience_s: float = 60.0
    """Scenes that nobody takes up for so long have no worker, so waiting for them would help nobody."""


def lease_name(area: str, model_hash: str) -> str:
    """Name of the lease on renewing an area; a digest, because names of areas may be as long as a lease's may."""
    return f"reembed {uuid.uuid5(VIGIE_NAMESPACE, f'reembed|{area}|{model_hash}')}"


class NothingClear(PermanentError):
    """Nothing of the area is clear enough in a scene to be looked at."""


class Reembedder:
    """Renews looks, one area after the other. Used by one thread."""

    def __init__(
        self,
        *,
        owner: str,
        store: RenewingStore,
        areas: Mapping[str, Area],
        open_scene: OpenScene,
        scoring: Scoring,
        rules: ReembeddingRules,
        clock: Clock,
        rng: random.Random,
        tell: Callable[[Turn], None] = lambda turn: None,
    ) -> None:
        self._owner = owner
        self._store = store
        self._areas = areas
        self._open_scene = open_scene
        self._scoring = scoring
        self._rules = rules
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._is_alone = False

    def run(self, area: str, since: datetime | None, stop: threading.Event) -> Renewal:
        """Renew the looks of one area, latest first, until none is left or ``stop`` is set.

        Latest first, because a fresh scene is compared with the latest looks: they count long before all are done.

        Raises:
            StoreUnavailable: the store failed; what is stored stays, and a later run goes on.
            LeaseLost: another process has taken the area over.
            DeviceLost: this process can use its device no more; start it again.
        """
        model_hash = self._scoring.model.model_hash
        lease = self._store.hold_lease(lease_name(area, model_hash), self._owner, self._rules.lease_s)
        wanted = self._store.looks_to_renew(model_hash, areas=(area,), since=since)
        if lease is None:
            return Renewal(area=area, wanted=len(wanted), stored=0, left_out=(), is_busy=True)
        held = NamedLease(self._store, lease, self._rules.lease_s, self._clock)
        tally = _Tally(area=area, wanted=len(wanted))
        try:
            for attempt in range(1, self._rules.attempts + 1):
                # What may pass is tried again after all others, so that scenes whose files are gone cost no waiting.
                again = self._pass(wanted, tally, held, stop)
                last = attempt == self._rules.attempts
                if not again or last or self._clock.wait(stop, self._rules.backoff.delay_s(attempt, self._rng)):
                    break
                wanted = again
        finally:
            self._give_up(held.lease)
        return tally.renewal()

    def _pass(
        self, keys: Sequence[LookKey], tally: _Tally, held: NamedLease, stop: threading.Event
    ) -> tuple[LookKey, ...]:
        """Try each look once; returns those that failed for a reason that may pass."""
        again = []
        for key in keys:
            row = self._store.scene(key.scene_id)
            if row is None:
                continue
            tally.left_out.pop(key, None)
            turn = Turn(
                area=key.area, doing="reading", at=tally.dealt_with, wanted=tally.wanted, item_id=row.scene.item_id
            )
            try:
                if not self._renew(key, row.scene, held, turn, stop):
                    break
                tally.stored += 1
            except (StoreUnavailable, LeaseLost, DeviceLost):
                raise
            except Exception as error:
                # Permanent, or a bug: neither may keep the other scenes from being renewed.
                tally.left_out[key] = left = _left_out(key, row.scene, error)
                log.warning(
                    "a scene could not be read again",
                    action="reembed.failed",
                    item=left.item_id,
                    area=left.area,
                    error=left.reason,
                    exc_info=not isinstance(error, VigieError),
                )
                if isinstance(error, RetryableError):
                    again.append(key)
            self._tell(_with(turn, "done", at=tally.dealt_with))
        return tuple(again)

    def _renew(self, key: LookKey, scene: Scene, held: NamedLease, turn: Turn, stop: threading.Event) -> bool:
        """Store one look; false where the run is to stop."""
        look = self._look(key, scene, held, turn, stop)
        if look is None:
            return False
        if not len(look):
            raise NothingClear("no tile of the area with enough clear ground")
        self._store.renew_look(held.prolong(), _row(key, scene, look, self._scoring.model.model_hash))
        return True

    def _look(self, key: LookKey, scene: Scene, held: NamedLease, turn: Turn, stop: threading.Event) -> Look | None:
        """What the scene shows of the area through the new model; None where the run is to stop."""
        sensor = SENSORS.get(scene.sensor)
        if sensor is None:
            raise SensorUnknown(f"scene {scene.item_id} names sensor {scene.sensor!r}, which this version has not")
        outline = shape(dict(self._areas[key.area].geometry))
        if not self._give_way(held, turn, stop):
            return None
        parts: list[Look] = []
        seconds: Counter[str] = Counter()
        for batch in self._open_scene(scene, [outline], self._scoring.bands(sensor.family)):
            if not self._give_way(held, turn, stop):
                return None
            parts.append(self._scoring.look(batch, sensor.family, seconds))
        return _shown(Look.join(parts), outline)

    def _give_way(self, held: NamedLease, turn: Turn, stop: threading.Event) -> bool:
        """Wait until no fresh scene is scored or waits for a worker; false where the run is to stop."""
        waited_s = 0.0
        while not stop.is_set():
            held.prolong()
            ahead = self._store.work_ahead()
            if ahead != "waiting":
                # Somebody is at work, or has done all of it: the next scene that waits is worth waiting for.
                self._is_alone, waited_s = False, 0.0
            elif waited_s >= self._rules.patience_s and not self._is_alone:
                self._is_alone = True
                log.warning(
                    "scenes wait to be scored and nobody takes them up: no worker runs, so re-embedding goes on",
                    action="reembed.alone",
                )
            if ahead == "none" or self._is_alone:
                self._tell(turn)
                return True
            self._tell(_with(turn, "waiting"))
            self._clock.wait(stop, self._rules.turn_s)
            waited_s += self._rules.turn_s
        return False

    def _give_up(self, lease: Lease) -> None:
        try:
            self._store.drop_lease(lease)
        except StoreUnavailable as error:
            log.warning("the lease runs out by itself", action="reembed.lease", error=str(error))


@dataclass(kw_only=True)
class _Tally:
    """What has become of an area so far."""

    area: str
    wanted: int
    stored: int = 0
    left_out: dict[LookKey, LeftOut] = field(default_factory=dict)

    @property
    def dealt_with(self) -> int:
        return self.stored + len(self.left_out)

    def renewal(self) -> Renewal:
        left_out = tuple(self.left_out.values())
        return Renewal(area=self.area, wanted=self.wanted, stored=self.stored, left_out=left_out)


def _shown(look: Look, outline: BaseGeometry) -> Look:
    return look.restrict(cell for cell in look.cell_ids if Cell.parse(cell).lonlat.intersects(outline))


def _row(key: LookKey, scene: Scene, look: Look, model_hash: str) -> LookRow:
    return LookRow(
        scene_id=key.scene_id,
        area=key.area,
        family=SENSORS[scene.sensor].family,
        model_hash=model_hash,
        sensing_time=scene.sensing_time,
        # What was wrong with the ground that day does not depend on the model that saw it.
        flagged=key.flagged,
        blob=look.to_bytes(),
    )


def _left_out(key: LookKey, scene: Scene, error: Exception) -> LeftOut:
    return LeftOut(
        area=key.area,
        scene_id=key.scene_id,
        item_id=scene.item_id,
        sensing_time=scene.sensing_time,
        reason=str(error) if isinstance(error, VigieError) else f"{type(error).__name__}: {error}",
    )


def _with(turn: Turn, doing: Literal["waiting", "done"], at: int | None = None) -> Turn:
    return Turn(area=turn.area, doing=doing, at=turn.at if at is None else at, wanted=turn.wanted, item_id=turn.item_id)
