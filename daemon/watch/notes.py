"""What the watcher writes beside a cursor: how to search from now on, and where it stands in a window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daemon.watch.catalogs import TimeAxis
from daemon.watch.paging import Place
from daemon.watch.stac_times import format_time, parse_time
from daemon.watch.windows import Window


@dataclass(frozen=True, kw_only=True)
class OpenWindow:
    """A window that was being read: the checkpoint after a page."""

    window: Window
    sweep: bool
    """It is a long one."""
    asked_at: datetime
    """When it was begun: where the cursor goes once it is read."""
    slice_start: datetime
    """Start of the slice that was being read; the earlier ones are closed."""
    area: str
    """The area that was being read; those before it are done with this slice."""
    place: Place


@dataclass(frozen=True, kw_only=True)
class Note:
    """The note of one cursor."""

    axis: TimeAxis = "datetime"
    """What polls search by."""
    open: OpenWindow | None = None

    @classmethod
    def read(cls, text: str | None) -> Note:
        """The note in ``text``; what is not understood (of a newer version, say) counts as not written."""
        try:
            told = json.loads(text or "{}")
            return cls(axis=_axis(told.get("axis")), open=_open(told["open"]) if told.get("open") else None)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self) -> str:
        """The note as text."""
        told: dict[str, Any] = {"axis": self.axis}
        if self.open is not None:
            at = self.open
            told["open"] = {
                "start": format_time(at.window.start),
                "end": format_time(at.window.end),
                "axis": at.window.axis,
                "sweep": at.sweep,
                "asked_at": format_time(at.asked_at),
                "slice_start": format_time(at.slice_start),
                "area": at.area,
                "place": at.place.to_json(),
            }
        return json.dumps(told)


def _axis(value: object) -> TimeAxis:
    return "updated" if value == "updated" else "created" if value == "created" else "datetime"


def _open(told: Mapping[str, Any]) -> OpenWindow:
    return OpenWindow(
        window=Window(start=parse_time(told["start"]), end=parse_time(told["end"]), axis=_axis(told["axis"])),
        sweep=bool(told["sweep"]),
        asked_at=parse_time(told["asked_at"]),
        slice_start=parse_time(told["slice_start"]),
        area=str(told["area"]),
        place=Place.from_json(told["place"], axis=_axis(told["axis"])),
    )
