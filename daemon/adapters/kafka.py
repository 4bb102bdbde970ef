"""Alerts to a Kafka topic: the one door of kafka-python.

The producer is idempotent with ``acks=all``. A broker that is down costs a failed delivery, never the
daemon: the client is made on the first ``send`` and thrown away after a failure, because what became of
a message whose time ran out is unknown and a fresh producer id keeps it from being mixed up with later ones.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.admin import KafkaAdminClient

from daemon.errors import ConfigError, SinkUnavailable
from daemon.publish.sinks import DeliveryResult, Message


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """Which broker, which topic, and how long to try."""

    bootstrap: tuple[str, ...]
    """``host:port`` of at least one broker."""
    topic: str = "vigie.alerts.v1"
    create_topic: bool = True
    """Create the topic where it does not exist and the broker lets us."""
    partitions: int = 3
    """Partitions of a topic that is created here."""
    replication: int = 1
    """Replicas of a topic that is created here; from 3 on, two must confirm each message."""
    delivery_timeout_s: float = 60.0
    """How long one delivery is tried. Below about 30 s the restart of a crashed broker outlasts it."""
    connect_timeout_s: float = 5.0
    security_protocol: str = "PLAINTEXT"
    """``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``."""
    ca_file: Path | None = None
    """PEM of the authority that signed the broker's certificate; None: the system's."""
    cert_file: Path | None = None
    """PEM of the client certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its private key."""
    sasl_mechanism: str | None = None
    """``PLAIN``, ``SCRAM-SHA-256`` or ``SCRAM-SHA-512``."""
    username: str | None = None
    password_file: Path | None = None
    """File that holds the SASL password; read when a connection is opened, so that it can be rotated."""


_REMEDIES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError),
        "check sasl_mechanism, username and password_file",
    ),
    (
        (kafka_errors.AuthorizationError,),
        "give this user WRITE and DESCRIBE on the topic and IDEMPOTENT_WRITE on the cluster",
    ),
    (
        (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError),
        "create the topic, or set create_topic: true",
    ),
    (
        (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        "raise max.message.bytes of the topic, then release the parked alert",
    ),
    (
        (kafka_errors.NotEnoughReplicasError, kafka_errors.NotEnoughReplicasAfterAppendError),
        "too few replicas are in sync: bring the other brokers back",
    ),
    (
        (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError, OSError),
        "check that the broker runs and can be reached; delivery is tried again",
    ),
)
"""Remedy for each family of errors, first match wins."""

FAILURES: tuple[type[Exception], ...] = (kafka_errors.KafkaError, OSError, RuntimeError, ValueError)
"""What kafka-python raises for a broker or a configuration that does not work."""
_REFUSALS = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


def unavailable(error: Exception, settings: KafkaSettings, doing: str) -> SinkUnavailable:
    """Translate any failure of the client into the daemon's own error, with a remedy."""
    remedy = next(
        (text for kinds, text in _REMEDIES if isinstance(error, kinds)),
        "see the broker's log; delivery is tried again",
    )
    told = str(error) or type(error).__name__
    where = f"topic {settings.topic} at {', '.join(settings.bootstrap)}"
    translated = SinkUnavailable(f"could not {doing} {where}: {told}; {remedy}")
    translated.__cause__ = error
    return translated


