"""Which spans of time a poll asks a catalog for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from daemon.watch.catalogs import TimeAxis


@dataclass(frozen=True, kw_only=True)
class Window:
    """A span of time over one property of Items, both ends included."""

    start: datetime
    end: datetime
    axis: TimeAxis = "datetime"

    def slices(self, longest: timedelta | None) -> tuple[Window, ...]:
        """The same span cut into pieces of at most ``longest``, oldest first, neighbours sharing an instant.

        Since both ends are included, an Item on a seam is listed twice and never missed.
        """
        if longest is None or self.end - self.start <= longest:
            return (self,)
        if longest <= timedelta():
            raise ValueError(f"a window cannot be cut into pieces of {longest}")
        cuts = [self.start]
        while cuts[-1] + longest < self.end:
            cuts.append(cuts[-1] + longest)
        cuts.append(self.end)
        return tuple(Window(start=start, end=end, axis=self.axis) for start, end in pairwise(cuts))

    def halves(self) -> tuple[Window, ...]:
        """The window cut in two at a whole second, sharing it; empty where it spans no more than one second."""
        middle = (self.start + (self.end - self.start) / 2).replace(microsecond=0)
        if self.end - self.start <= timedelta(seconds=1) or not self.start < middle < self.end:
            return ()
        return (
            Window(start=self.start, end=middle, axis=self.axis),
            Window(start=middle, end=self.end, axis=self.axis),
        )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far polls of a catalog reach back."""

    look_back: timedelta = timedelta(days=2)
    """Before the cursor, by sensing time: catalogs publish late."""
    overlap: timedelta = timedelta(hours=1)
    """Before the cursor, by ``created`` or ``updated``: those clocks are not ours, and pages are not transactions."""
    ahead: timedelta = timedelta(hours=1)
    """After now: a catalog's clock may be ahead of ours."""
    sweep_every: timedelta = timedelta(days=1)
    """Between two long windows by sensing time."""
    sweep: timedelta = timedelta(days=30)
    """How far a long window reaches back."""


def sweep_due(swept_at: datetime | None, now: datetime, pace: Pace) -> bool:
    """Whether the long window is to be read: at first, when its time has come, and when the clock went back."""
    return swept_at is None or now < swept_at or now - swept_at >= pace.sweep_every


def next_window(cursor: datetime, now: datetime, pace: Pace, *, axis: TimeAxis, sweep: bool) -> Window:
    """What to ask for, when everything up to ``cursor`` is stored.

    It always begins before ``cursor``, so consecutive windows leave no gap, and where the clock was set back it begins
    before ``now`` too. A sweep is by sensing time, whatever the axis of the polls between.
    """
    known = min(cursor, now)
    if sweep:
        return Window(start=known - max(pace.sweep, pace.look_back), end=now + pace.ahead)
    back = pace.look_back if axis == "datetime" else pace.overlap
    return Window(start=known - back, end=now + pace.ahead, axis=axis)
