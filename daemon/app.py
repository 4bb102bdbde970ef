"""The one place that wires the daemon: settings in, running loops out. Tests call it with twins."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from types import TracebackType
from typing import Literal, Self

import structlog
from prometheus_client import CollectorRegistry
from shapely.geometry.base import BaseGeometry

from daemon.adapters.host_gate import HostGates
from daemon.adapters.signing import SignedReading, with_https
from daemon.backoff import Backoff
from daemon.clock import Clock, SystemClock
from daemon.errors import StoreUnavailable
from daemon.operate.drift import DriftWatch
from daemon.operate.health import Heartbeats, Readiness
from daemon.operate.http_server import HttpServer
from daemon.operate.metrics import Metrics
from daemon.parts import (
    OPTIONAL_BANDS,
    access_policy,
    bundle_path,
    catalog_of,
    catalog_watch,
    read_limits,
    runner_choice,
    s3_hosts,
    signers_of,
    sink_of,
)
from daemon.publish.relay import Relay, RelaySettings
from daemon.publish.sinks import Sink
from daemon.scenes import Scene
from daemon.score.incidents import IncidentRules
from daemon.score.judging import ModelIdentity
from daemon.score.opening import Opening
from daemon.score.reading import read_plan
from daemon.score.worker import OpenScene, SceneReading, Scoring, Worker, WorkerRules
from daemon.settings import Settings
from daemon.store import Store
from daemon.watch.catalogs import Catalog
from daemon.watch.poll_report import PollReport
from daemon.watch.watcher import Watcher
from engine.bundle import ModelBundle
from engine.judge import DetectSettings
from engine.look import Look
from engine.raster import read_tiles
from engine.read_plan import ReadPlan
from engine.scoring import SceneScorer
from engine.tiles import Float32Array, TileBatch

log = structlog.get_logger(__name__)

Role = Literal["watch", "score", "publish", "web", "all"]
PATIENCE_POLLS = 3
"""Failed polls in a row after which areas no longer wait for a catalog's first answer."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the daemon takes from outside; tests give their own."""

    clock: Clock = field(default_factory=SystemClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    rng: random.Random = field(default_factory=random.Random)
    host: str = field(default_factory=socket.gethostname)
    pid: int = 0
    """Process id, for the names of leases."""
    catalogs: Mapping[str, Catalog] = field(default_factory=dict)
    """Catalogs to use in place of those that the settings name."""
    sinks: tuple[Sink, ...] | None = None
    """Sinks to use in place of those that the settings name."""
    open_scene: OpenScene | None = None


class App:
    """A wired daemon. A context manager; leaving it closes everything.

    Raises (on entry):
        ConfigError: the settings cannot work.
        BundleError: the model bundle is not usable.
        StoreUnavailable: the database cannot be opened or migrated.
    """

    def __init__(self, settings: Settings, surroundings: Surroundings, *, role: Role = "all") -> None:
        self.settings = settings
        self.role = role
        self._around = surroundings
        self._stack = ExitStack()
        self.device_lost = threading.Event()
        """Set when a GPU's context broke: this process can score nothing any more."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._wire(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _wire(self, stack: ExitStack) -> None:
        settings, around = self.settings, self._around
        clock = around.clock
        self.metrics = Metrics(around.registry, clock)
        self.heartbeats = Heartbeats(clock, observe=self.metrics.heartbeat)
        self.store = stack.enter_context(
            Store.open(settings.store.url_with_password(), clock=clock, max_attempts=settings.worker.max_attempts)
        )
        self.store.migrate()
        self._failed_polls: Counter[str] = Counter()
        self.polled: set[str] = set()
        """Catalogs that have been polled once, with success or not."""
        self._policy = access_policy(settings)
        self.areas = {area.name: area for area in settings.watched_areas()}
        gates = HostGates(clock, around.rng)
        self._signers = signers_of(settings, clock, gates)
        for area in self.areas.values():
            self.metrics.budget(area.name, area.alerts_per_month)
        self._drift = DriftWatch()
        self.catalogs = {
            each.name: around.catalogs.get(each.name) or catalog_of(each, clock, gates) for each in settings.catalogs
        }
        self.sinks = (
            around.sinks
            if around.sinks is not None
            else tuple(sink_of(each, clock, around.rng) for each in settings.sinks)
        )
        bundle = ModelBundle.load(bundle_path(settings.engine.bundle))
        self.metrics.build(version("vigie"), f"{bundle.name}:{bundle.model_hash[:16]}")
        self._opening = Opening(sorted(bundle.families), self.metrics)
        self.scorer = stack.enter_context(
            SceneScorer(bundle, runner_choice(settings), watch=self._opening.watch, events=self._opening.events)
        )
        self.model = ModelIdentity(
            name=bundle.name, model_hash=bundle.model_hash, families=tuple(sorted(bundle.families))
        )
        self.http: HttpServer | None = None
        if settings.http.enabled:
            probes: dict[str, Callable[[], None]] = {"store": self.store.ping}
            probes |= {f"sink {sink.name}": sink.ping for sink in self.sinks}
            if self.role in ("all", "score"):
                probes["engine"] = self._opening.check
            self.http = stack.enter_context(
                HttpServer(
                    registry=around.registry,
                    live=self.heartbeats.check,
                    ready=Readiness(probes, clock).check,
                    host=settings.http.host,
                    port=settings.http.port,
                )
            )

    def open_engine(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Open every family's networks and hold them against the bundle's golden batch; readiness waits for it.

        Args:
            stop: ends a build that is under way.
            beat: called as a build advances, which may take minutes.

        Raises:
            BuildStopped: ``stop`` was set meanwhile.
            RunnerUnavailable: the runner cannot run here, or drifts from what the bundle recorded.
        """
        self._opening.open(self.scorer, stop, beat)

    def watcher(self) -> Watcher:
        """The watcher over all catalogs."""
        return Watcher(
            [
                catalog_watch(self.settings, each, self.catalogs[each.name], self.areas)
                for each in self.settings.catalogs
            ],
            self.store,
            self._around.clock,
            rng=self._around.rng,
            versions_of=self.store.versions_of,
            on_report=self._polled,
            on_beat=lambda catalog: self.heartbeats.beat(f"watch {catalog}"),
        )

    def scoring(self) -> Scoring:
        """The engine as a worker calls it."""
        return _Scored(scorer=self.scorer, model=self.model)

    def worker(self, number: int = 0) -> Worker:
        """A worker; give each its own number."""
        settings = self.settings
        return Worker(
            name=f"{self._around.host}-{self._around.pid}-{number}",
            store=self.store,
            areas=self.areas,
            open_scene=self._around.open_scene or self.open_scene,
            scoring=self.scoring(),
            detect=DetectSettings(flood_water_share=settings.scoring.flood_water_share),
            incidents=IncidentRules(),
            rules=WorkerRules(
                lease_s=settings.worker.lease_s,
                backoff=Backoff(base_s=settings.worker.retry_base_s, cap_s=settings.worker.retry_cap_s),
            ),
            metrics=self.metrics,
            drift=self._drift,
            clock=self._around.clock,
            rng=self._around.rng,
        )

    def relay(self) -> Relay:
        """The relay from the outbox to the sinks."""
        return Relay(
            self.store,
            self.sinks,
            RelaySettings(
                owner=f"{self._around.host}-{self._around.pid}",
                lease_ttl_s=min(RelaySettings.lease_ttl_s, self.settings.worker.lease_s),
            ),
            clock=self._around.clock,
            metrics=self.metrics,
            heartbeats=self.heartbeats,
            rng=self._around.rng,
        )

    def open_scene(self, scene: Scene, areas: Sequence[BaseGeometry], bands: Sequence[str]) -> SceneReading:
        """Open a scene's files, as far as the access policy allows.

        Raises:
            BandMissing: the scene lacks one of ``bands``.
            AccessRefused: an href breaks the policy.
        """
        catalog = self.catalogs.get(scene.catalog)
        plan = read_plan(
            with_https(scene, s3_hosts(self.settings)),
            self._policy,
            bands=bands,
            optional=OPTIONAL_BANDS,
            base=None if catalog is None else catalog.base,
        )

        def read(signed: ReadPlan) -> SceneReading:
            return read_tiles(
                signed,
                areas,
                tile_px=self.settings.scoring.tile_px,
                min_valid_ratio=self.settings.scoring.min_valid_ratio,
                batch_size=self.settings.engine.batch_size,
                limits=read_limits(self.settings),
                monotonic=self._around.clock.monotonic,
            )

        signers = self._signers.get(scene.catalog, self._signers[""])
        return SignedReading(plan, signers, read) if signers else read(plan)

    def _polled(self, report: PollReport) -> None:
        if report.error is None:
            self.metrics.polled(report.catalog, "ok")
            self._failed_polls[report.catalog] = 0
        else:
            self.metrics.polled(report.catalog, "failed" if report.retry_after_s is None else "throttled")
            self._failed_polls[report.catalog] += 1
            if self._failed_polls[report.catalog] == PATIENCE_POLLS:
                self._excuse(report.catalog)
        passed_over = sum(report.passed_over.values())
        self.metrics.items(
            report.catalog,
            {"new": report.new, "changed": report.changed, "known": report.known, "passed_over": passed_over},
        )
        if report.newest:
            self.metrics.newest_item(report.catalog, max(report.newest.values()).timestamp())
        for fresh in report.freshness:
            self.metrics.freshness(
                report.catalog,
                fresh.collection,
                None if fresh.newest is None else fresh.newest.timestamp(),
                None if fresh.usual_gap is None else fresh.usual_gap.total_seconds(),
                fresh.silent,
            )
        self.polled.add(report.catalog)

    def _excuse(self, catalog: str) -> None:
        """Let the areas of a catalog that does not answer be scored from their other catalogs."""
        try:
            areas = self.store.excuse(catalog)
        except StoreUnavailable as error:
            log.warning("the store does not answer", action="catalog.excuse", catalog=catalog, error=str(error))
            return
        if areas:
            log.warning(
                "a catalog has never answered; its areas are scored without it until it does",
                action="catalog.excused",
                catalog=catalog,
                areas=list(areas),
            )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """The engine as a worker calls it."""

    scorer: SceneScorer
    model: ModelIdentity

    def bands(self, family: str) -> tuple[str, ...]:
        return self.scorer.bands(family)

    def calibration(self, family: str) -> Mapping[str, Float32Array]:
        return self.scorer.calibration(family)

    def look(self, batch: TileBatch, family: str, seconds: Counter[str]) -> Look:
        return self.scorer.look(batch, family, seconds)