class KafkaSink:
    """A sink on one topic; keyed messages keep their order."""

    def __init__(self, settings: KafkaSettings, *, name: str = "kafka") -> None:
        if not settings.bootstrap:
            raise ConfigError("kafka.bootstrap is empty; name at least one broker as host:port")
        if settings.delivery_timeout_s < 1.0:
            raise ConfigError(f"kafka.delivery_timeout_s is {settings.delivery_timeout_s}; use 1 s or more")
        self._settings = settings
        self._name = name
        self._producer: Any = None
        self._last_error: SinkUnavailable | None = None

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Deliver in waves that hold at most one message of each key.

        An idempotent producer alone keeps the order of a partition only until a batch expires: the next
        one may then still land. With one message of a key under way nothing can overtake it. After a wave
        with a failure the later ones are not tried, so that the whole call is bounded by one delivery timeout.
        """
        results: dict[int, DeliveryResult] = {}
        broken: SinkUnavailable | None = None
        for wave in _waves(messages):
            if broken is None:
                outcome = self._send_checked([messages[index] for index in wave])
                results.update(zip(wave, outcome, strict=True))
                broken = next((result.error for result in outcome if result.error and not result.refused), None)
                if broken is not None:
                    self.close()
            else:
                for index in wave:
                    results[index] = DeliveryResult(alert_id=messages[index].alert_id, error=broken)
        if messages:
            self._last_error = broken
        return [results[index] for index in range(len(messages))]

    def ping(self) -> None:
        """Raise SinkUnavailable where no broker accepts a connection or the last delivery failed."""
        self._connect_one()
        if self._last_error is not None:
            raise self._last_error

    def close(self) -> None:
        """Give back the connection; the next ``send`` opens a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=2.0 if self._last_error is None else 0.0)

    def _send_checked(self, wave: Sequence[Message]) -> list[DeliveryResult]:
        """Send a wave, and each message that was refused once more alone.

        One message too large condemns its whole batch, and an idempotent producer fails everything after it
        with the same error: so a refusal ends the producer, and only one that is met alone is believed.
        """
        outcome = self._send_wave(wave)
        for index, result in enumerate(outcome):
            if result.refused:
                self.close()
                if len(wave) > 1:
                    outcome[index] = self._send_wave([wave[index]])[0]
                    if outcome[index].refused:
                        self.close()
        return outcome

    def _send_wave(self, wave: Sequence[Message]) -> list[DeliveryResult]:
        try:
            producer = self._open()
        except SinkUnavailable as error:
            return [DeliveryResult(alert_id=message.alert_id, error=error) for message in wave]
        futures: list[Any] = []
        for message in wave:
            try:
                futures.append(
                    producer.send(
                        self._settings.topic, value=message.value, key=message.key, headers=list(message.headers)
                    )
                )
            except FAILURES as error:
                futures.append(error)
        timeout_s = self._settings.delivery_timeout_s + 5.0
        # Each future below tells its own story, and one that is not done by now fails there.
        with contextlib.suppress(*FAILURES):
            producer.flush(timeout=timeout_s)
        return [self._result(message, future) for message, future in zip(wave, futures, strict=True)]

    def _result(self, message: Message, future: Any) -> DeliveryResult:
        """Read one future. Only a confirmed offset counts as delivered."""
        error = future if isinstance(future, Exception) else None
        if error is None:
            try:
                future.get(timeout=0.1)
            except FAILURES as failure:
                error = failure
        if error is None:
            return DeliveryResult(alert_id=message.alert_id)
        return DeliveryResult(
            alert_id=message.alert_id,
            error=unavailable(error, self._settings, f"deliver alert {message.alert_id} to"),
            refused=isinstance(error, _REFUSALS),
        )

    def _open(self) -> Any:
        if self._producer is None:
            # A client that fails while it starts leaves a thread behind, so knock before making one.
            self._connect_one()
            try:
                if self._settings.create_topic:
                    self._create_topic()
                self._producer = self._new_producer()
            except FAILURES as error:
                raise unavailable(error, self._settings, "open") from error
        return self._producer

    def _new_producer(self) -> Any:
        delivery_ms = int(self._settings.delivery_timeout_s * 1000)
        return kafka.KafkaProducer(
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=delivery_ms,
            request_timeout_ms=min(30_000, delivery_ms),
            max_block_ms=min(30_000, delivery_ms),
            allow_auto_create_topics=False,
            max_request_size=16 * 2**20,  # The broker's limit decides, not ours.
            reconnect_backoff_max_ms=2_000,
            **self._client_options(),
        )

    def _create_topic(self) -> None:
        settings = self._settings
        topic = {
            "num_partitions": settings.partitions,
            "replication_factor": settings.replication,
            "configs": {"min.insync.replicas": "2" if settings.replication >= 3 else "1"},
        }
        # Where this is refused the topic exists, or an operator has to create it: the first send tells which.
        refused = (kafka_errors.TopicAlreadyExistsError, kafka_errors.AuthorizationError)
        with KafkaAdminClient(**self._client_options()) as admin, contextlib.suppress(*refused):
            admin.create_topics({settings.topic: topic}, wait_for_metadata=True)

    def _client_options(self) -> Mapping[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "bootstrap_servers": list(settings.bootstrap),
            "client_id": "vigie",
            "bootstrap_timeout_ms": int(settings.connect_timeout_s * 1000),
            "security_protocol": settings.security_protocol,
        }
        if settings.security_protocol.endswith("SSL"):
            files = {
                "ssl_cafile": settings.ca_file,
                "ssl_certfile": settings.cert_file,
                "ssl_keyfile": settings.key_file,
            }
            options.update({name: str(path) for name, path in files.items() if path is not None})
        if settings.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = settings.sasl_mechanism
            options["sasl_plain_username"] = settings.username
            if settings.password_file is not None:
                options["sasl_plain_password"] = settings.password_file.read_text().strip()
        return options

    def _connect_one(self) -> None:
        """Raise SinkUnavailable where no bootstrap broker accepts a TCP connection."""
        failure: Exception = OSError("no broker is named")
        for address in self._settings.bootstrap:
            host, _, port = address.rpartition(":")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=self._settings.connect_timeout_s):
                    return
            except (OSError, ValueError) as error:
                failure = error
        raise unavailable(failure, self._settings, "reach") from failure


def _waves(messages: Sequence[Message]) -> list[list[int]]:
    """Return indices of ``messages`` in waves: the n-th wave holds the n-th message of every key."""
    waves: list[list[int]] = []
    seen: dict[bytes, int] = {}
    for index, message in enumerate(messages):
        turn = seen.get(message.key, 0)
        seen[message.key] = turn + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(index)
    return waves
