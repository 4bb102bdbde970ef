"""The one place that wires the daemon: settings in, running loops out. Tests call it with twins."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import structlog
from prometheus_client import CollectorRegistry
from shapely.geometry.base import BaseGeometry

from daemon.adapters.files import JsonLinesSink
from daemon.adapters.kafka import KafkaSettings, KafkaSink
from daemon.adapters.stac import StacApiCatalog
from daemon.adapters.static_stac import StaticCatalog
from daemon.backoff import Backoff
from daemon.clock import Clock, SystemClock
from daemon.errors import ConfigError, StoreUnavailable
from daemon.operate.health import Heartbeats, Readiness
from daemon.operate.http_server import HttpServer
from daemon.operate.metrics import Metrics
from daemon.publish.relay import Relay, RelaySettings
from daemon.publish.sinks import Sink
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.score.incidents import IncidentRules
from daemon.score.judging import ModelIdentity
from daemon.score.reading import read_plan
from daemon.score.worker import OpenScene, SceneReading, Worker, WorkerRules
from daemon.settings import Settings
from daemon.settings.sections import CatalogSettings
from daemon.settings.sinks import KafkaSinkSettings, SinkSettings
from daemon.store import Store
from daemon.watch.catalogs import Catalog
from daemon.watch.poll import CatalogWatch
from daemon.watch.poll_report import PollReport
from daemon.watch.watcher import Watcher
from daemon.watch.windows import Pace
from engine.bundle import ModelBundle, bundled
from engine.judge import DetectSettings
from engine.look import Look
from engine.raster import read_tiles
from engine.read_plan import ReadLimits
from engine.scoring import RunnerChoice, SceneScorer
from engine.tiles import Float32Array, TileBatch

log = structlog.get_logger(__name__)

Role = Literal["watch", "score", "publish", "web", "all"]
OPTIONAL_BANDS = ("nir",)
"""Read where a scene has them beside the models' own: near infrared gives aerial imagery a water index."""
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
        self.catalogs = {
            each.name: around.catalogs.get(each.name) or catalog_of(each, clock) for each in settings.catalogs
        }
        self.sinks = around.sinks if around.sinks is not None else tuple(sink_of(each) for each in settings.sinks)
        bundle = ModelBundle.load(bundle_path(settings.engine.bundle))
        self.metrics.build(version("vigie"), f"{bundle.name}:{bundle.model_hash[:16]}")
        self.scorer = stack.enter_context(SceneScorer(bundle, runner_choice(settings)))
        self.model = ModelIdentity(
            name=bundle.name, model_hash=bundle.model_hash, families=tuple(sorted(bundle.families))
        )
        self.http: HttpServer | None = None
        if settings.http.enabled:
            probes: dict[str, Callable[[], None]] = {"store": self.store.ping}
            probes |= {f"sink {sink.name}": sink.ping for sink in self.sinks}
            self.http = stack.enter_context(
                HttpServer(
                    registry=around.registry,
                    live=self.heartbeats.check,
                    ready=Readiness(probes, clock).check,
                    host=settings.http.host,
                    port=settings.http.port,
                )
            )

    def watcher(self) -> Watcher:
        """The watcher over all catalogs."""
        return Watcher(
            [
                CatalogWatch(
                    catalog=self.catalogs[each.name],
                    areas=tuple(self.areas[area.name] for area in self.settings.areas if area.watches(each.name)),
                    sensors=each.collections,
                    poll_every_s=each.poll_every_s,
                    page_size=each.page_size,
                    pace=Pace(
                        look_back=timedelta(days=each.overlap_days),
                        sweep_every=timedelta(seconds=each.sweep_every_s),
                        sweep=timedelta(days=each.sweep_days),
                    ),
                )
                for each in self.settings.catalogs
            ],
            self.store,
            self._around.clock,
            rng=self._around.rng,
            versions_of=self.store.versions_of,
            on_report=self._polled,
            on_beat=lambda catalog: self.heartbeats.beat(f"watch {catalog}"),
        )

    def worker(self, number: int = 0) -> Worker:
        """A worker; give each its own number."""
        settings = self.settings
        return Worker(
            name=f"{self._around.host}-{self._around.pid}-{number}",
            store=self.store,
            areas=self.areas,
            open_scene=self._around.open_scene or self.open_scene,
            scoring=_Scored(scorer=self.scorer, model=self.model),
            detect=DetectSettings(flood_water_share=settings.scoring.flood_water_share),
            incidents=IncidentRules(),
            rules=WorkerRules(
                lease_s=settings.worker.lease_s,
                backoff=Backoff(base_s=settings.worker.retry_base_s, cap_s=settings.worker.retry_cap_s),
            ),
            metrics=self.metrics,
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
            scene,
            self._policy,
            bands=bands,
            optional=OPTIONAL_BANDS,
            base=None if catalog is None else catalog.base,
        )
        return read_tiles(
            plan,
            areas,
            tile_px=self.settings.scoring.tile_px,
            min_valid_ratio=self.settings.scoring.min_valid_ratio,
            batch_size=self.settings.engine.batch_size,
            limits=read_limits(self.settings),
            monotonic=self._around.clock.monotonic,
        )

    def _polled(self, report: PollReport) -> None:
        if report.error is None:
            self.metrics.polled(report.catalog, "ok")
            self._failed_polls[report.catalog] = 0
        else:
            self.metrics.polled(report.catalog, "failed" if report.retry_after_s is None else "throttled")
            self._failed_polls[report.catalog] += 1
            if self._failed_polls[report.catalog] == PATIENCE_POLLS:
                self._excuse(report.catalog)
        if report.newest:
            self.metrics.newest_item(report.catalog, max(report.newest.values()).timestamp())
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


