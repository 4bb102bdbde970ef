"""The budget and the circuit breaker that stand before every request to a host."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.adapters.fetch import Fetcher
from daemon.adapters.host_gate import GateRules, HostGate, HostGates
from daemon.backoff import Backoff
from daemon.clock import ManualClock
from daemon.errors import CatalogInvalid, CatalogUnavailable
from tests.servers import bad_stac as bad
from tests.servers.bad_stac import BadStac

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Serve = Callable[[list[dict[str, Any]]], BadStac]
RULES = GateRules(requests_per_minute=60.0, burst=3, failures=2, rest=Backoff(base_s=60.0, cap_s=600.0))


def gate(clock: ManualClock, rules: GateRules = RULES) -> HostGate:
    return HostGate("https://c.test:443", clock, random.Random(1), rules)


def test_a_host_is_asked_within_its_budget() -> None:
    clock = ManualClock(NOW)
    one = gate(clock)
    for _ in range(3):
        one.enter()
        one.succeeded()
    assert clock.monotonic() == 0.0
    for _ in range(60):
        one.enter()
        one.succeeded()
    assert clock.monotonic() == pytest.approx(60.0)


@given(st.lists(st.floats(min_value=0.0, max_value=30.0), min_size=1, max_size=40))
def test_no_minute_holds_more_than_the_burst_and_the_budget(gaps: list[float]) -> None:
    clock = ManualClock(NOW)
    one = gate(clock)
    times = []
    for gap in gaps:
        clock.advance(gap)
        one.enter()
        one.succeeded()
        times.append(clock.monotonic())
    for start in times:
        assert sum(start <= at < start + 60.0 for at in times) <= 60 + 3 + 1


def test_the_circuit_opens_after_failures_and_one_request_tries_it() -> None:
    clock = ManualClock(NOW)
    one = gate(clock)
    for _ in range(2):
        one.enter()
        one.failed()
    with pytest.raises(CatalogUnavailable, match=r"left alone for .* s more, after 2 failures") as caught:
        one.enter()
    assert caught.value.retry_after_s is not None
    assert 30.0 <= caught.value.retry_after_s <= 60.0
    clock.advance(60.0)
    one.enter()
    with pytest.raises(CatalogUnavailable):
        one.enter()  # only one request is let through to try
    one.failed()
    with pytest.raises(CatalogUnavailable) as caught:
        one.enter()
    assert 60.0 <= (caught.value.retry_after_s or 0.0) <= 120.0
    clock.advance(120.0)
    one.enter()
    one.succeeded()
    one.enter()


def test_what_a_host_asks_for_holds_for_all_its_catalogs(bad_stac: Serve) -> None:
    server = bad_stac([])
    clock = ManualClock(NOW)
    gates = HostGates(clock, random.Random(1), RULES)
    first, second = (Fetcher(server.url, now=clock.now, gates=gates) for _ in range(2))
    server.script = [bad.status(429, Retry_After="90")]
    with pytest.raises(CatalogUnavailable) as caught:
        first.fetch(f"{server.url}search", method="POST")
    assert caught.value.retry_after_s == 90.0
    with pytest.raises(CatalogUnavailable, match=r"as it asked for|after 1 failures") as caught:
        second.fetch(f"{server.url}search", method="POST")
    assert caught.value.retry_after_s == 90.0
    assert len(server.searches) == 1
    clock.advance(90.0)
    second.fetch(f"{server.url}search", method="POST")
    assert len(server.searches) == 2
    for fetcher in (first, second):
        fetcher.close()


def test_a_refusal_of_one_request_is_an_answer(bad_stac: Serve) -> None:
    server = bad_stac([])
    clock = ManualClock(NOW)
    with Fetcher(server.url, now=clock.now, gates=HostGates(clock, random.Random(1), RULES)) as fetcher:
        server.script = [bad.status(404)] * 5
        for _ in range(5):
            with pytest.raises(CatalogInvalid):
                fetcher.fetch(f"{server.url}search", method="POST")


def test_the_least_budget_that_is_asked_for_holds() -> None:
    clock = ManualClock(NOW)
    gates = HostGates(clock, random.Random(1), GateRules(burst=1))
    gates.limit("https://c.test/one", 6.0)
    gates.limit("https://C.test:443/two", 60.0)
    for _ in range(3):
        gates.of("https://c.test/three").enter()
        gates.of("https://c.test/three").succeeded()
    assert clock.monotonic() == pytest.approx(20.0)
