"""The metrics at work: the catalogue on one registry, with a method for each event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.clock import Clock
from daemon.operate.catalogue import CATALOGUE, Metric, MetricName
from daemon.operate.drift import Drift
from daemon.operate.labels import (
    AlertKind,
    AlertState,
    DeviceLabel,
    ItemResult,
    PassedOver,
    PollResult,
    PrecisionLabel,
    RunnerLabel,
    SceneOutcome,
    SentResult,
    Stage,
    closed,
)
from daemon.store.records import SceneState, StoreCounts
from engine.sensors import SkipReason


class Metrics:
    """The catalogue on one registry, with a method for each event; may be called from any thread."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.registry = registry
        self._clock = clock
        self._by_name: dict[MetricName, Any] = {metric.name: _made(metric, registry) for metric in CATALOGUE}
        # Only these combinations happen; there as zero, `rate` sees the tiles of the first scene too.
        self.tiles(0, dict.fromkeys(cast("tuple[SkipReason, ...]", closed(SkipReason)), 0))

    def build(self, version: str, model: str) -> None:
        """Say what runs."""
        self._by_name["vigie_build_info"].labels(version=version, model=model).set(1)

    def heartbeat(self, loop: str, epoch_s: float) -> None:
        """Note that ``loop`` advanced; fits :class:`daemon.operate.health.Heartbeats` as ``observe``."""
        self._by_name["vigie_loop_heartbeat_timestamp_seconds"].labels(loop=loop).set(epoch_s)

    def polled(self, catalog: str, result: PollResult) -> None:
        """Count one poll of a catalog."""
        self._by_name["vigie_polls_total"].labels(catalog=catalog, result=result).inc()
        if result == "ok":
            now = self._clock.now().timestamp()
            self._by_name["vigie_catalog_polled_timestamp_seconds"].labels(catalog=catalog).set(now)

    def newest_item(self, catalog: str, sensing_epoch_s: float) -> None:
        """Note the sensing time (Unix seconds) of the newest Item of a catalog, when it is first seen."""
        lag_s = max(0.0, self._clock.now().timestamp() - sensing_epoch_s)
        self._by_name["vigie_catalog_newest_item_timestamp_seconds"].labels(catalog=catalog).set(sensing_epoch_s)
        self._by_name["vigie_catalog_lag_seconds"].labels(catalog=catalog).set(lag_s)

    def freshness(
        self, catalog: str, collection: str, newest_epoch_s: float | None, usual_gap_s: float | None, silent: bool
    ) -> None:
        """Note how fresh a collection of a catalog is; None: not known."""
        labels = {"catalog": catalog, "collection": collection}
        if newest_epoch_s is not None:
            self._by_name["vigie_collection_newest_item_timestamp_seconds"].labels(**labels).set(newest_epoch_s)
        if usual_gap_s is not None:
            self._by_name["vigie_collection_usual_gap_seconds"].labels(**labels).set(usual_gap_s)
        self._by_name["vigie_collection_silent"].labels(**labels).set(1 if silent else 0)

    def items(self, catalog: str, counts: Mapping[ItemResult, int]) -> None:
        """Count the Items that a poll of a catalog listed, by what was made of them."""
        for result, count in counts.items():
            self._by_name["vigie_items_total"].labels(catalog=catalog, result=result).inc(count)

    def scene(self, outcome: SceneOutcome) -> None:
        """Count one attempt at a scene."""
        self._by_name["vigie_scenes_total"].labels(outcome=outcome).inc()

    def tiles(self, scored: int, skipped: Mapping[SkipReason, int]) -> None:
        """Count the tiles of a scene: how many were scored, and how many were skipped for each reason."""
        counter = self._by_name["vigie_tiles_total"]
        counter.labels(result="scored", reason="none").inc(scored)
        for reason, count in skipped.items():
            counter.labels(result="skipped", reason=reason).inc(count)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Note how long a scene spent in a stage."""
        self._by_name["vigie_stage_seconds"].labels(stage=stage).observe(seconds)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time a block as a stage, also where it raises."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.observe_stage(stage, self._clock.monotonic() - began)

    def workers(self, count: int) -> None:
        """Say how many workers this process has."""
        self._by_name["vigie_workers"].set(count)

    def engine_busy(self, seconds: float) -> None:
        """Count time that a worker spent inside the networks."""
        self._by_name["vigie_engine_busy_seconds_total"].inc(seconds)

    def drift(self, sensor: str, drift: Drift) -> None:
        """Show how a sensor's last scores stand to the calibration."""
        self._by_name["vigie_score_drift_ratio"].labels(sensor=sensor).set(drift.distance)
        self._by_name["vigie_score_p_value_mean_ratio"].labels(sensor=sensor).set(drift.mean_p_value)
        self._by_name["vigie_score_drift_tiles"].labels(sensor=sensor).set(drift.tiles)

    def runner(self, family: str, runner: RunnerLabel, device: DeviceLabel, precision: PrecisionLabel) -> None:
        """Say what a family's networks run on."""
        info = self._by_name["vigie_runner_info"]
        info.labels(family=family, runner=runner, device=device, precision=precision).set(1)

    def runner_passed_over(self, runner: RunnerLabel, reason: PassedOver) -> None:
        """Count a way to run the networks that was given up for the next one."""
        self._by_name["vigie_runner_passed_over_total"].labels(runner=runner, reason=reason).inc()

    def batch_halved(self) -> None:
        """Count a GPU's memory that was full."""
        self._by_name["vigie_batch_halvings_total"].inc()

    def alert(self, kind: AlertKind, state: AlertState) -> None:
        """Count one alert that was written to the outbox."""
        self._by_name["vigie_alerts_total"].labels(kind=kind, state=state).inc()

    def published(self, sink: str, result: SentResult, count: int = 1) -> None:
        """Count deliveries to a sink."""
        self._by_name["vigie_published_total"].labels(sink=sink, result=result).inc(count)

    def sensing_to_alert(self, seconds: float) -> None:
        """Note the age of what an alert tells of, when all sinks have it."""
        self._by_name["vigie_sensing_to_alert_seconds"].observe(max(0.0, seconds))

    def catalog_to_alert(self, seconds: float) -> None:
        """Note how long a scene was known before all sinks had its alert."""
        self._by_name["vigie_catalog_to_alert_seconds"].observe(max(0.0, seconds))

    def budget(self, area: str, incidents_per_month: float) -> None:
        """Say what an area's configuration allows."""
        self._by_name["vigie_area_budget_incidents"].labels(area=area).set(incidents_per_month)
        self._by_name["vigie_area_incidents"].labels(area=area).set(0)

    def store(self, counts: StoreCounts) -> None:
        """Show the store's counts."""
        for state in closed(SceneState):
            self._by_name["vigie_queue_scenes"].labels(state=state).set(counts.scenes.get(cast("SceneState", state), 0))
        self._by_name["vigie_queue_oldest_age_seconds"].set(counts.pending_oldest_age_s or 0.0)
        self._by_name["vigie_outbox_messages"].set(counts.outbox_unsent)
        self._by_name["vigie_outbox_parked_messages"].set(counts.outbox_parked)
        self._by_name["vigie_outbox_oldest_age_seconds"].set(counts.outbox_oldest_age_s or 0.0)
        for area, count in counts.incidents_opened.items():
            self._by_name["vigie_area_incidents"].labels(area=area).set(count)


def _made(metric: Metric, registry: CollectorRegistry) -> Any:
    """Return the Prometheus object; a series that exists as zero from the start makes `rate` see its first event."""
    made: Any
    if metric.kind == "histogram":
        made = Histogram(metric.name, metric.help, list(metric.labels), registry=registry, buckets=metric.buckets)
    else:
        kind = Counter if metric.kind == "counter" else Gauge
        made = kind(metric.name, metric.help, list(metric.labels), registry=registry)
    if metric.zeros and metric.labels and all(not isinstance(values, str) for values in metric.labels.values()):
        for labels in _every(metric.labels):
            made.labels(**labels)
    return made


def _every(labels: Mapping[str, tuple[str, ...] | str]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = [{}]
    for name, values in labels.items():
        rows = [{**row, name: value} for row in rows for value in values]
    return rows
