"""A worker: claims one scene at a time, has it read, scored and judged, and ends it in one transaction."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from daemon.backoff import Backoff
from daemon.clock import Clock
from daemon.errors import LeaseLost, StoreUnavailable
from daemon.operate.drift import DriftWatch
from daemon.operate.metrics import Metrics
from daemon.scenes import Area, Scene
from daemon.score.conclusion import conclude
from daemon.score.incidents import IncidentRules
from daemon.score.judging import AreaVerdict, ModelIdentity, judge, pin
from daemon.score.lease_keeper import LeaseKeeper
from daemon.store import Store
from daemon.store.records import Claim, ReferenceRow
from engine.errors import BandMissing, DeviceLost, PermanentError, RetryableError, SensorUnknown
from engine.grid import Cell
from engine.judge import DetectSettings
from engine.look import Look
from engine.read_plan import ReadReport
from engine.sensors import SENSORS
from engine.tiles import Float32Array, TileBatch

log = structlog.get_logger(__name__)


class SceneReading(Protocol):
    """A scene that is being read: tiles, and an account of them that is complete at the end."""

    @property
    def report(self) -> ReadReport:
        """What became of each tile."""
        ...

    def __iter__(self) -> Iterator[TileBatch]:
        """Batches of tiles; may block on the network, raises ``RetryableError`` or ``PermanentError``."""
        ...


OpenScene = Callable[[Scene, Sequence[BaseGeometry], Sequence[str]], SceneReading]
"""Opens (scene, areas in lon/lat, bands) for reading."""


class Scoring(Protocol):
    """What a worker asks of the engine. Called by one thread."""

    @property
    def model(self) -> ModelIdentity:
        """Which model this is."""
        ...

    def bands(self, family: str) -> tuple[str, ...]:
        """Bands that the models of a family need."""
        ...

    def calibration(self, family: str) -> Mapping[str, Float32Array]:
        """Calibration arrays of a family."""
        ...

    def look(self, batch: TileBatch, family: str, seconds: Counter[str]) -> Look:
        """Score and embed a batch; adds to ``seconds`` what it spent on ``embed`` and ``score``."""
        ...


class Stopped(Exception):
    """The worker was told to stop in the middle of a scene; the scene is handed back."""


@dataclass(frozen=True, kw_only=True)
class WorkerRules:
    """How a worker behaves."""

    lease_s: float = 300.0
    """A scene whose worker is silent for so long is claimed by another."""
    idle_s: float = 1.0
    """Wait between two looks for work."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=30.0, cap_s=3600.0))
    """Wait before a failed scene is tried again."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a scene ended."""

    outcome: Literal["scored", "skipped"]
    reason: str | None
    stats: Mapping[str, Any]
    verdicts: tuple[AreaVerdict, ...]


