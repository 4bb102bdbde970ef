"""A real Kafka broker for the test session, which tests may kill and start again."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Iterator

import pytest

from daemon.errors import SinkUnavailable
from daemon.kafka_local import LocalBroker, fetch_jars, why_not
from tests.require import missing

OUTAGE = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
"""For tests whose broker goes away: kafka-python 3.0 leaves the socket of a refused connection to the collector."""


@pytest.fixture(scope="session")
def kafka_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    reason = why_not()
    if reason is not None:
        missing("Kafka", reason)
    try:
        fetch_jars()
    except SinkUnavailable as error:
        missing("Kafka", str(error))
    with LocalBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def kafka_broker(kafka_session: LocalBroker) -> Iterator[LocalBroker]:
    """The session's broker, running; whatever a test does to it, the next test finds it running."""
    kafka_session.start()
    yield kafka_session
    kafka_session.start()
    gc.collect()  # What OUTAGE is about comes up here, and not in the next test.


@pytest.fixture
def topic() -> str:
    """The name of a topic that no other test uses."""
    return f"vigie.test.{uuid.uuid4().hex[:12]}"
