"""Every metric that Vigie exposes, in one catalogue. ``python -m daemon.operate.metrics`` prints it as a page.

Names carry the prefix ``vigie_`` and base units. Label values come from closed sets, or from names in
the configuration (catalogs, sinks, loops), never from scenes, so that the number of series stays small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.clock import Clock
from daemon.store.records import SceneState, StoreCounts
from engine.sensors import SkipReason

SceneOutcome = Literal["scored", "skipped", "failed", "retried"]
TileResult = Literal["scored", "skipped"]
Stage = Literal["read", "embed", "score", "detect", "store"]
AlertKind = Literal["flood", "anomaly"]
AlertState = Literal["new", "updated", "confirmed", "ended"]
SentResult = Literal["delivered", "failed", "refused"]
PollResult = Literal["ok", "failed", "throttled"]
Kind = Literal["counter", "gauge", "histogram"]

_STAGE_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_HOUR, _DAY = 3600.0, 86400.0
_LATENCY_BUCKETS_S = (60.0, 600.0, 1800.0, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 16 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One line of the catalogue."""

    name: str
    kind: Kind
    help: str
    """What it counts, in one sentence."""
    labels: Mapping[str, tuple[str, ...] | str]
    """Label to its closed set of values, or to where its values come from."""
    look: str
    """What to do, or to look at, when it is off."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, seconds."""
    zeros: bool = True
    """Where all labels are closed: every combination exists from the start, as zero."""


def _closed(literal: Any) -> tuple[str, ...]:
    return cast("tuple[str, ...]", get_args(literal))


CATALOG = "name of a catalog in the configuration"
SINK = "name of a sink in the configuration"

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        name="vigie_build_info",
        kind="gauge",
        help="Always 1; the labels say what runs.",
        labels={"version": "version of Vigie", "model": "id of the model bundle"},
        look="Workers of one place must agree.",
    ),
    Metric(
        name="vigie_loop_heartbeat_timestamp_seconds",
        kind="gauge",
        help="When a loop last advanced.",
        labels={"loop": "name of a loop: watch, score, publish"},
        look="A loop that stands still makes /livez fail; see the log's last line of that loop.",
    ),
    Metric(
        name="vigie_polls_total",
        kind="counter",
        help="Polls of a catalog.",
        labels={"catalog": CATALOG, "result": _closed(PollResult)},
        look="Failures: the catalog's status page, then its URL by hand.",
    ),
    Metric(
        name="vigie_catalog_newest_item_timestamp_seconds",
        kind="gauge",
        help="Sensing time of the newest Item that a catalog has shown.",
        labels={"catalog": CATALOG},
        look="Standing still for longer than the satellites' revisit: the catalog is silent.",
    ),
    Metric(
        name="vigie_catalog_polled_timestamp_seconds",
        kind="gauge",
        help="When a catalog was last read to the end of a window.",
        labels={"catalog": CATALOG},
        look="Old while polls succeed: windows are never finished; see the log for page errors.",
    ),
    Metric(
        name="vigie_catalog_lag_seconds",
        kind="gauge",
        help="From sensing to first sight in a catalog, for the newest Item.",
        labels={"catalog": CATALOG},
        look="Rising: the provider publishes late; a second catalog may be faster.",
    ),
    Metric(
        name="vigie_scenes_total",
        kind="counter",
        help="Attempts at scenes, by how they ended.",
        labels={"outcome": _closed(SceneOutcome)},
        look="Failures: `vigie replay --failed` after the cause in the log is gone.",
    ),
    Metric(
        name="vigie_queue_scenes",
        kind="gauge",
        help="Scenes in the store, by state.",
        labels={"state": _closed(SceneState)},
        look="Pending growing for hours: add workers.",
    ),
    Metric(
        name="vigie_queue_oldest_age_seconds",
        kind="gauge",
        help="How long the longest-waiting scene has been known; 0 where none waits.",
        labels={},
        look="Above the time you can bear: add workers, or see why scenes are retried.",
    ),
    Metric(
        name="vigie_tiles_total",
        kind="counter",
        help="Tiles, scored or skipped.",
        labels={"result": _closed(TileResult), "reason": ("none", *_closed(SkipReason))},
        zeros=False,
        look="Mostly skipped: clouds, or a mask that is read wrongly.",
    ),
    Metric(
        name="vigie_stage_seconds",
        kind="histogram",
        help="Time that one scene spent in a stage.",
        labels={"stage": _closed(Stage)},
        look="read: the network. embed, score: the device.",
        buckets=_STAGE_BUCKETS_S,
    ),
    Metric(
        name="vigie_alerts_total",
        kind="counter",
        help="Alerts written to the outbox.",
        labels={"kind": _closed(AlertKind), "state": _closed(AlertState)},
        look="Far above the budget: the calibration no longer fits; retrain or raise the history.",
    ),
    Metric(
        name="vigie_outbox_messages",
        kind="gauge",
        help="Alerts in the outbox that are not confirmed yet.",
        labels={},
        look="Growing: a sink is down; /readyz names it.",
    ),
    Metric(
        name="vigie_outbox_parked_messages",
        kind="gauge",
        help="Alerts that a sink refused for good and that wait for an operator.",
        labels={},
        look="Read the reason in the log, remedy it, then release them.",
    ),
    Metric(
        name="vigie_outbox_oldest_age_seconds",
        kind="gauge",
        help="Age of the oldest alert that is not confirmed; 0 where the outbox is empty.",
        labels={},
        look='Minutes: see vigie_published_total{result="failed"} and the broker.',
    ),
    Metric(
        name="vigie_published_total",
        kind="counter",
        help="Deliveries to a sink, repeats included.",
        labels={"sink": SINK, "result": _closed(SentResult)},
        look="failed: it is tried again. refused: the alert is parked.",
    ),
    Metric(
        name="vigie_sensing_to_alert_seconds",
        kind="histogram",
        help="From sensing to the moment when all sinks confirmed the alert.",
        labels={},
        look="Compare with vigie_catalog_lag_seconds: the rest is ours.",
        buckets=_LATENCY_BUCKETS_S,
    ),
)