class Worker:
    """Scores scenes until it is stopped. Each worker has a thread and an engine of its own."""

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        areas: Mapping[str, Area],
        open_scene: OpenScene,
        scoring: Scoring,
        detect: DetectSettings,
        incidents: IncidentRules,
        rules: WorkerRules,
        metrics: Metrics,
        drift: DriftWatch,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._name = name
        self._store = store
        self._areas = areas
        self._open_scene = open_scene
        self._scoring = scoring
        self._detect = detect
        self._incidents = incidents
        self._rules = rules
        self._metrics = metrics
        self._drift = drift
        self._clock = clock
        self._rng = rng

    def run(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Work until ``stop`` is set; a scene in hand is then handed back. Calls ``beat`` at every turn."""
        while not stop.is_set():
            beat()
            try:
                worked = self.step(stop, beat)
            except StoreUnavailable as error:
                log.warning("the store does not answer; trying again", action="worker.wait", error=str(error))
                self._clock.wait(stop, 5 * self._rules.idle_s)
                continue
            if not worked:
                self._clock.wait(stop, self._rules.idle_s)

    def step(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> bool:
        """Claim and finish one scene; false where there was none.

        Raises:
            StoreUnavailable: the store failed; a claimed scene comes back when its lease ends.
            DeviceLost: the GPU's context broke; the scene was handed back, and this process must end.
        """
        claim = self._store.claim(self._name, self._rules.lease_s)
        if claim is None:
            return False
        started = self._clock.monotonic()
        scene = claim.scene
        bound = log.bind(item=scene.item_id, collection=scene.collection, attempt=claim.attempt)
        with structlog.contextvars.bound_contextvars(scene=scene.scene_id):
            try:
                with LeaseKeeper(self._store, claim, lease_s=self._rules.lease_s) as lease:
                    outcome = self._work(claim, lease, stop, beat)
                    lease.check()
                    self._end(claim, outcome, started)
            except Stopped:
                self._store.release(claim)
                bound.info("handed back a scene to stop", action="scene.release")
            except LeaseLost as error:
                bound.warning(
                    "another worker has the scene; this result is dropped", action="scene.lost", error=str(error)
                )
            except StoreUnavailable:
                raise
            except DeviceLost as error:
                # Another process takes the scene up. The attempt counts: a scene that breaks the device each time
                # must end as failed, not go round for ever.
                self._fail(claim, error, self._rules.backoff.delay_s(claim.attempt, self._rng))
                raise
            except PermanentError as error:
                self._fail(claim, error, retry_in_s=None)
            except RetryableError as error:
                asked = getattr(error, "retry_after_s", None)
                self._fail(claim, error, self._rules.backoff.delay_s(claim.attempt, self._rng, asked_s=asked))
            except Exception as error:
                # A bug must not stop the next scene; attempts are bounded, so it ends as failed with its error.
                bound.exception("a scene failed in an unexpected way", action="scene.bug")
                self._fail(claim, error, self._rules.backoff.delay_s(claim.attempt, self._rng))
        return True

    def _work(self, claim: Claim, lease: LeaseKeeper, stop: threading.Event, beat: Callable[[], None]) -> Outcome:
        scene = claim.scene
        areas = {name: self._areas[name] for name in claim.areas if name in self._areas}
        sensor = SENSORS.get(scene.sensor)
        if sensor is None:
            raise SensorUnknown(
                f"scene {scene.item_id} names sensor {scene.sensor!r}, which is not among {', '.join(sorted(SENSORS))}"
            )
        family = sensor.family
        outlines = {name: shape(dict(area.geometry)) for name, area in areas.items()}
        # Before a pixel is read: what a scene is compared with must not depend on how long reading took.
        pinned = {
            name: pin(self._store, claim, area, family, self._scoring.model.model_hash) for name, area in areas.items()
        }
        try:
            reading = self._open_scene(scene, list(outlines.values()), self._scoring.bands(family))
        except BandMissing as error:
            return Outcome(outcome="skipped", reason=f"band missing: {error}", stats={}, verdicts=())
        parts: list[Look] = []
        seconds: Counter[str] = Counter()
        for batch in reading:
            beat()
            lease.check()
            if stop.is_set():
                raise Stopped
            began = self._clock.monotonic()
            parts.append(self._scoring.look(batch, family, seconds))
            self._metrics.engine_busy(self._clock.monotonic() - began)
        report = reading.report
        self._metrics.tiles(report.read, report.skipped)
        self._metrics.observe_stage("read", report.seconds)
        self._metrics.observe_stage("embed", seconds["embed"])
        self._metrics.observe_stage("score", seconds["score"])
        stats = {
            "tiles": report.total,
            "scored": report.read,
            "skipped": dict(sorted(report.skipped.items())),
            "warnings": list(report.warnings),
        }
        if not report.read:
            return Outcome(outcome="skipped", reason=_why_nothing(report), stats=stats, verdicts=())
        whole = Look.join(parts)
        drift = self._drift.add(scene.sensor, whole.odeed, self._scoring.calibration(family))
        if drift is not None:
            self._metrics.drift(scene.sensor, drift)
        with self._metrics.stage("detect"):
            verdicts = self._judge(claim, areas, outlines, pinned, whole, family)
        return Outcome(outcome="scored", reason=None, stats=stats, verdicts=verdicts)

    def _judge(
        self,
        claim: Claim,
        areas: Mapping[str, Area],
        outlines: Mapping[str, BaseGeometry],
        pinned: Mapping[str, ReferenceRow],
        whole: Look,
        family: str,
    ) -> tuple[AreaVerdict, ...]:
        squares = {cell_id: Cell.parse(cell_id).lonlat for cell_id in whole.cell_ids}
        verdicts = []
        for name, area in areas.items():
            look = whole.restrict(cell for cell, square in squares.items() if square.intersects(outlines[name]))
            if len(look):
                verdicts.append(
                    judge(
                        self._store,
                        claim.scene,
                        area,
                        claim.areas[name],
                        pinned[name],
                        look,
                        self._scoring.model,
                        self._scoring.calibration(family),
                        self._detect,
                    )
                )
        return tuple(verdicts)

    def _end(self, claim: Claim, outcome: Outcome, started: float) -> None:
        scene = claim.scene
        family = SENSORS[scene.sensor].family
        with self._metrics.stage("store"), self._store.finish(claim) as ending:
            written = conclude(
                ending, scene, outcome.verdicts, family=family, model=self._scoring.model, rules=self._incidents
            )
            stats = {
                **outcome.stats,
                "flagged": sum(int(v.verdict.flagged.sum()) for v in outcome.verdicts),
                "detections": written.detections,
                "alerts": len(written.alerts),
            }
            ending.done(outcome.outcome, outcome.reason, stats)
        self._metrics.scene(outcome.outcome)
        for alert in written.alerts:
            self._metrics.alert(alert.kind, alert.state)
            log.info(
                "raised an alert",
                action="alert.raised",
                alert=alert.alert_id,
                kind=alert.kind,
                state=alert.state,
                area=alert.area,
                p_value=alert.p_value,
            )
        log.info(
            f"scene {outcome.outcome}",
            action=f"scene.{outcome.outcome}",
            item=scene.item_id,
            roles=",".join(f"{name}:{role}" for name, role in claim.areas.items()),
            reason=outcome.reason,
            seconds=round(self._clock.monotonic() - started, 2),
            **{key: value for key, value in stats.items() if value},
        )

    def _fail(self, claim: Claim, error: Exception, retry_in_s: float | None) -> None:
        message = f"{type(error).__name__}: {error}"
        try:
            state = self._store.fail(claim, message, retry_in_s)
        except LeaseLost as lost:
            log.warning("another worker has the scene", action="scene.lost", error=str(lost))
            return
        self._metrics.scene("failed" if state == "failed" else "retried")
        log.warning(
            "scene failed for good" if state == "failed" else "scene failed and will be tried again",
            action="scene.failed" if state == "failed" else "scene.retry",
            item=claim.scene.item_id,
            attempt=claim.attempt,
            retry_in_s=None if retry_in_s is None or state == "failed" else round(retry_in_s, 1),
            error=message,
        )


def _why_nothing(report: ReadReport) -> str:
    if not report.total:
        return "the scene shows no tile of the area"
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.skipped.most_common())
    return f"no tile with enough clear ground ({reasons} of {report.total})"
