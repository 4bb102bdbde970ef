"""The metric catalogue, what is exposed of it, and the rules and pages that speak of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daemon.clock import ManualClock
from daemon.operate.catalogue import CATALOGUE, MetricName, markdown
from daemon.operate.drift import Drift
from daemon.operate.metrics import Metrics
from daemon.store.records import StoreCounts
from tests.dashboard import dashboard, queries
from tests.require import missing

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, ManualClock(NOON))


def feed(metrics: Metrics) -> None:
    """Have something happen to every metric."""
    metrics.build("0.1.0", "0123456789abcdef")
    metrics.heartbeat("watch", NOON.timestamp())
    metrics.polled("earth-search", "ok")
    metrics.polled("earth-search", "failed")
    metrics.items("earth-search", {"new": 5, "changed": 0, "known": 2, "passed_over": 3})
    metrics.workers(2)
    metrics.engine_busy(1.5)
    metrics.engine_busy(2.0)
    metrics.drift("sentinel-2-l2a", Drift(tiles=700, mean_p_value=0.4, distance=0.2))
    metrics.budget("valley", 0.5)
    metrics.catalog_to_alert(900)
    metrics.newest_item("earth-search", NOON.timestamp() - 7200)
    metrics.freshness("earth-search", "naip", NOON.timestamp() - 7200, 86400.0, silent=False)
    metrics.freshness("earth-search", "misspelt", None, None, silent=True)
    metrics.scene("scored")
    metrics.tiles(10, {"cloud": 3, "nodata": 2})
    with metrics.stage("read"):
        pass
    metrics.runner("sentinel-2", "tensorrt", "cuda", "fp16")
    metrics.runner_passed_over("tensorrt", "parity")
    metrics.batch_halved()
    metrics.alert("flood", "new")
    metrics.published("kafka", "delivered", 2)
    metrics.sensing_to_alert(5000)
    metrics.store(
        StoreCounts(
            scenes={"pending": 4},
            pending_oldest_age_s=60,
            outbox_unsent=2,
            outbox_parked=1,
            outbox_oldest_age_s=9,
            incidents_opened={"valley": 3},
        )
    )


def test_every_event_shows_its_value(metrics: Metrics, registry: CollectorRegistry) -> None:
    feed(metrics)
    expected = {
        ("vigie_build_info", ("version", "0.1.0"), ("model", "0123456789abcdef")): 1,
        ("vigie_loop_heartbeat_timestamp_seconds", ("loop", "watch")): NOON.timestamp(),
        ("vigie_polls_total", ("catalog", "earth-search"), ("result", "ok")): 1,
        ("vigie_polls_total", ("catalog", "earth-search"), ("result", "failed")): 1,
        ("vigie_catalog_polled_timestamp_seconds", ("catalog", "earth-search")): NOON.timestamp(),
        ("vigie_catalog_newest_item_timestamp_seconds", ("catalog", "earth-search")): NOON.timestamp() - 7200,
        ("vigie_catalog_lag_seconds", ("catalog", "earth-search")): 7200,
        ("vigie_collection_newest_item_timestamp_seconds", ("catalog", "earth-search"), ("collection", "naip")): (
            NOON.timestamp() - 7200
        ),
        ("vigie_collection_usual_gap_seconds", ("catalog", "earth-search"), ("collection", "naip")): 86400,
        ("vigie_collection_silent", ("catalog", "earth-search"), ("collection", "naip")): 0,
        ("vigie_collection_silent", ("catalog", "earth-search"), ("collection", "misspelt")): 1,
        ("vigie_scenes_total", ("outcome", "scored")): 1,
        ("vigie_scenes_total", ("outcome", "failed")): 0,
        ("vigie_tiles_total", ("result", "scored"), ("reason", "none")): 10,
        ("vigie_tiles_total", ("result", "skipped"), ("reason", "cloud")): 3,
        ("vigie_tiles_total", ("result", "skipped"), ("reason", "nodata")): 2,
        ("vigie_stage_seconds_count", ("stage", "read")): 1,
        (
            "vigie_runner_info",
            ("family", "sentinel-2"),
            ("runner", "tensorrt"),
            ("device", "cuda"),
            ("precision", "fp16"),
        ): 1,
        ("vigie_runner_passed_over_total", ("runner", "tensorrt"), ("reason", "parity")): 1,
        ("vigie_runner_passed_over_total", ("runner", "torch"), ("reason", "unavailable")): 0,
        ("vigie_batch_halvings_total",): 1,
        ("vigie_alerts_total", ("kind", "flood"), ("state", "new")): 1,
        ("vigie_published_total", ("sink", "kafka"), ("result", "delivered")): 2,
        ("vigie_sensing_to_alert_seconds_sum",): 5000,
        ("vigie_items_total", ("catalog", "earth-search"), ("result", "new")): 5,
        ("vigie_items_total", ("catalog", "earth-search"), ("result", "passed_over")): 3,
        ("vigie_workers",): 2,
        ("vigie_engine_busy_seconds_total",): 3.5,
        ("vigie_score_drift_ratio", ("sensor", "sentinel-2-l2a")): 0.2,
        ("vigie_score_p_value_mean_ratio", ("sensor", "sentinel-2-l2a")): 0.4,
        ("vigie_score_drift_tiles", ("sensor", "sentinel-2-l2a")): 700,
        ("vigie_score_drift_tiles", ("sensor", "aerial-rgb")): 0,
        ("vigie_area_incidents", ("area", "valley")): 3,
        ("vigie_area_budget_incidents", ("area", "valley")): 0.5,
        ("vigie_catalog_to_alert_seconds_sum",): 900,
        ("vigie_queue_scenes", ("state", "pending")): 4,
        ("vigie_queue_scenes", ("state", "failed")): 0,
        ("vigie_queue_oldest_age_seconds",): 60,
        ("vigie_outbox_messages",): 2,
        ("vigie_outbox_parked_messages",): 1,
        ("vigie_outbox_oldest_age_seconds",): 9,
    }
    for (name, *labels), value in expected.items():
        assert registry.get_sample_value(name, dict(labels)) == value, (name, labels)


def test_an_empty_store_shows_zeros_again(metrics: Metrics, registry: CollectorRegistry) -> None:
    feed(metrics)
    metrics.store(StoreCounts())
    for name in ("vigie_queue_oldest_age_seconds", "vigie_outbox_oldest_age_seconds", "vigie_outbox_messages"):
        assert registry.get_sample_value(name) == 0
    assert registry.get_sample_value("vigie_queue_scenes", {"state": "pending"}) == 0


def test_a_stage_that_raises_is_timed_too(registry: CollectorRegistry) -> None:
    clock = ManualClock(NOON)
    metrics = Metrics(registry, clock)

    @metrics.stage("score")
    def fail() -> None:
        clock.advance(2.5)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert registry.get_sample_value("vigie_stage_seconds_sum", {"stage": "score"}) == 2.5


def test_two_sets_of_metrics_live_side_by_side() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first, ManualClock(NOON)).scene("failed")
    Metrics(second, ManualClock(NOON))
    assert second.get_sample_value("vigie_scenes_total", {"outcome": "failed"}) == 0


def test_what_is_exposed_is_the_catalogue_no_more_and_no_less(metrics: Metrics, registry: CollectorRegistry) -> None:
    feed(metrics)
    exposed: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            base = re.sub(r"_(bucket|sum|count)$", "", sample.name) if family.type == "histogram" else sample.name
            exposed.setdefault(base, set()).update(sample.labels.keys() - {"le"})
    assert exposed == {metric.name: set(metric.labels) for metric in CATALOGUE}


def test_the_catalogue_and_the_closed_set_of_names_are_one() -> None:
    assert [metric.name for metric in CATALOGUE] == list(get_args(MetricName))


def test_names_follow_the_habits_of_prometheus() -> None:
    for metric in CATALOGUE:
        assert re.fullmatch(r"vigie_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert list(metric.buckets) == sorted(metric.buckets)
        assert metric.unit
        # The unit of the name is the base unit: seconds and ratios, never milliseconds or percent.
        assert ("seconds" in metric.name) == metric.unit.startswith("seconds"), metric.name
        assert ("ratio" in metric.name) == (metric.unit == "ratio"), metric.name
        assert metric.help.endswith(".")
        assert metric.look.endswith(".")


def test_the_page_is_what_the_catalogue_makes() -> None:
    assert (DEPLOY / "docs" / "metrics.md").read_text() == markdown()
    for metric in CATALOGUE:
        assert f"`{metric.name}`" in markdown()


def test_every_rule_asks_for_metrics_that_exist_and_has_a_runbook_entry() -> None:
    known = _series() | {rule["record"] for rule in _rules("record")} | {"up"}
    headings = set(re.findall(r"^## (\w+)$", (DEPLOY / "docs" / "runbook.md").read_text(), flags=re.MULTILINE))
    for rule in [*_rules("record"), *_rules("alert")]:
        asked = _asked(rule["expr"])
        assert asked
        assert asked <= known, rule
    rules = _rules("alert")
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"deploy/docs/runbook.md#{rule['alert'].lower()}"
    assert {rule["alert"] for rule in rules} == headings


def test_every_query_of_the_dashboard_names_a_metric_that_exists() -> None:
    known = _series() | {"up", "ALERTS"}
    asked = {name: set().union(*map(_asked, expressions)) for name, expressions in queries().items()}
    assert all(asked.values()), "a panel asks for nothing"
    assert {name: names - known for name, names in asked.items() if names - known} == {}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for names in asked.values() for name in names}
    hidden = {metric.name for metric in CATALOGUE} - shown
    assert hidden == {"vigie_catalog_polled_timestamp_seconds", "vigie_score_drift_tiles"} - shown
    variables = [each["definition"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    assert variables == ["label_values(vigie_build_info, instance)"]


def test_the_dashboard_can_be_provisioned() -> None:
    tree = dashboard()
    ids = [panel["id"] for panel in tree["panels"]]
    assert len(set(ids)) == len(ids)
    assert tree["uid"] == "vigie"
    for panel in tree["panels"]:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        assert panel["type"] == "row" or panel["description"].endswith(".")
        # A dashboard that names a data source of its maker's machine opens empty elsewhere.
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    named = set(re.findall(r"\bVigie[A-Z]\w+", json.dumps([panel.get("description", "") for panel in tree["panels"]])))
    assert named <= {rule["alert"] for rule in _rules("alert")}
    assert len(named) >= 6
    for file in ("dashboards", "datasources"):
        provision = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / file / "vigie.yaml").read_text())
        assert provision["apiVersion"] == 1


def _rules(kind: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def _series() -> set[str]:
    """Names that can be asked for."""
    plain = {metric.name for metric in CATALOGUE if metric.kind != "histogram"}
    return plain | {
        f"{metric.name}_{part}" for metric in CATALOGUE if metric.buckets for part in ("bucket", "sum", "count")
    }


def _asked(expression: str) -> set[str]:
    return set(re.findall(r"\bvigie[_:][\w:]+|\bup\b|\bALERTS\b", expression))


def promtool(*arguments: str, text: str | None = None) -> str:
    program = shutil.which("promtool")
    if program is None:
        missing("promtool", "install Prometheus (Debian: apt-get install prometheus)")
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.server
def test_promtool_finds_nothing_to_mend_in_what_is_exposed(metrics: Metrics, registry: CollectorRegistry) -> None:
    feed(metrics)
    assert promtool("check", "metrics", text=generate_latest(registry).decode()).strip() == ""


@pytest.mark.server
def test_promtool_passes_the_rules_and_their_tests() -> None:
    rules = DEPLOY / "prometheus" / "rules.yml"
    assert "SUCCESS" in promtool("check", "rules", str(rules))
    assert "SUCCESS" in promtool("check", "config", str(rules.with_name("prometheus.yml")))
    assert "SUCCESS" in promtool("test", "rules", str(rules.with_name("rules.test.yml")))
    tested = rules.with_name("rules.test.yml").read_text()
    for rule in _rules("record"):
        assert f"{rule['record']}" in tested, f"no test sees {rule['record']}"
    for rule in _rules("alert"):
        firing = rf"alertname: {rule['alert']}\n\s+exp_alerts:"
        assert re.search(firing, tested), f"no test sees {rule['alert']} fire"
        assert f"alertname: {rule['alert']}}}" in tested, f"no test sees {rule['alert']} stay silent"
