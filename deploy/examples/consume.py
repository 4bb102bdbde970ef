"""Prints alerts: ``python deploy/examples/consume.py 127.0.0.1:9092 vigie.alerts.v1`` (needs kafka-python)."""

import json
import sys

from kafka import KafkaConsumer

seen = set()  # Delivery is at least once: what has been seen is dropped.
for record in KafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], auto_offset_reset="earliest"):
    headers, alert = dict(record.headers), json.loads(record.value)
    if headers["ce_id"] not in seen:
        seen.add(headers["ce_id"])
        said = alert["properties"]
        print(
            said["sensing_time"], said["area"], said["kind"], said["state"], said["sequence"], alert["id"], flush=True
        )
