"""Every metric that Vigie exposes, in one closed catalogue. ``python -m daemon.operate.catalogue`` prints it as a page.

Names carry the prefix ``vigie_`` and base units. Label values come from closed sets, or from names in
the configuration (catalogs, sinks, areas, loops), never from scenes, so that the number of series stays small.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
    TileResult,
    closed,
)
from daemon.store.records import SceneState
from engine.sensors import SENSORS, SkipReason

MetricName = Literal[
    "vigie_build_info",
    "vigie_loop_heartbeat_timestamp_seconds",
    "vigie_polls_total",
    "vigie_catalog_newest_item_timestamp_seconds",
    "vigie_collection_newest_item_timestamp_seconds",
    "vigie_collection_usual_gap_seconds",
    "vigie_collection_silent",
    "vigie_catalog_polled_timestamp_seconds",
    "vigie_catalog_lag_seconds",
    "vigie_items_total",
    "vigie_scenes_total",
    "vigie_queue_scenes",
    "vigie_queue_oldest_age_seconds",
    "vigie_tiles_total",
    "vigie_stage_seconds",
    "vigie_workers",
    "vigie_engine_busy_seconds_total",
    "vigie_score_drift_ratio",
    "vigie_score_p_value_mean_ratio",
    "vigie_score_drift_tiles",
    "vigie_runner_info",
    "vigie_runner_passed_over_total",
    "vigie_batch_halvings_total",
    "vigie_alerts_total",
    "vigie_area_incidents",
    "vigie_area_budget_incidents",
    "vigie_outbox_messages",
    "vigie_outbox_parked_messages",
    "vigie_outbox_oldest_age_seconds",
    "vigie_published_total",
    "vigie_sensing_to_alert_seconds",
    "vigie_catalog_to_alert_seconds",
]
"""The closed set of names: a type checker refuses any other."""
Kind = Literal["counter", "gauge", "histogram"]

_STAGE_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_HOUR, _DAY = 3600.0, 86400.0
_LATENCY_BUCKETS_S = (60.0, 600.0, 1800.0, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 16 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One line of the catalogue."""

    name: MetricName
    unit: str
    """What one of it is."""
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


