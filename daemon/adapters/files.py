"""Alerts to a file of JSON lines, for who has no broker.

Each line is one CloudEvent in structured mode (CloudEvents JSON format 1.0). The file is only appended
to, and synced before a delivery is confirmed. Delivery is at least once: a crash between the write and
its confirmation leaves the alert twice, with one id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from daemon.adapters.folder_sink import check_writable
from daemon.adapters.whole_file import sync_folder
from daemon.errors import SinkUnavailable
from daemon.publish.sinks import DeliveryResult, Message, structured_event


class JsonLinesSink:
    """Appends to one file; several processes must not share it."""

    def __init__(self, path: Path, *, name: str = "files") -> None:
        self._path = path
        self._name = name
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Append all messages and sync once; all are confirmed, or none is."""
        error: SinkUnavailable | None = None
        if messages:
            lines = [
                json.dumps(structured_event(message), separators=(",", ":"), ensure_ascii=False) for message in messages
            ]
            try:
                file = self._open()
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError as failure:
                error = self._unavailable(failure)
                self._discard()
        return [DeliveryResult(alert_id=message.alert_id, error=error) for message in messages]

    def ping(self) -> None:
        """Raise SinkUnavailable where the folder cannot be written to."""
        check_writable(self._path.parent)
        if self._path.exists() and not os.access(self._path, os.W_OK):
            raise SinkUnavailable(f"{self._path} cannot be written to; change its owner, or choose another path")

    def close(self) -> None:
        """Close the file; the next ``send`` opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            existed = self._path.exists()
            # Not append mode: a torn last line is cut off first. The file outlives this method; close() ends it.
            file = self._path.open("r+b" if existed else "xb")
            try:
                _cut_torn_line(file)
                if not existed:
                    sync_folder(self._path.parent)
            except OSError:
                file.close()
                raise
            self._file = file
        return self._file

    def _discard(self) -> None:
        """Drop the file after a failed write; opening it again cuts off what was half written."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                # Closing flushes, and on a full disk that fails again; the file is closed all the same.
                return

    def _unavailable(self, failure: OSError) -> SinkUnavailable:
        translated = SinkUnavailable(
            f"could not append alerts to {self._path}: {failure.strerror or failure}; "
            "check the disk's free space and the file's owner; delivery is tried again"
        )
        translated.__cause__ = failure
        return translated


def _cut_torn_line(file: BinaryIO) -> None:
    """Move to the end of the last complete line, dropping what a crash left behind it."""
    end = file.seek(0, os.SEEK_END)
    keep = end
    while keep > 0:
        start = max(0, keep - 65_536)
        file.seek(start)
        newline = file.read(keep - start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep != end:
        file.truncate(keep)
    file.seek(keep)
