"""The broker is down at start, killed in the middle, and away for longer than a delivery may take: nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import errors

from daemon.adapters.files import JsonLinesSink
from daemon.adapters.kafka import KafkaSettings, KafkaSink, unavailable
from daemon.clock import SystemClock
from daemon.errors import SinkUnavailable
from daemon.kafka_local import LocalBroker, free_port
from daemon.store import Store
from tests.consumer import distinct, in_order, read_topic
from tests.integration.test_kafka import alerts_of, put, relay_of
from tests.servers.kafka import OUTAGE
from tests.stores import watch

pytestmark = OUTAGE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=SystemClock()) as store:
        store.migrate()
        watch(store, "north", "south")
        yield store


@pytest.mark.server
def test_a_broker_that_is_down_at_start_and_killed_twice_loses_nothing(
    store: Store, kafka_broker: LocalBroker, topic: str, tmp_path: Path
) -> None:
    kafka_broker.stop()
    settings = KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic, delivery_timeout_s=60.0)
    kafka, lines = KafkaSink(settings), tmp_path / "alerts.jsonl"
    relay = relay_of(store, kafka, JsonLinesSink(lines))
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        places = [f"place {number}" for number in range(5)]
        written = alerts_of(places, revisions=40)
        put(store, "before", written[:20])
        time.sleep(1.0)
        with pytest.raises(SinkUnavailable, match="check that the broker runs"):
            kafka.ping()
        assert store.counts().outbox_unsent == 20
        kafka_broker.start()
        # Two kills while alerts are being written and sent: with a batch of 50 in waves of 5 both fall among them.
        for part, name in ((written[20:100], "first"), (written[100:200], "second")):
            put(store, name, part)
            time.sleep(0.3)
            kafka_broker.kill()
            time.sleep(0.5)
            kafka_broker.start()
        deadline = time.monotonic() + 120
        while store.counts().outbox_unsent and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
    assert store.counts().outbox_unsent == 0
    received = read_topic(kafka_broker.bootstrap, topic)
    assert {message.event_id for message in distinct(received)} == {alert.alert_id for alert in written}
    assert in_order(received)
    # The healthy sink beside it was not flooded with repeats.
    assert len(lines.read_text().splitlines()) == len(written)


@pytest.mark.server
def test_an_outage_longer_than_the_delivery_timeout_is_reported_and_outlived(
    store: Store, kafka_broker: LocalBroker, topic: str
) -> None:
    """The broker dies with the connection open, so the producer itself must give up on what it holds."""
    sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic, delivery_timeout_s=2.0))
    relay = relay_of(store, sink)
    first, rest = alerts_of(["north", "south"], revisions=1), alerts_of(["north", "south"], revisions=4)[2:]
    put(store, "first", first)
    assert relay.step().sent == 2
    kafka_broker.kill()
    put(store, "second", rest)
    began = time.monotonic()
    step = relay.step()
    assert (step.outcome, step.sent) == ("failed", 0)
    assert topic in str(step.error)
    assert time.monotonic() - began < 15
    assert store.outbox_batch(1)[0].attempts == 1
    kafka_broker.start()
    assert relay.drain(60)
    relay.close()
    received = read_topic(kafka_broker.bootstrap, topic)
    assert {message.event_id for message in distinct(received)} == {alert.alert_id for alert in first + rest}
    assert in_order(received)


def test_a_dead_broker_costs_no_threads_and_no_files(tmp_path: Path) -> None:
    sink = KafkaSink(KafkaSettings(bootstrap=(f"127.0.0.1:{free_port()}",), delivery_timeout_s=1.0))
    messages = [alert.to_message() for alert in alerts_of(["north"], revisions=2)]
    before = (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
    for _ in range(20):
        assert not any(result.delivered for result in sink.send(messages))
    sink.close()
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before


@pytest.mark.server
def test_a_broker_that_comes_and_goes_costs_no_threads(kafka_broker: LocalBroker, topic: str) -> None:
    before = threading.active_count()
    messages = [alert.to_message() for alert in alerts_of(["north"], revisions=2)]
    for _ in range(3):
        sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic))
        assert all(result.delivered for result in sink.send(messages))
        sink.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() == before


def test_every_error_of_the_client_becomes_one_of_ours_with_a_remedy() -> None:
    settings = KafkaSettings(bootstrap=("broker:9092",), topic="t")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.KafkaError)]
    assert len(kinds) > 100
    for kind in kinds:
        told = str(unavailable(kind.__new__(kind), settings, "deliver to"))
        assert "topic t at broker:9092" in told
        assert ";" in told
    remedies = {
        errors.SaslAuthenticationFailedError: "password_file",
        errors.TopicAuthorizationFailedError: "WRITE",
        errors.UnknownTopicOrPartitionError: "create_topic",
        errors.MessageSizeTooLargeError: "max.message.bytes",
        errors.NotEnoughReplicasError: "in sync",
        errors.KafkaTimeoutError: "broker runs",
        ConnectionRefusedError: "broker runs",
    }
    for kind, words in remedies.items():
        assert words in str(unavailable(kind(), settings, "deliver to")), kind
