"""The promises of a sink, kept by each: memory, files of every format, a webhook, and Kafka on a real broker."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from daemon.adapters.files import JsonLinesSink
from daemon.adapters.folder_sink import FolderSink
from daemon.adapters.kafka import KafkaSettings, KafkaSink
from daemon.adapters.memory_sink import MemorySink
from daemon.adapters.webhook import WebhookSettings, WebhookSink
from daemon.adapters.whole_file import write_whole
from daemon.clock import SystemClock
from daemon.errors import SinkUnavailable
from daemon.kafka_local import free_port
from daemon.publish.cap import NAMESPACE, CapIdentity, CapWriter
from daemon.publish.feature import file_name
from daemon.publish.geojson import GeoJsonWriter
from daemon.publish.sinks import Message, Sink, structured_event
from tests.consumer import read_topic
from tests.servers.webhook import WebhookReceiver
from tests.unit.test_alerts import make

Read = Callable[[], list[dict[str, Any]]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def message(place: str, sequence: int, note: str = "-") -> Message:
    return make(
        place=place, incident=place, sequence=sequence, reference_id=f"{place}{sequence}", notes=(note,)
    ).to_message()


@dataclass
class Bench:
    """A sink that works, how to read back what it delivered, and one of its kind that does not work."""

    sink: Sink
    read: Read
    broken: Sink
    limited: bool = True
    """Whether the sink refuses messages above 1 MB."""
    expect: Callable[[Message], dict[str, Any]] = structured_event
    """What is read back of a message."""
    repeats: bool = True
    """Whether a reader meets a repeated message twice."""


@pytest.fixture(
    params=["memory", "files", "geojson", "cap", "webhook", pytest.param("kafka", marks=pytest.mark.server)]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        memory, broken = MemorySink(), MemorySink()
        broken.down = True
        yield Bench(memory, lambda: [structured_event(one) for one in memory.messages], broken)
    elif request.param == "files":
        (tmp_path / "a file").touch()
        path = tmp_path / "out" / "alerts.jsonl"
        files = JsonLinesSink(path)
        yield Bench(files, lambda: _lines(path), JsonLinesSink(tmp_path / "a file" / "alerts.jsonl"), limited=False)
        files.close()
    elif request.param in ("geojson", "cap"):
        (tmp_path / "a file").touch()
        geojson = request.param == "geojson"
        identity = CapIdentity(sender="vigie@example.org")
        writer = (
            GeoJsonWriter(write_whole) if geojson else CapWriter(identity, now=lambda: NOON, write_whole=write_whole)
        )
        yield Bench(
            FolderSink(tmp_path / "out", writer, name=request.param),
            lambda: (_features if geojson else _caps)(tmp_path / "out"),
            FolderSink(tmp_path / "a file" / "out", writer, name=request.param),
            limited=False,
            expect=_part_of,
            repeats=False,
        )
    elif request.param == "webhook":
        with WebhookReceiver() as receiver:
            hook = _webhook(receiver.url)
            yield Bench(
                hook,
                lambda: [json.loads(post.body) for post in receiver.accepted],
                _webhook(f"http://127.0.0.1:{free_port()}/"),
            )
            hook.close()
    else:
        broker, topic = request.getfixturevalue("kafka_broker"), request.getfixturevalue("topic")
        kafka = KafkaSink(KafkaSettings(bootstrap=(broker.bootstrap,), topic=topic))
        nobody = KafkaSettings(bootstrap=(f"127.0.0.1:{free_port()}",), topic=topic, delivery_timeout_s=1.0)
        yield Bench(kafka, lambda: _topic(broker.bootstrap, topic), KafkaSink(nobody))
        kafka.close()


def _webhook(url: str) -> WebhookSink:
    settings = WebhookSettings(url=url, deadline_s=0.4)
    return WebhookSink(settings, name="webhook", clock=SystemClock(), rng=random.Random(0))


def _part_of(message: Message) -> dict[str, Any]:
    """What every file says of a message."""
    event = structured_event(message)
    return {"id": event["id"], "sequence": event["sequence"], "incident": file_name(event["subject"])}


def _features(folder: Path) -> list[dict[str, Any]]:
    features = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*/*.geojson"))]
    return [
        {
            "id": each["id"],
            "sequence": f"{each['properties']['sequence']:010d}",
            "incident": file_name(each["properties"]["incident"]),
        }
        for each in features
    ]


def _caps(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/*.xml")):
        root = ElementTree.parse(path).getroot()
        names = {each[0].text: each[1].text for each in root.iter(f"{{{NAMESPACE}}}parameter")}
        found.append(
            {
                "id": root.findtext(f"{{{NAMESPACE}}}identifier"),
                "sequence": f"{int(names['vigie:sequence'] or 0):010d}",
                "incident": root.findtext(f"{{{NAMESPACE}}}incidents"),
            }
        )
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _topic(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    events = []
    for received in read_topic(bootstrap, topic):
        names = {name.removeprefix("ce_"): value for name, value in received.headers.items()}
        names["datacontenttype"] = names.pop("content-type")
        events.append({**names, "data": received.feature})
    return events


def _of(messages: Sequence[Message], events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {message.alert_id for message in messages}
    return [event for event in events if event["id"] in ids]


def test_what_is_confirmed_can_be_read_back_whole_and_in_order_of_its_key(bench: Bench) -> None:
    sent = [message(place, sequence) for sequence in range(1, 6) for place in ("north", "south", "Évian")]
    results = bench.sink.send(sent)
    assert [result.alert_id for result in results] == [one.alert_id for one in sent]
    assert all(result.delivered for result in results)
    events = bench.read()
    for place in ("north", "south", "Évian"):
        of_place = [one for one in sent if one.key == place.encode()]
        assert _of(of_place, events) == [bench.expect(one) for one in of_place]
    assert len(events) == len(sent)


def test_nothing_to_send_is_no_failure(bench: Bench) -> None:
    assert list(bench.sink.send([])) == []
    assert list(bench.broken.send([])) == []


def test_a_repeat_is_legal(bench: Bench) -> None:
    one = message("north", 1)
    for _ in range(2):
        assert [result.delivered for result in bench.sink.send([one])] == [True]
    assert [event["id"] for event in bench.read()] == [one.alert_id] * (2 if bench.repeats else 1)


def test_a_sink_that_works_answers_a_ping_before_and_after_sending(bench: Bench) -> None:
    bench.sink.ping()
    bench.sink.send([message("north", 1)])
    bench.sink.ping()


def test_a_sink_that_does_not_work_fails_each_message_with_a_remedy_and_raises_nothing(bench: Bench) -> None:
    results = bench.broken.send([message("north", 1), message("south", 1)])
    assert [result.delivered for result in results] == [False, False]
    assert not any(result.refused for result in results)
    assert all(len(str(result.error)) > 20 for result in results)
    with pytest.raises(SinkUnavailable):
        bench.broken.ping()


def test_a_closed_sink_opens_anew(bench: Bench) -> None:
    bench.sink.send([message("north", 1)])
    bench.sink.close()
    bench.sink.close()
    assert all(result.delivered for result in bench.sink.send([message("north", 2)]))
    assert [event["sequence"] for event in bench.read()] == ["0000000001", "0000000002"]


def test_a_message_that_is_too_large_is_refused_and_the_others_pass(bench: Bench) -> None:
    if not bench.limited:
        pytest.skip("a file takes any size")
    large = message("north", 2, "x" * 2_000_000)
    sent = [message("north", 1), message("south", 1), large, message("south", 2), message("north", 3)]
    results = bench.sink.send(sent)
    assert [result.refused for result in results] == [False, False, True, False, False]
    assert [result.delivered for result in results] == [True, True, False, True, True]
    assert {event["id"] for event in bench.read()} == {one.alert_id for one in sent if one is not large}


def test_within_a_key_nothing_passes_a_failure() -> None:
    sink = MemorySink(fails=lambda one: dict(one.headers)["ce_sequence"] == b"0000000002" and one.key == b"north")
    sent = [message(place, sequence) for sequence in (1, 2, 3) for place in ("north", "south")]
    assert [result.delivered for result in sink.send(sent)] == [True, True, False, True, False, True]


class TestJsonLines:
    """What a file can suffer."""

    def test_a_torn_last_line_is_cut_off_and_the_alert_written_again(self, tmp_path: Path) -> None:
        path = tmp_path / "alerts.jsonl"
        sink = JsonLinesSink(path)
        sink.send([message("north", 1), message("north", 2)])
        sink.close()
        whole = path.read_bytes()
        first_line = whole.index(b"\n") + 1
        for torn in (first_line, first_line + 1, len(whole) - 1):
            path.write_bytes(whole[:torn])
            again = JsonLinesSink(path)
            again.send([message("north", 2)])
            again.close()
            assert path.read_bytes() == whole

    def test_a_file_that_is_one_torn_line_longer_than_a_block_becomes_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "alerts.jsonl"
        path.write_bytes(b"x" * 200_000)
        sink = JsonLinesSink(path)
        sink.send([message("north", 1)])
        sink.close()
        assert [event["sequence"] for event in _lines(path)] == ["0000000001"]

    def test_a_full_disk_fails_the_batch_and_leaves_whole_lines(self) -> None:
        sink = JsonLinesSink(Path("/dev/full"))
        results = sink.send([message("north", 1)])
        assert "free space" in str(results[0].error)
        sink.close()


@pytest.mark.server
def test_the_topic_is_made_with_the_configured_partitions_or_its_absence_is_explained(
    request: pytest.FixtureRequest, topic: str
) -> None:
    broker = request.getfixturevalue("kafka_broker")
    strict = KafkaSink(
        KafkaSettings(bootstrap=(broker.bootstrap,), topic=topic, create_topic=False, delivery_timeout_s=2.0)
    )
    error = strict.send([message("north", 1)])[0].error
    assert topic in str(error)
    with pytest.raises(SinkUnavailable):
        strict.ping()
    maker = KafkaSink(KafkaSettings(bootstrap=(broker.bootstrap,), topic=topic, partitions=5))
    assert maker.send([message("north", 1)])[0].delivered
    assert strict.send([message("north", 2)])[0].delivered
    strict.ping()
    assert [one.sequence for one in read_topic(broker.bootstrap, topic)] == [1, 2]
    for sink in (strict, maker):
        sink.close()