def bundle_path(name: str) -> Path:
    """Where a bundle is: a shipped one by its name, or a folder by its path."""
    return Path(name) if "/" in name else bundled(name)


def runner_choice(settings: Settings) -> RunnerChoice:
    """What the networks run on, from the settings.

    Raises:
        ConfigError: the runner asked for is not part of this version.
    """
    engine = settings.engine
    if engine.runner == "tensorrt":
        raise ConfigError("engine.runner is 'tensorrt', which this version does not have yet; use auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return RunnerChoice(
        runner=engine.runner,
        device=engine.device,
        threads=engine.threads or max(1, cores // settings.worker.count),
        cache_dir=settings.cache_dir,
    )


def access_policy(settings: Settings) -> AccessPolicy:
    """What an href may lead to, from the settings."""
    access = settings.access
    return AccessPolicy(hosts=access.hosts, http_hosts=access.http_hosts, local_roots=access.local_roots)


def read_limits(settings: Settings) -> ReadLimits:
    """What reading a scene may cost, from the settings."""
    access = settings.access
    return ReadLimits(
        max_pixels=access.max_pixels,
        max_bands=access.max_bands,
        max_bytes=access.max_bytes,
        timeout_s=access.read_timeout_s,
    )


def catalog_of(each: CatalogSettings, clock: Clock) -> Catalog:
    """The catalog that a section names."""
    if each.type == "static":
        return StaticCatalog(each.name, each.url, timeout_s=each.timeout_s, now=clock.now)
    return StacApiCatalog(each.name, each.url, timeout_s=each.timeout_s, now=clock.now)


def sink_of(each: SinkSettings) -> Sink:
    """The sink that a section names."""
    if isinstance(each, KafkaSinkSettings):
        return KafkaSink(
            KafkaSettings(
                bootstrap=each.bootstrap_servers,
                topic=each.topic,
                partitions=each.partitions,
                replication=each.replication,
                security_protocol=each.security.protocol,
                ca_file=each.security.ca_file,
                cert_file=each.security.cert_file,
                key_file=each.security.key_file,
                sasl_mechanism=each.security.mechanism,
                username=each.security.username,
                password_file=each.security.password_file,
            ),
            name=each.name,
        )
    return JsonLinesSink(each.path, name=each.name)