class Metrics:
    """The catalogue on one registry, with a method for each event; may be called from any thread."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.registry = registry
        self._clock = clock
        self._by_name = {metric.name: _made(metric, registry) for metric in CATALOGUE}

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

    def alert(self, kind: AlertKind, state: AlertState) -> None:
        """Count one alert that was written to the outbox."""
        self._by_name["vigie_alerts_total"].labels(kind=kind, state=state).inc()

    def published(self, sink: str, result: SentResult, count: int = 1) -> None:
        """Count deliveries to a sink."""
        self._by_name["vigie_published_total"].labels(sink=sink, result=result).inc(count)

    def sensing_to_alert(self, seconds: float) -> None:
        """Note the age of what an alert tells of, when all sinks have it."""
        self._by_name["vigie_sensing_to_alert_seconds"].observe(max(0.0, seconds))

    def store(self, counts: StoreCounts) -> None:
        """Show the store's counts."""
        for state in _closed(SceneState):
            self._by_name["vigie_queue_scenes"].labels(state=state).set(counts.scenes.get(cast("SceneState", state), 0))
        self._by_name["vigie_queue_oldest_age_seconds"].set(counts.pending_oldest_age_s or 0.0)
        self._by_name["vigie_outbox_messages"].set(counts.outbox_unsent)
        self._by_name["vigie_outbox_parked_messages"].set(counts.outbox_parked)
        self._by_name["vigie_outbox_oldest_age_seconds"].set(counts.outbox_oldest_age_s or 0.0)


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


def markdown() -> str:
    """Return the catalogue as a Markdown page."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m daemon.operate.metrics > deploy/docs/metrics.md`; do not edit. Served at `/metrics`.",
        "",
        "| metric | kind | what | labels | when it is off |",
        "|---|---|---|---|---|",
    ]
    for metric in CATALOGUE:
        labels = "; ".join(
            f"`{name}`: {values if isinstance(values, str) else ', '.join(f'`{value}`' for value in values)}"
            for name, values in metric.labels.items()
        )
        lines.append(f"| `{metric.name}` | {metric.kind} | {metric.help} | {labels or '–'} | {metric.look} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