CATALOG = "name of a catalog in the configuration"
COLLECTION = "id of a collection that the configuration names, or that the catalog lists"
SINK = "name of a sink in the configuration"
AREA = "name of an area in the configuration"
_SENSOR = tuple(sorted(SENSORS))

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        name="vigie_build_info",
        unit="1",
        kind="gauge",
        help="Always 1; the labels say what runs.",
        labels={"version": "version of Vigie", "model": "id of the model bundle"},
        look="Workers of one place must agree.",
    ),
    Metric(
        name="vigie_loop_heartbeat_timestamp_seconds",
        unit="seconds since 1970",
        kind="gauge",
        help="When a loop last advanced.",
        labels={"loop": "name of a loop: watch, score, publish"},
        look="A loop that stands still makes /livez fail; see the log's last line of that loop.",
    ),
    Metric(
        name="vigie_polls_total",
        unit="polls",
        kind="counter",
        help="Polls of a catalog.",
        labels={"catalog": CATALOG, "result": closed(PollResult)},
        look="Failures: the catalog's status page, then its URL by hand.",
    ),
    Metric(
        name="vigie_catalog_newest_item_timestamp_seconds",
        unit="seconds since 1970",
        kind="gauge",
        help="Sensing time of the newest Item that a catalog has shown.",
        labels={"catalog": CATALOG},
        look="Standing still for longer than the satellites' revisit: the catalog is silent.",
    ),
    Metric(
        name="vigie_collection_newest_item_timestamp_seconds",
        unit="seconds since 1970",
        kind="gauge",
        help="Sensing time of the newest Item that a catalog has shown of a collection, over the areas.",
        labels={"catalog": CATALOG, "collection": COLLECTION},
        look="Compare with vigie_collection_usual_gap_seconds.",
    ),
    Metric(
        name="vigie_collection_usual_gap_seconds",
        unit="seconds",
        kind="gauge",
        help="What nine in ten of the gaps between a collection's passes do not exceed; absent until known.",
        labels={"catalog": CATALOG, "collection": COLLECTION},
        look="A silence of three times this is unusual.",
    ),
    Metric(
        name="vigie_collection_silent",
        unit="1",
        kind="gauge",
        help="1 where a collection has brought nothing for longer than usual, or never anything; else 0.",
        labels={"catalog": CATALOG, "collection": COLLECTION},
        look="`vigie audit --against` a second catalog: it shows whether the mission or the catalog is silent.",
    ),
    Metric(
        name="vigie_catalog_polled_timestamp_seconds",
        unit="seconds since 1970",
        kind="gauge",
        help="When a catalog was last read to the end of a window.",
        labels={"catalog": CATALOG},
        look="Old while polls succeed: windows are never finished; see the log for page errors.",
    ),
    Metric(
        name="vigie_catalog_lag_seconds",
        unit="seconds",
        kind="gauge",
        help="From sensing to first sight in a catalog, for the newest Item.",
        labels={"catalog": CATALOG},
        look="Rising: the provider publishes late; a second catalog may be faster.",
    ),
    Metric(
        name="vigie_items_total",
        unit="Items",
        kind="counter",
        help="Items that a catalog listed, by what was made of them; one that is listed again counts again.",
        labels={"catalog": CATALOG, "result": closed(ItemResult)},
        look="passed_over far above the rest: areas or collections ask for more than is wanted; see the poll's log.",
    ),
    Metric(
        name="vigie_scenes_total",
        unit="scenes",
        kind="counter",
        help="Attempts at scenes, by how they ended.",
        labels={"outcome": closed(SceneOutcome)},
        look="Failures: `vigie replay --failed` after the cause in the log is gone.",
    ),
    Metric(
        name="vigie_queue_scenes",
        unit="scenes",
        kind="gauge",
        help="Scenes in the store, by state.",
        labels={"state": closed(SceneState)},
        look="Pending growing for hours: add workers.",
    ),
    Metric(
        name="vigie_queue_oldest_age_seconds",
        unit="seconds",
        kind="gauge",
        help="How long the longest-waiting scene has been known; 0 where none waits.",
        labels={},
        look="Above the time you can bear: add workers, or see why scenes are retried.",
    ),
    Metric(
        name="vigie_tiles_total",
        unit="tiles",
        kind="counter",
        help="Tiles, scored or skipped.",
        labels={"result": closed(TileResult), "reason": ("none", *closed(SkipReason))},
        zeros=False,
        look="Mostly skipped: clouds, or a mask that is read wrongly.",
    ),
    Metric(
        name="vigie_stage_seconds",
        unit="seconds",
        kind="histogram",
        help="Time that one scene spent in a stage.",
        labels={"stage": closed(Stage)},
        look="read: the network. embed, score: the device.",
        buckets=_STAGE_BUCKETS_S,
    ),
    Metric(
        name="vigie_workers",
        unit="threads",
        kind="gauge",
        help="Workers of this process.",
        labels={},
        look="More of them help until vigie:engine_busy:ratio_rate5m is near 1.",
    ),
    Metric(
        name="vigie_engine_busy_seconds_total",
        unit="seconds",
        kind="counter",
        help="Time that the workers spent inside the networks, all together; grows with every batch of tiles.",
        labels={},
        look="Near one second per second and worker: the device is the limit. Low while scenes wait: reading is.",
    ),
    Metric(
        name="vigie_score_drift_ratio",
        unit="ratio",
        kind="gauge",
        help="Kolmogorov-Smirnov distance (0 to 1) of a sensor's last p-values from the uniform distribution.",
        labels={"sensor": _SENSOR},
        zeros=False,
        look="Above 0.5 for days: scores no longer mean what they were calibrated to; see *VigieScoresDrift*.",
    ),
    Metric(
        name="vigie_score_p_value_mean_ratio",
        unit="ratio",
        kind="gauge",
        help="Mean p-value of a sensor's last tiles against the bundle's calibration; 0.5 where they are alike.",
        labels={"sensor": _SENSOR},
        zeros=False,
        look="Towards 0: tiles look stranger than those of the calibration. Towards 1: smoother, as under thin haze.",
    ),
    Metric(
        name="vigie_score_drift_tiles",
        unit="tiles",
        kind="gauge",
        help="How many last tiles the two metrics of drift look at; they start anew with the process.",
        labels={"sensor": _SENSOR},
        look="Below some hundreds the other two say little.",
    ),
    Metric(
        name="vigie_runner_info",
        kind="gauge",
        unit="1",
        help="Always 1; the labels say what a sensor family's networks run on.",
        labels={
            "family": "sensor family of the bundle",
            "runner": closed(RunnerLabel),
            "device": closed(DeviceLabel),
            "precision": closed(PrecisionLabel),
        },
        look="torch on a machine with TensorRT: see vigie_runner_passed_over_total.",
    ),
    Metric(
        name="vigie_runner_passed_over_total",
        kind="counter",
        unit="ways",
        help="Ways to run the networks that auto gave up for the next one.",
        labels={"runner": closed(RunnerLabel), "reason": closed(PassedOver)},
        look="parity: the log names the tensor that drifted. unavailable: it names what is missing.",
    ),
    Metric(
        name="vigie_batch_halvings_total",
        kind="counter",
        unit="halvings",
        help="Times that a GPU's memory was full and the largest batch was halved.",
        labels={},
        look="Lower engine.batch_size, or see what else uses the GPU.",
    ),
    Metric(
        name="vigie_alerts_total",
        unit="alerts",
        kind="counter",
        help="Alerts written to the outbox.",
        labels={"kind": closed(AlertKind), "state": closed(AlertState)},
        look="Far above the budget: the calibration no longer fits; retrain or raise the history.",
    ),
    Metric(
        name="vigie_area_incidents",
        unit="incidents",
        kind="gauge",
        help="Incidents of an area that were first seen in the last 30 days.",
        labels={"area": AREA},
        look="Compare with vigie_area_budget_incidents.",
    ),
    Metric(
        name="vigie_area_budget_incidents",
        unit="incidents",
        kind="gauge",
        help="False alerts that an area's configuration allows in 30 days.",
        labels={"area": AREA},
        look="Set by areas[].alerts_per_month.",
    ),
    Metric(
        name="vigie_outbox_messages",
        unit="alerts",
        kind="gauge",
        help="Alerts in the outbox that are not confirmed yet.",
        labels={},
        look="Growing: a sink is down; /readyz names it.",
    ),
    Metric(
        name="vigie_outbox_parked_messages",
        unit="alerts",
        kind="gauge",
        help="Alerts that a sink refused for good and that wait for an operator.",
        labels={},
        look="Read the reason in the log, remedy it, then release them.",
    ),
    Metric(
        name="vigie_outbox_oldest_age_seconds",
        unit="seconds",
        kind="gauge",
        help="Age of the oldest alert that is not confirmed; 0 where the outbox is empty.",
        labels={},
        look='Minutes: see vigie_published_total{result="failed"} and the broker.',
    ),
    Metric(
        name="vigie_published_total",
        unit="deliveries",
        kind="counter",
        help="Deliveries to a sink, repeats included.",
        labels={"sink": SINK, "result": closed(SentResult)},
        look="failed: it is tried again. refused: the alert is parked.",
    ),
    Metric(
        name="vigie_sensing_to_alert_seconds",
        unit="seconds",
        kind="histogram",
        help="From sensing to the moment when all sinks confirmed the alert.",
        labels={},
        look="Compare with vigie_catalog_lag_seconds: the rest is ours.",
        buckets=_LATENCY_BUCKETS_S,
    ),
    Metric(
        name="vigie_catalog_to_alert_seconds",
        unit="seconds",
        kind="histogram",
        help="From first sight of a scene in a catalog to the moment when all sinks confirmed its alert.",
        labels={},
        look="Ours alone: the queue (vigie_queue_oldest_age_seconds), the stages, then the outbox.",
        buckets=_LATENCY_BUCKETS_S,
    ),
)


def markdown() -> str:
    """Return the catalogue as a Markdown page."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m daemon.operate.catalogue > deploy/docs/metrics.md`; do not edit. Served at `/metrics`.",
        "",
        "| metric | kind | unit | what | labels | when it is off |",
        "|---|---|---|---|---|---|",
    ]
    for metric in CATALOGUE:
        labels = "; ".join(
            f"`{name}`: {values if isinstance(values, str) else ', '.join(f'`{value}`' for value in values)}"
            for name, values in metric.labels.items()
        )
        lines.append(
            f"| `{metric.name}` | {metric.kind} | {metric.unit} | {metric.help} | {labels or '–'} | {metric.look} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
