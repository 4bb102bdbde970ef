"""Whether a collection still brings what it usually brings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

_KEPT = 500
_FEWEST_GAPS = 4
_FACTOR = 3.0
_FLOOR = timedelta(hours=12)
"""Production and publication take hours on any day, so no shorter silence means anything."""
_PASS = timedelta(minutes=10)
"""Tiles of one pass are sensed within minutes: they are one sign of life, not many."""


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How fresh one collection of a catalog is, over the areas that are watched."""

    collection: str
    newest: datetime | None
    """Sensing time of its newest Item, aware UTC; None: it has never listed any."""
    usual_gap: timedelta | None
    """What nine in ten of the gaps between its passes do not exceed; None: too few are known."""
    limit: timedelta | None
    """A longer silence is unusual; None: unknown."""
    silent: bool
    """It has been silent for longer than ``limit``, or was read whole and has never listed anything."""


class Passes:
    """The passes that the collections of one catalog have shown. Used from one thread at a time."""

    def __init__(self, *, silent_after: timedelta | None = None) -> None:
        """``silent_after``: the limit; none: three usual gaps, and never less than half a day."""
        self._silent_after = silent_after
        self._times: dict[str, set[datetime]] = {}

    def see(self, sensed: Mapping[str, Iterable[datetime]]) -> None:
        """Note the sensing times that a poll has listed, by collection."""
        for collection, times in sensed.items():
            known = self._times.setdefault(collection, set())
            known.update(times)
            if len(known) > _KEPT:
                self._times[collection] = set(sorted(known)[-_KEPT:])

    def freshness(self, collections: Iterable[str], now: datetime) -> tuple[Freshness, ...]:
        """How fresh each of ``collections``, and each other one seen, is at ``now``; by name."""
        return tuple(self._one(name, now) for name in sorted({*collections, *self._times}))

    def _one(self, collection: str, now: datetime) -> Freshness:
        times = sorted(self._times.get(collection, ()))
        usual = _usual_gap(times)
        limit = self._silent_after
        if limit is None and usual is not None:
            limit = max(_FLOOR, _FACTOR * usual)
        newest = times[-1] if times else None
        silent = newest is None or (limit is not None and now - newest > limit)
        return Freshness(collection=collection, newest=newest, usual_gap=usual, limit=limit, silent=silent)


def _usual_gap(times: list[datetime]) -> timedelta | None:
    """The ninth decile of the gaps between passes."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times) if later - earlier > _PASS)
    return gaps[math.ceil(0.9 * len(gaps)) - 1] if len(gaps) >= _FEWEST_GAPS else None
