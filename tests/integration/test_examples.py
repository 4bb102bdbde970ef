"""The examples that consumers start from, run as written, against the real broker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.adapters.kafka import KafkaSettings, KafkaSink
from daemon.kafka_local import LocalBroker
from daemon.publish.alerts import Alert
from tests.require import missing
from tests.unit.test_alerts import make

pytestmark = pytest.mark.server
EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"


@pytest.fixture
def sent(kafka_broker: LocalBroker, topic: str) -> Iterator[list[Alert]]:
    """Three alerts on the topic, the first of them twice."""
    alerts = [make(sequence=n, state="new" if n == 1 else "updated", reference_id=f"ref-{n}") for n in (1, 2, 3)]
    sink = KafkaSink(KafkaSettings(bootstrap=(kafka_broker.bootstrap,), topic=topic, partitions=1))
    assert all(result.delivered for result in sink.send([each.to_message() for each in [alerts[0], *alerts]]))
    yield alerts
    sink.close()


def test_the_python_consumer_prints_each_alert_once(kafka_broker: LocalBroker, topic: str, sent: list[Alert]) -> None:
    script = EXAMPLES / "consume.py"
    code = [line for line in script.read_text().splitlines() if line and not line.startswith(('"""', "import", "from"))]
    assert len(code) <= 10
    process = subprocess.Popen(
        [sys.executable, str(script), kafka_broker.bootstrap, topic], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().split() for _ in sent]
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
    assert [line[-1] for line in lines] == [alert.alert_id for alert in sent]
    assert lines[0][:1] == ["2026-01-02T10:56:21.024000Z"]
    assert [line[-3:-1] for line in lines] == [["new", "1"], ["updated", "2"], ["updated", "3"]]


def test_kcat_prints_every_message_with_its_attributes(
    kafka_broker: LocalBroker, topic: str, sent: list[Alert]
) -> None:
    if shutil.which("kcat") is None:
        missing("kcat", "install it (Debian: apt-get install kcat)")
    done = subprocess.run(
        [str(EXAMPLES / "kcat.sh"), kafka_broker.bootstrap, topic],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines[1::2]] == [sent[0].alert_id, *(each.alert_id for each in sent)]
    for line, alert in zip(lines[2::2], sent, strict=True):
        assert line.startswith(f"key={alert.place} ")
        attributes = dict(pair.split("=", 1) for pair in re.split(r"[ ,](?=ce_|content-type)", line)[1:])
        assert attributes == {name: value.decode() for name, value in alert.to_message().headers}
