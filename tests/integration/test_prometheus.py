"""A real Prometheus scrapes a daemon at work: its rules run, and every panel of the dashboard has an answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from shapely.geometry import mapping

from daemon.demo.scenes import build_demo
from daemon.kafka_local import free_port
from engine.grid import Cell, union_lonlat
from tests.daemons import DaemonFolder
from tests.dashboard import queries
from tests.servers.prometheus import Prometheus
from tests.small_models import BANDS, TILE_PX, parts, small_bundle

pytestmark = pytest.mark.server

# A few of the demo's cells, some of which are flooded.
GROUND = union_lonlat(
    tuple(
        Cell(epsg=32632, level=0, tile_px=64, col=col, row=row) for col in range(842, 846) for row in range(7785, 7788)
    )
)
QUIET = {"Firing alerts", "Silence by collection", "Runners passed over, batches halved"}
"""Panels that one scene on a healthy machine gives nothing to: their queries must be legal, not answered.

A collection has no usual gap before it has shown some scenes, and no runner is passed over where the first one works.
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scraping a daemon that has worked through the demo's flooded pass and goes on watching."""
    place = build_demo(tmp_path_factory.mktemp("place"), only=("flood",))
    bundle = tmp_path_factory.mktemp("model") / "strict"
    # To these models every tile is strange, so that there are alerts; and they are small and quick.
    few = np.full(50, 1e-9, np.float32)
    small_bundle(bundle, *(parts(family, calibration={"odeed": few}) for family in BANDS))
    home = DaemonFolder(folder=tmp_path_factory.mktemp("daemon"))
    port = free_port()
    home.write_config(
        {
            "store": {"url": "sqlite:///vigie.db"},
            "engine": {"bundle": str(bundle), "runner": "torch", "device": "cpu", "threads": 1},
            "scoring": {"tile_px": TILE_PX},
            "catalogs": [{"name": "simulated", "type": "static", "url": str(place.catalog.parent), "poll_every_s": 1}],
            "areas": [
                {
                    "name": "valley",
                    "geometry": mapping(GROUND.buffer(-1e-4)),
                    "alert_since": place.alert_since.isoformat(),
                }
            ],
            "access": {"local_roots": [str(place.catalog.parent)]},
            "sinks": [{"type": "jsonl", "path": "alerts.jsonl"}],
            "http": {"port": port},
            "log": {"format": "json"},
        }
    )
    with Prometheus(tmp_path_factory.mktemp("prometheus"), [f"127.0.0.1:{port}"]) as server:
        process = home.start()
        try:
            deadline = time.monotonic() + 240
            # A rate needs two samples of a series, and a recording rule one more turn; NaN is not above zero.
            while not (
                server.query("rate(vigie_published_total[1m])")
                and server.query("vigie:catalog_to_alert_seconds:p90_1d >= 0")
                and server.query('vigie:tiles:ratio_rate1h{reason="none"} >= 0')
            ):
                assert process.poll() is None, home.tail()
                assert time.monotonic() < deadline, home.tail()
                time.sleep(0.5)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


def test_every_panel_of_the_dashboard_has_an_answer(prometheus: Prometheus) -> None:
    empty = [
        (title, expression)
        for title, expressions in queries().items()
        for expression in expressions
        if not prometheus.query(expression) and title not in QUIET
    ]
    assert empty == []


def test_every_rule_is_evaluated_without_an_error_and_nothing_fires(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 10
    while any(rule["health"] == "unknown" for rule in prometheus.rules()) and time.monotonic() < deadline:
        time.sleep(0.2)
    told = prometheus.rules()
    assert {(rule["name"], rule["health"], rule.get("lastError")) for rule in told if rule["health"] != "ok"} == set()
    assert len(told) >= 19
    # The demo's scenes lie in the past, so its catalog is silent; that is pending, for an hour.
    assert [rule["name"] for rule in told if rule.get("state") == "firing"] == []


def test_recorded_series_hold_what_the_daemon_did(prometheus: Prometheus) -> None:
    def one(expression: str) -> float:
        (sample,) = prometheus.query(expression)
        return float(sample["value"][1])

    assert one('up{job="vigie"}') == 1
    assert one("max(vigie_area_incidents)") >= 1 or one("sum(vigie_alerts_total)") >= 1
    assert 0 < one("vigie:engine_busy:ratio_rate5m") <= 1
    assert 0 < one('vigie:tiles:ratio_rate1h{reason="none"}') <= 1
    assert one("vigie:catalog_to_alert_seconds:p90_1d") <= 600
    assert one('vigie_score_drift_tiles{sensor="sentinel-2-l2a"}') >= 100
    assert one("sum(vigie_published_total) by (sink)") == one("sum(vigie_alerts_total)")
