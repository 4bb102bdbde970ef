"""Where alerts go: what a sink is handed, what it answers, and the promise that every sink keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.errors import SinkUnavailable

CONTENT_TYPE = "content-type"
"""Header that carries ``datacontenttype`` in the CloudEvents Kafka binary mode."""
PREFIX = "ce_"
"""Prefix of every other attribute's header in that mode."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One alert as it goes over the wire: a CloudEvent 1.0 in Kafka binary mode."""

    alert_id: str
    """``ce_id``: the same for every repeat of this message."""
    key: bytes
    """Messages of one key arrive in the order in which they were handed over."""
    headers: tuple[tuple[str, bytes], ...]
    """CloudEvents attributes, ``ce_`` prefixed, and ``content-type``; values UTF-8."""
    value: bytes
    """The data: a GeoJSON Feature, UTF-8."""


@dataclass(frozen=True, kw_only=True)
class DeliveryResult:
    """What became of one message."""

    alert_id: str
    """The message that this is about."""
    error: SinkUnavailable | None = None
    """Why the sink does not vouch for it; None: it is safely there."""
    refused: bool = False
    """With an error: the sink will never take this message as it is (too large); another try is useless."""

    @property
    def delivered(self) -> bool:
        """True where the sink confirmed the message."""
        return self.error is None


class Sink(Protocol):
    """A place that alerts are written to.

    One thread at a time calls ``send`` and ``close``: the relay's. ``ping`` may come from any thread.
    Making a sink does no input or output, so a daemon starts while its broker is down.

    - ``send`` may block, within a time that the sink was configured with. It answers one result per
      message, in order, and raises nothing for a failed delivery. A result without an error means that
      the message survives a crash of this process and, as far as the sink can promise, of the other side.
      Within one key it stops at the first failure: a message is not delivered before the one ahead of it.
      Only a refused message is passed over.
      A repeat of a delivered message is legal and reaches consumers with the same id, or not at all.
    - ``ping`` may block for a few seconds. It raises :class:`~daemon.errors.SinkUnavailable`, with the
      remedy, where a ``send`` would likely fail now.
    - ``close`` may be called twice; after it, ``send`` opens the sink anew.
    """

    @property
    def name(self) -> str:
        """Short name for logs and metrics, unique in one daemon."""
        ...

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Deliver ``messages`` and say what became of each."""
        ...

    def ping(self) -> None:
        """Raise where the sink cannot be reached."""
        ...

    def close(self) -> None:
        """Give back connections and files."""
        ...


def structured_event(message: Message) -> dict[str, Any]:
    """Return the same event in CloudEvents structured mode, as a JSON object.

    See the CloudEvents JSON format 1.0, section 3: JSON data stands in ``data`` as it is.
    """
    event: dict[str, Any] = {}
    for name, value in message.headers:
        if name == CONTENT_TYPE:
            event["datacontenttype"] = value.decode()
        elif name.startswith(PREFIX):
            event[name.removeprefix(PREFIX)] = value.decode()
    event["data"] = json.loads(message.value)
    return event
