"""Alerts as files in a folder: the sink that CAP, GeoJSON and STAC share.

A file appears under its name only when it is whole, and is synced before a delivery is confirmed. A repeat of a
message comes to the same files, so delivery twice leaves no trace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from daemon.errors import SinkUnavailable
from daemon.publish.sinks import DeliveryResult, Message


class AlertWriter(Protocol):
    """Writes one alert into a folder."""

    def write(self, folder: Path, message: Message) -> None:
        """Write what a message needs, whole and synced; called again with the same message it changes nothing.

        Raises:
            OSError: the folder cannot be written.
        """
        ...


class FolderSink:
    """Hands each message to a writer. Several processes must not share the folder."""

    def __init__(self, folder: Path, writer: AlertWriter, *, name: str) -> None:
        self._folder = folder
        self._writer = writer
        self._name = name

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Write the messages in order; within a key nothing passes a failure."""
        stopped: dict[bytes, SinkUnavailable] = {}
        results = []
        for message in messages:
            if message.key not in stopped:
                try:
                    self._writer.write(self._folder, message)
                except OSError as failure:
                    stopped[message.key] = self._unavailable(message, failure)
            results.append(DeliveryResult(alert_id=message.alert_id, error=stopped.get(message.key)))
        return results

    def ping(self) -> None:
        """Raise SinkUnavailable where the folder cannot be written to."""
        check_writable(self._folder)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _unavailable(self, message: Message, failure: OSError) -> SinkUnavailable:
        translated = SinkUnavailable(
            f"could not write alert {message.alert_id} below {self._folder}: {failure.strerror or failure}; "
            "check the disk's free space and the folder's owner; delivery is tried again"
        )
        translated.__cause__ = failure
        return translated


def check_writable(folder: Path) -> None:
    """Raise :class:`SinkUnavailable`, with the remedy, where nothing can be written into ``folder``."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise SinkUnavailable(f"{nearest} is a file where a folder is needed; move it, or choose another path")
    if not os.access(nearest, os.W_OK):
        raise SinkUnavailable(f"{nearest} cannot be written to; change its owner, or choose another path")
