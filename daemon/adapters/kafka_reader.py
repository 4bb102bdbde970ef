"""Reads a topic of alerts back from its beginning: for the demo, and for a look by hand."""

from __future__ import annotations

import json
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from daemon.adapters.kafka import FAILURES, KafkaSettings, unavailable


def read_alerts(settings: KafkaSettings, *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
    """The data of every message that is on the topic now, each alert once, partition by partition.

    Raises:
        SinkUnavailable: the broker does not answer in time.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=list(settings.bootstrap),
            security_protocol=settings.security_protocol,
            enable_auto_commit=False,
            group_id=None,
        )
    except FAILURES as error:
        raise unavailable(error, settings, "read back") from error
    try:
        partitions = [
            TopicPartition(settings.topic, number) for number in consumer.partitions_for_topic(settings.topic) or ()
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + timeout_s
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the topic was not read to its end within {timeout_s:g} s")
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    feature = json.loads(record.value)
                    found[feature["id"]] = feature
        return list(found.values())
    except FAILURES as error:
        raise unavailable(error, settings, "read back") from error
    finally:
        consumer.close()
