"""The relay: all of the outbox reaches every sink, in order, whatever fails, and only confirmed alerts are marked."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from daemon.adapters.memory_sink import MemorySink
from daemon.clock import ManualClock
from daemon.errors import StoreUnavailable
from daemon.operate.health import Heartbeats
from daemon.operate.metrics import Metrics
from daemon.publish.relay import Relay, RelaySettings
from daemon.publish.sinks import DeliveryResult, Message, Sink
from daemon.store import OutboxAlert, Store
from tests.stores import NOON, claimed, end, make_alert, make_scene, ready, seen, watch


class Bench:
    """A real store on SQLite, with a hand-moved clock, and relays on it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOON + timedelta(hours=3))
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.clock)
        self.heartbeats = Heartbeats(self.clock)
        self.store = Store.open(f"sqlite:///{folder / 'vigie.db'}", clock=self.clock)
        self.store.migrate()
        watch(self.store, "north", "south")
        self._scenes = 0

    def put(self, *alerts: OutboxAlert) -> None:
        self._scenes += 1
        ready(self.store, seen(make_scene(f"scene {self._scenes}")))
        end(self.store, claimed(self.store), *alerts)

    def put_many(self, count: int, places: Sequence[str] = ("north", "south")) -> list[str]:
        alerts = [make_alert(f"{number:04d}", places[number % len(places)]) for number in range(count)]
        self.put(*alerts)
        return [alert.alert_id for alert in alerts]

    def relay(self, *sinks: Sink, store: Any = None, **changes: Any) -> Relay:
        return Relay(
            store or self.store,
            sinks,
            replace(RelaySettings(owner="relay a"), **changes),
            clock=self.clock,
            metrics=self.metrics,
            heartbeats=self.heartbeats,
            rng=random.Random(7),
        )

    def unsent(self) -> list[str]:
        return [row.alert.alert_id for row in self.store.outbox_batch(1000)]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


def ids(sink: MemorySink) -> list[str]:
    return [message.alert_id for message in sink.messages]


class Interposed:
    """The real store, with something done before named calls."""

    def __init__(self, store: Store, **before: Callable[[], None]) -> None:
        self._store = store
        self._before = before

    def __getattr__(self, name: str) -> Any:
        self._before.get(name, lambda: None)()
        return getattr(self._store, name)


def test_the_outbox_reaches_the_sink_in_order_and_is_empty_then(bench: Bench) -> None:
    expected = bench.put_many(120)
    sink = MemorySink()
    relay = bench.relay(sink)
    assert relay.drain(60)
    assert ids(sink) == expected
    assert bench.unsent() == []
    sent = bench.store.alerts()[0].alert
    assert sink.messages[0] == Message(alert_id=sent.alert_id, key=sent.key, headers=sent.headers, value=sent.value)
    assert bench.sample("vigie_published_total", sink="memory", result="delivered") == 120
    assert bench.sample("vigie_sensing_to_alert_seconds_sum") == pytest.approx(120 * 3 * 3600, rel=0.01)


def test_a_sink_that_is_down_leaves_everything_in_the_outbox_until_it_is_back(bench: Bench) -> None:
    expected = bench.put_many(3)
    sink = MemorySink()
    sink.down = True
    relay = bench.relay(sink)
    step = relay.step()
    assert (step.outcome, step.sent) == ("failed", 0)
    assert "memory is down" in str(step.error)
    assert bench.unsent() == expected
    row = bench.store.outbox_batch(1)[0]
    assert (row.attempts, row.last_error) == (1, step.error)
    assert not relay.drain(5)
    sink.down = False
    assert relay.drain(60)
    assert ids(sink) == expected


def test_a_refused_alert_is_parked_and_those_behind_it_pass(bench: Bench) -> None:
    first, large, last = make_alert("1"), replace(make_alert("2"), value=b"x" * 2_000_000), make_alert("3")
    bench.put(first, large, last)
    sink = MemorySink()
    step = bench.relay(sink).step()
    assert (step.outcome, step.sent, step.parked) == ("sent", 2, 1)
    assert ids(sink) == ["1", "3"]
    assert bench.unsent() == []
    assert bench.store.counts().outbox_parked == 1
    # Once the cause is gone, an operator offers it again.
    assert bench.store.unpark() == 1
    sink = MemorySink(max_bytes=3_000_000)
    assert bench.relay(sink).drain(60)
    assert ids(sink) == ["2"]


def test_an_alert_counts_only_when_all_sinks_have_it_and_the_healthy_one_is_not_flooded(bench: Bench) -> None:
    expected = bench.put_many(5)
    healthy, broken = MemorySink(name="healthy"), MemorySink(name="broken")
    broken.down = True
    relay = bench.relay(healthy, broken)
    for _ in range(10):
        assert relay.step().outcome == "failed"
    assert ids(healthy) == expected
    assert bench.unsent() == expected
    broken.down = False
    assert relay.drain(60)
    assert ids(healthy) == ids(broken) == expected


