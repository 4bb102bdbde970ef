"""An alert consumer as a stranger would write it, from the published documents alone.

It shares no code with Vigie: it reads the topic with a plain Kafka client, checks each message against
the CloudEvents 1.0 Kafka binding, ``deploy/docs/asyncapi.yaml`` and ``deploy/docs/alert.v1.schema.json``,
and drops repeats by ``ce_id``. ``python -m tests.consumer BOOTSTRAP TOPIC`` prints what it read.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kafka import KafkaConsumer, TopicPartition

DOCS = Path(__file__).resolve().parents[1] / "deploy" / "docs"


@dataclass(frozen=True)
class Received:
    """One message off the topic."""

    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    feature: dict[str, Any]

    @property
    def event_id(self) -> str:
        return self.headers["ce_id"]

    @property
    def incident(self) -> str:
        return self.headers["ce_subject"]

    @property
    def sequence(self) -> int:
        return int(self.headers["ce_sequence"])


def read_topic(bootstrap: str, topic: str, *, timeout_s: float = 30.0, valid: bool = True) -> list[Received]:
    """Read everything that is on the topic now, by partition and offset; with ``valid``, check each message."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None, auto_offset_reset="earliest"
    )
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        consumer.seek_to_beginning(*partitions)
        received: list[Received] = []
        deadline = time.monotonic() + timeout_s
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(received)} messages of {topic} in {timeout_s} s, not all of {ends}")
            for records in consumer.poll(timeout_ms=500).values():
                received += [_received(record) for record in records]
    finally:
        consumer.close()
    if valid:
        for message in received:
            check(message)
    return sorted(received, key=lambda message: (message.partition, message.offset))


def check(message: Received) -> None:
    """Raise where the message is not what the documents promise."""
    for_headers, for_data = _documents()
    for_headers.validate(message.headers)
    for_data.validate(message.feature)
    headers, properties = message.headers, message.feature["properties"]
    # CloudEvents 1.0: names of attributes are lower-case letters and digits; the time is RFC 3339.
    assert all(re.fullmatch(r"content-type|ce_[a-z0-9]+", name) for name in headers), headers
    assert datetime.fromisoformat(headers["ce_time"]).tzinfo is not None
    # What is said twice is said alike.
    assert message.key == headers["ce_partitionkey"]
    assert message.feature["id"] == headers["ce_id"]
    assert properties["incident"] == headers["ce_subject"]
    assert properties["sequence"] == int(headers["ce_sequence"])
    assert properties["sensing_time"] == headers["ce_time"]


@cache
def _documents() -> tuple[jsonschema.Draft202012Validator, jsonschema.Draft202012Validator]:
    page = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    schema = json.loads((DOCS / "alert.v1.schema.json").read_text(encoding="utf-8"))
    headers = page["components"]["messages"]["alert"]["headers"]
    return jsonschema.Draft202012Validator(headers), jsonschema.Draft202012Validator(schema)


def distinct(received: Iterable[Received]) -> list[Received]:
    """Drop repeats by id, keeping the first; a repeat must be the same message."""
    first: dict[str, Received] = {}
    for message in received:
        seen = first.setdefault(message.event_id, message)
        assert (seen.feature, seen.headers, seen.key) == (message.feature, message.headers, message.key)
    return list(first.values())


def in_order(received: Iterable[Received]) -> bool:
    """Whether revisions rise within each incident, repeats dropped."""
    last: dict[str, int] = {}
    for message in distinct(received):
        if message.sequence <= last.get(message.incident, 0):
            return False
        last[message.incident] = message.sequence
    return True


def _received(record: Any) -> Received:
    names = [name for name, _ in record.headers]
    assert len(names) == len(set(names)), f"a header is given twice: {names}"
    return Received(
        partition=record.partition,
        offset=record.offset,
        key=record.key.decode(),
        headers={name: value.decode() for name, value in record.headers},
        feature=json.loads(record.value),
    )


if __name__ == "__main__":
    for message in distinct(read_topic(sys.argv[1], sys.argv[2])):
        told = message.feature["properties"]
        print(
            told["sensing_time"], told["area"], told["kind"], told["state"], told["sequence"], f"{told['p_value']:.3g}"
        )
