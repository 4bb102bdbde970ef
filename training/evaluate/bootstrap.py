"""Intervals that know that tiles of one event are alike: whole events are drawn, never tiles.

An AUROC is a share of won pairs. Counted for each pair of events once, a draw of events with multiplicities w has

    AUROC(w) = w' W w / w' M w,   W[e, f] = pairs won, M[e, f] = pairs there are,

of the positives of event e and the negatives of event f: exactly what the drawn tiles would give (Efron & Tibshirani
1993, chapter 8, with events as the sampling unit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]


def event_draws(rng: np.random.Generator, events: int, draws: int) -> Float64Array:
    """How often each event is drawn, with replacement and as many as there are.  (draws, events)"""
    return rng.multinomial(events, np.full(events, 1 / events), size=draws).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """Won and all pairs of positives (rows) and negatives (columns), by event."""

    wins: Float64Array
    """Pairs whose positive scores higher, ties counting half.  (E, E)"""
    pairs: Float64Array
    """Pairs there are.  (E, E)"""

    @classmethod
    def of(
        cls,
        positive: FloatArray,
        negative: FloatArray,
        positive_event: IntArray,
        negative_event: IntArray,
        events: int,
    ) -> Self:
        """Count the pairs of scores whose events are numbered 0 to ``events - 1``."""
        wins = np.zeros((events, events))
        for f in np.unique(negative_event):
            against = np.sort(negative[negative_event == f])
            below = np.searchsorted(against, positive, side="left")
            not_above = np.searchsorted(against, positive, side="right")
            wins[:, f] = np.bincount(positive_event, weights=(below + not_above) / 2, minlength=events)
        p = np.bincount(positive_event, minlength=events).astype(np.float64)
        n = np.bincount(negative_event, minlength=events).astype(np.float64)
        return cls(wins=wins, pairs=np.outer(p, n))

    @classmethod
    def within(
        cls,
        positive: FloatArray,
        negative: FloatArray,
        positive_event: IntArray,
        negative_event: IntArray,
        events: int,
        positive_stratum: IntArray,
        negative_stratum: IntArray,
    ) -> Self:
        """Count only the pairs that lie in one stratum: how the score orders what another score cannot tell apart."""
        wins, pairs = np.zeros((events, events)), np.zeros((events, events))
        for stratum in np.intersect1d(positive_stratum, negative_stratum):
            p, n = positive_stratum == stratum, negative_stratum == stratum
            part = cls.of(positive[p], negative[n], positive_event[p], negative_event[n], events)
            wins += part.wins
            pairs += part.pairs
        return cls(wins=wins, pairs=pairs)

    def auroc(self) -> float | None:
        """Share of pairs won; None without a pair."""
        total = self.pairs.sum()
        return float(self.wins.sum() / total) if total else None

    def drawn(self, draws: Float64Array) -> Float64Array:
        """The AUROC of each draw, NaN for a draw without a pair.  (draws,)"""
        won, all_pairs = (np.einsum("de,de->d", draws @ counts, draws) for counts in (self.wins, self.pairs))
        out = np.full(len(draws), np.nan)
        np.divide(won, all_pairs, out=out, where=all_pairs > 0)
        return out

    def of_event(self, event: int) -> float | None:
        """The AUROC within one event."""
        pairs = self.pairs[event, event]
        return float(self.wins[event, event] / pairs) if pairs else None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of the draws."""

    low: float | None
    """None where fewer than two events make it meaningless."""
    high: float | None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether a difference is one; None where there is no interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


def interval(values: Float64Array, events: int) -> Interval:
    """Percentile interval of drawn figures, draws without a pair left out.

    ``events`` is how many have a tile in it: of fewer than two nothing can be said about the next one.
    """
    finite = values[np.isfinite(values)]
    if events < 2 or not len(finite):
        return Interval(low=None, high=None)
    low, high = np.quantile(finite, (0.025, 0.975))
    return Interval(low=float(low), high=float(high))


def events_in(*counts: PairCounts) -> int:
    """How many events have a positive or a negative in any of the counts."""
    there: Sequence[npt.NDArray[np.bool_]] = [
        (each.pairs.sum(axis=0) > 0) | (each.pairs.sum(axis=1) > 0) for each in counts
    ]
    return int(np.any(there, axis=0).sum())