def test_refused_by_one_and_missed_by_another_is_tried_until_only_the_refusal_is_left(bench: Bench) -> None:
    bench.put(replace(make_alert("1"), value=b"x" * 2_000_000))
    small, roomy = MemorySink(name="small"), MemorySink(name="roomy", max_bytes=3_000_000)
    roomy.down = True
    relay = bench.relay(small, roomy)
    assert relay.step().outcome == "failed"
    assert bench.unsent() == ["1"]
    roomy.down = False
    assert relay.step().parked == 1
    assert ids(roomy) == ["1"]


def test_a_crash_between_delivery_and_mark_repeats_with_the_same_id(bench: Bench) -> None:
    expected = bench.put_many(4)
    sink = MemorySink()

    def crash() -> None:
        raise KeyboardInterrupt

    dying = bench.relay(sink, store=Interposed(bench.store, mark_sent=crash))
    with pytest.raises(KeyboardInterrupt):
        dying.step()
    assert bench.unsent() == expected
    assert bench.relay(sink).drain(60)
    assert ids(sink) == expected + expected


def test_a_store_that_fails_to_mark_costs_no_repeat_and_no_loss(bench: Bench) -> None:
    expected = bench.put_many(4)
    left = [2]

    def fail_twice() -> None:
        if left[0]:
            left[0] -= 1
            raise StoreUnavailable("database is locked")

    sink = MemorySink()
    relay = bench.relay(sink, store=Interposed(bench.store, mark_sent=fail_twice))
    assert [relay.step().outcome for _ in range(4)] == ["failed", "failed", "sent", "idle"]
    assert ids(sink) == expected


def test_one_relay_leads_and_another_takes_over_when_it_ends_or_dies(bench: Bench) -> None:
    bench.put_many(2)
    first, second = MemorySink(), MemorySink()
    leader = bench.relay(first, lease_ttl_s=15.0)
    follower = bench.relay(second, owner="relay b", lease_ttl_s=15.0)
    assert leader.step().outcome == "sent"
    assert follower.step().outcome == "standby"
    leader.close()
    assert follower.step().outcome == "idle"
    # The second now leads; it "dies" without giving the lease back.
    bench.clock.advance(14.0)
    assert leader.step().outcome == "standby"
    bench.clock.advance(1.5)
    assert leader.step().outcome == "idle"


def test_a_relay_whose_lease_was_taken_meanwhile_marks_nothing(bench: Bench) -> None:
    expected = bench.put_many(2)
    other = bench.relay(MemorySink(), owner="relay b")

    def lose_the_lease() -> None:
        bench.clock.advance(100.0)
        assert other.step().outcome == "sent"
        bench.put(make_alert("later"))

    sink = MemorySink()
    slow = bench.relay(sink, store=Interposed(bench.store, mark_sent=lose_the_lease))
    assert slow.step().outcome == "standby"
    assert ids(sink) == expected
    assert bench.unsent() == ["later"]
    assert slow.step().outcome == "standby"


def test_the_lease_is_renewed_while_a_delivery_blocks(bench: Bench) -> None:
    bench.put_many(1)
    renewed = threading.Semaphore(0)
    store = Interposed(bench.store, hold_lease=renewed.release)

    class Slow(MemorySink):
        def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
            for _ in range(3):
                assert renewed.acquire(timeout=10)
            return super().send(messages)

    assert bench.relay(Slow(), store=store, lease_ttl_s=0.09).step().outcome == "sent"


def test_running_beats_backs_off_and_gives_the_lease_back(bench: Bench) -> None:
    expected = bench.put_many(1)
    stop = threading.Event()
    waits: list[float] = []

    class Watched(MemorySink):
        closed = False

        def close(self) -> None:
            self.closed = True

    sink = Watched()
    sink.down = True
    original = bench.clock.wait

    def wait(event: threading.Event, seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 10:
            sink.down = False
        if len(waits) == 12:
            event.set()
        return original(event, seconds)

    bench.clock.wait = wait  # type: ignore[method-assign]
    bench.relay(sink).run(stop)
    assert ids(sink) == expected
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits[:6]))
    assert all(30 <= wait <= 60 for wait in waits[6:10])
    assert waits[10:] == [0.5, 0.5]
    assert bench.heartbeats.check().details["loops"] == {}
    assert sink.closed
    assert bench.relay(MemorySink(), owner="relay b").step().outcome == "idle"


def test_a_relay_without_a_sink_is_a_mistake(bench: Bench) -> None:
    with pytest.raises(ValueError, match="needs a sink"):
        bench.relay()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), batch=st.integers(1, 9))
def test_under_random_failures_nothing_is_lost_and_each_key_keeps_its_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, batch: int
) -> None:
    rng = random.Random(seed)
    bench = Bench(tmp_path_factory.mktemp("relay"))
    places = ("north", "south", "west")
    expected = bench.put_many(25, places)
    sinks = [MemorySink(name=name, fails=lambda message: rng.random() < 0.3) for name in ("one", "two")]
    relay = bench.relay(*sinks, batch=batch)
    while relay.step().outcome != "idle":
        if rng.random() < 0.2:  # A restart forgets what was confirmed.
            relay = bench.relay(*sinks, batch=batch)
    for sink in sinks:
        for place in places:
            arrived = [message.alert_id for message in sink.messages if message.key == place.encode()]
            first_seen = list(dict.fromkeys(arrived))
            assert first_seen == sorted(first_seen)
        assert set(ids(sink)) == set(expected)
    bench.store.close()
