"""A sink that keeps messages in memory: the twin of Kafka for tests, with failures on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daemon.errors import SinkUnavailable
from daemon.publish.sinks import DeliveryResult, Message


class MemorySink:
    """Keeps what it is sent, in order, repeats included."""

    def __init__(
        self,
        *,
        name: str = "memory",
        max_bytes: int = 1_000_000,
        fails: Callable[[Message], bool] = lambda message: False,
    ) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._fails = fails
        self.messages: list[Message] = []
        """Everything delivered so far."""
        self.down = False
        """While True nothing is delivered, as with a broker that is down."""

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Keep each message, unless the sink is down, the message too large, or ``fails`` says so."""
        results: list[DeliveryResult] = []
        stopped: set[bytes] = set()
        for message in messages:
            error: SinkUnavailable | None = None
            refused = False
            if self.down or message.key in stopped or self._fails(message):
                error = SinkUnavailable(f"sink {self._name} is down; bring it back")
                stopped.add(message.key)
            elif len(message.value) > self._max_bytes:
                error = SinkUnavailable(f"alert {message.alert_id} is larger than {self._max_bytes} bytes")
                refused = True
            else:
                self.messages.append(message)
            results.append(DeliveryResult(alert_id=message.alert_id, error=error, refused=refused))
        return results

    def ping(self) -> None:
        """Raise SinkUnavailable while the sink is down."""
        if self.down:
            raise SinkUnavailable(f"sink {self._name} is down; bring it back")

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""
