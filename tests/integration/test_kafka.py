"""From a finished scene to a stranger's consumer: the real store, the relay, a real broker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from kafka import KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from daemon.adapters.files import JsonLinesSink
from daemon.adapters.kafka import KafkaSettings, KafkaSink
from daemon.clock import SystemClock
from daemon.kafka_local import LocalBroker
from daemon.operate.health import Heartbeats
from daemon.operate.metrics import Metrics
from daemon.publish.alerts import Alert
from daemon.publish.relay import Relay, RelaySettings
from daemon.publish.sinks import Sink
from daemon.store import OutboxAlert, Store
from tests.consumer import check, distinct, in_order, read_topic
from tests.stores import claimed, end, make_scene, ready, seen, watch
from tests.unit.test_alerts import make

pytestmark = pytest.mark.server


def outbox_alert(alert: Alert) -> OutboxAlert:
    message = alert.to_message()
    return OutboxAlert(
        alert_id=alert.alert_id,
        incident_key=alert.incident,
        sensing_time=alert.sensing_time,
        key=message.key,
        headers=message.headers,
        value=message.value,
    )


def alerts_of(places: list[str], revisions: int) -> list[Alert]:
    """For each revision one alert of each place, as passes over several areas write them."""
    return [
        make(
            place=place,
            incident=f"{place}|1",
            sequence=revision,
            state="new" if revision == 1 else "updated",
            reference_id=f"{place} {revision}",
        )
        for revision in range(1, revisions + 1)
        for place in places
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=SystemClock()) as store:
        store.migrate()
        watch(store, "north", "south")
        yield store


def put(store: Store, name: str, alerts: list[Alert]) -> None:
    ready(store, seen(make_scene(name)))
    end(store, claimed(store), *(outbox_alert(alert) for alert in alerts))


def relay_of(store: Store, *sinks: Sink, owner: str = "relay") -> Relay:
    clock = SystemClock()
    return Relay(
        store,
        sinks,
        RelaySettings(owner=owner, poll_s=0.05),
        clock=clock,
        metrics=Metrics(CollectorRegistry(), clock),
        heartbeats=Heartbeats(clock),
        rng=random.Random(7),
    )


def test_alerts_reach_a_strangers_consumer_whole_valid_and_in_order(
    store: Store, kafka_broker: LocalBroker, topic: str, tmp_path: Path
) -> None:
    alerts = alerts_of([f"place {number}" for number in range(7)], revisions=6)
    put(store, "a", alerts)
    kafka = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic))
    files = JsonLinesSink(tmp_path / "alerts.jsonl")
    relay = relay_of(store, kafka, files)
    assert relay.drain(60)
    relay.close()

    received = read_topic(kafka_broker.bootstrap, topic)
    assert {message.event_id: message.feature for message in received} == {
        alert.alert_id: alert.feature() for alert in alerts
    }
    assert len(received) == len(alerts)
    assert in_order(received)
    # One place lies in one partition, and several partitions are used.
    partitions = {(message.key, message.partition) for message in received}
    assert len(partitions) == 7
    assert len({partition for _, partition in partitions}) > 1
    assert len((tmp_path / "alerts.jsonl").read_text().splitlines()) == len(alerts)


def test_a_repeat_is_byte_for_byte_the_same_message(store: Store, kafka_broker: LocalBroker, topic: str) -> None:
    """The relay dies after the broker's confirmation and before the mark; another one sends the batch again."""
    alerts = alerts_of(["north", "south"], revisions=3)
    put(store, "a", alerts)
    settings = KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic)

    class Dying(KafkaSink):
        def send(self, messages):  # type: ignore[no-untyped-def]
            super().send(messages)
            raise KeyboardInterrupt

    dying = Dying(settings)
    with pytest.raises(KeyboardInterrupt):
        relay_of(store, dying).step()
    dying.close()
    relay = relay_of(store, KafkaSink(settings))
    assert relay.drain(60)
    relay.close()

    received = read_topic(kafka_broker.bootstrap, topic)
    assert len(received) == 2 * len(alerts)
    assert {message.event_id for message in distinct(received)} == {alert.alert_id for alert in alerts}
    assert in_order(received)


def test_the_cloudevents_sdk_reads_what_is_on_the_topic(kafka_broker: LocalBroker, topic: str) -> None:
    alert = make()
    sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic, partitions=1))
    assert sink.send([alert.to_message()])[0].delivered
    sink.close()
    consumer = KafkaConsumer(bootstrap_servers=kafka_broker.bootstrap, group_id=None, enable_auto_commit=False)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        (record,) = consumer.poll(timeout_ms=20_000)[partition]
    finally:
        consumer.close()
    event = from_binary(KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value), JSONFormat())
    assert (event.get_id(), event.get_data()) == (alert.alert_id, alert.feature())
    assert event.get_datacontenttype() == "application/geo+json"


def test_the_strangers_consumer_is_strict(kafka_broker: LocalBroker, topic: str) -> None:
    """A validator that passes everything would make the tests above worthless."""
    sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic))
    sound = make().to_message()
    headers = dict(sound.headers)
    broken = [
        replace(sound, value=sound.value.replace(b'"flood"', b'"fire"')),
        replace(sound, headers=tuple({**headers, "ce_specversion": b"0.3"}.items())),
        replace(sound, headers=tuple((name, value) for name, value in headers.items() if name != "ce_time")),
        replace(sound, headers=tuple({**headers, "ce_sequence": b"0000000002"}.items())),
        replace(sound, key=b"elsewhere"),
    ]
    assert all(result.delivered for result in sink.send([sound, *broken]))
    sink.close()
    verdicts = []
    for message in read_topic(kafka_broker.bootstrap, topic, valid=False):
        try:
            check(message)
            verdicts.append(True)
        except Exception:
            verdicts.append(False)
    assert sorted(verdicts) == [False] * len(broken) + [True]


def test_the_strangers_consumer_sees_disorder_and_false_repeats(kafka_broker: LocalBroker, topic: str) -> None:
    sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic))
    first, second = (alert.to_message() for alert in alerts_of(["north"], revisions=2))
    assert all(result.delivered for result in sink.send([first, second, first]))
    sink.close()
    received = read_topic(kafka_broker.bootstrap, topic)
    assert in_order(received)
    assert not in_order(reversed(received[:2]))
    with pytest.raises(AssertionError):
        distinct([received[0], replace(received[2], key="elsewhere")])
