"""What one poll of one catalog came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from daemon.store.records import PageCounts
from daemon.watch.freshness import Freshness

_MAX_FAULTS = 20


@dataclass(frozen=True, kw_only=True)
class PollReport:
    """The outcome of a poll; counts are of Items as listed, repeats included."""

    catalog: str
    started_at: datetime
    finished_at: datetime
    queries: int
    pages: int
    items: int
    """Items listed."""
    new: int
    """Scenes never seen before."""
    changed: int
    """New versions of known scenes."""
    known: int
    """Scene versions seen before."""
    made_claimable: int
    """Scenes that workers may now take."""
    passed_over: Mapping[str, int]
    """Items not taken, by reason: ``outside``, ``clouded``, ``copy``, ``invalid``, ``unknown sensor``, ``unreadable``,
    ``surplus`` (history beyond the looks that an area wants); ``unlisted`` counts searches that list too little."""
    faults: tuple[str, ...]
    """One sentence for each of the first Items that were refused."""
    newest: Mapping[str, datetime]
    """Area name to the sensing time of the newest Item listed for it, taken or not."""
    sensed: Mapping[str, frozenset[datetime]]
    """Collection to the sensing times of the Items listed for any area, taken or not."""
    error: str | None
    """Why the poll ended early; None where every window was read whole."""
    retry_after_s: float | None
    """Seconds that the catalog asked to wait, with ``error``."""
    freshness: tuple[Freshness, ...] = ()
    """Of each collection, where the poll was read whole."""


@dataclass
class Tally:
    """A report in the making."""

    queries: int = 0
    pages: int = 0
    items: int = 0
    new: int = 0
    changed: int = 0
    known: int = 0
    made_claimable: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    newest: dict[str, datetime] = field(default_factory=dict)
    sensed: dict[str, set[datetime]] = field(default_factory=dict)

    def refuse(self, reason: str, fault: str) -> None:
        """Count an Item that is not taken, and keep the sentence that says why."""
        self.passed_over[reason] += 1
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(fault)

    def add(self, counts: PageCounts) -> None:
        """Count what the store made of a page."""
        self.new += counts.new
        self.changed += counts.changed
        self.known += counts.known
        for fault in counts.refused:
            self.refuse("invalid", fault)

    def see(self, area: str, collection: str, at: datetime) -> None:
        """Note the sensing time of an Item of ``collection`` for an area."""
        self.sensed.setdefault(collection, set()).add(at)
        self.newest[area] = max(at, self.newest.get(area, at))

    def report(
        self, catalog: str, started_at: datetime, finished_at: datetime, error: str | None, retry_after_s: float | None
    ) -> PollReport:
        """Return the finished report."""
        return PollReport(
            catalog=catalog,
            started_at=started_at,
            finished_at=finished_at,
            queries=self.queries,
            pages=self.pages,
            items=self.items,
            new=self.new,
            changed=self.changed,
            known=self.known,
            made_claimable=self.made_claimable,
            passed_over=dict(self.passed_over),
            faults=tuple(self.faults),
            newest=dict(self.newest),
            sensed={collection: frozenset(times) for collection, times in self.sensed.items()},
            error=error,
            retry_after_s=retry_after_s,
        )
