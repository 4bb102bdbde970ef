"""Heartbeats, readiness, and the port that shows them."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from daemon.clock import ManualClock
from daemon.errors import ConfigError, StoreUnavailable
from daemon.operate.health import Heartbeats, Readiness
from daemon.operate.http_server import HttpServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


def test_a_loop_that_beats_in_time_is_alive_and_one_that_does_not_is_named(clock: ManualClock) -> None:
    seen: list[tuple[str, float]] = []
    hearts = Heartbeats(clock, observe=lambda loop, epoch_s: seen.append((loop, epoch_s)))
    assert hearts.check().ok
    hearts.expect("watch", 10.0)
    hearts.expect("score", 100.0)
    clock.advance(10.0)
    assert hearts.check().ok
    clock.advance(0.5)
    report = hearts.check()
    assert not report.ok
    assert report.details["late"] == ["watch"]
    assert report.details["loops"]["watch"] == {"silent_s": 10.5, "allowed_s": 10.0}
    hearts.beat("watch")
    assert hearts.check().ok
    assert seen == [("watch", NOON.timestamp() + 10.5)]


def test_a_clock_correction_kills_nobody(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    hearts.expect("watch", 10.0)
    clock.step(3600.0)
    assert hearts.check().ok
    clock.step(-7200.0)
    assert hearts.check().ok


def test_a_loop_that_ended_in_good_order_is_not_missed(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    hearts.expect("watch", 10.0)
    hearts.forget("watch")
    clock.advance(100.0)
    assert hearts.check().ok


def test_readiness_names_what_fails_and_why_and_recovers(clock: ManualClock) -> None:
    broken = [True]
    asked: list[str] = []

    def store() -> None:
        asked.append("store")
        if broken[0]:
            raise StoreUnavailable("the database is locked; end the other process")

    def engine() -> None:
        raise ZeroDivisionError("division by zero")

    readiness = Readiness({"store": store, "sink": lambda: None, "engine": engine}, clock, max_age_s=2.0)
    report = readiness.check()
    assert not report.ok
    assert report.details["failing"] == {
        "store": "the database is locked; end the other process",
        "engine": "ZeroDivisionError: division by zero",
    }
    assert report.details["ready"] == ["sink"]
    broken[0] = False
    assert readiness.check() is report
    clock.advance(2.5)
    assert readiness.check().details["failing"].keys() == {"engine"}
    assert asked == ["store", "store"]


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("vigie_test_seconds", "A test.", registry=registry).set(1.5)
    return registry


@pytest.fixture
def hearts(clock: ManualClock) -> Heartbeats:
    hearts = Heartbeats(clock)
    hearts.expect("watch", 10.0)
    return hearts


@pytest.fixture
def server(registry: CollectorRegistry, hearts: Heartbeats, clock: ManualClock) -> Iterator[HttpServer]:
    readiness = Readiness({"store": lambda: None}, clock)
    with HttpServer(registry=registry, live=hearts.check, ready=readiness.check) as server:
        yield server


def get(url: str, **headers: str) -> tuple[int, str, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_port_shows_health_as_status_and_json(server: HttpServer, clock: ManualClock) -> None:
    status, kind, body = get(f"{server.url}/livez")
    assert (status, kind, json.loads(body)["ok"]) == (200, "application/json", True)
    clock.advance(11.0)
    status, _, body = get(f"{server.url}/livez")
    assert (status, json.loads(body)["late"]) == (503, ["watch"])
    status, _, body = get(f"{server.url}/readyz?verbose")
    assert (status, json.loads(body)) == (200, {"ok": True, "failing": {}, "ready": ["store"]})


def test_the_port_shows_metrics_in_both_text_formats(server: HttpServer) -> None:
    status, kind, body = get(f"{server.url}/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert [family.samples[0].value for family in text_string_to_metric_families(body)] == [1.5]
    _, kind, body = get(f"{server.url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_started_twice_it_still_has_one_loop_and_stops(server: HttpServer) -> None:
    server.start()
    assert [thread.name for thread in threading.enumerate()].count("http") == 1
    server.close()
    assert "http" not in [thread.name for thread in threading.enumerate()]


def test_other_paths_and_methods_are_refused(server: HttpServer) -> None:
    status, _, body = get(f"{server.url}/etc/passwd")
    assert status == 404
    assert "/metrics" in body
    request = urllib.request.Request(f"{server.url}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    with refusal.value as answer:
        assert answer.code == 501


def test_a_client_that_says_nothing_does_not_keep_others_waiting(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(f"{server.url}/livez")[0] == 200


def test_it_listens_on_the_loopback_address_alone_and_frees_the_port(
    registry: CollectorRegistry, hearts: Heartbeats
) -> None:
    before = threading.active_count()
    with HttpServer(registry=registry, live=hearts.check, ready=hearts.check) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with pytest.raises(ConfigError, match=f"{server.port}.*choose another"):
            HttpServer(registry=registry, live=hearts.check, ready=hearts.check, port=server.port)
    assert threading.active_count() == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
