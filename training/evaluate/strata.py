"""What a score knows beyond others: how it orders tiles that the others cannot tell apart, and what it adds to them.

Within strata: tiles are cut into quantile bins of every other score, and only pairs of a positive and a negative that
lie in the same bins are compared. So

    AUROC = sum over strata of pairs won / sum over strata of pairs there are,

which weighs a stratum by its pairs; 0.5 is no knowledge. Coarse bins leave some of the others' order inside a stratum,
fine bins leave few pairs: the share of pairs that is compared is told with the figure.

Added value: AUROC of the sum of all z-scores, less that of the others' sum alone, both on the same draws of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from training.evaluate.bootstrap import PairCounts, event_draws, events_in, interval
from training.evaluate.metrics import strata_of, z_sum

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BINS = 5


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """What a score knows beyond others. None is what cannot be said."""

    within: float | None
    """AUROC over pairs of one stratum."""
    within_low: float | None
    """Interval of 95 %, by event."""
    within_high: float | None
    strata: int
    """Strata that hold both kinds."""
    pairs_share: float
    """Share of all pairs that lie in one stratum, 0..1."""
    others_auroc: float | None
    """Of the others' sum of z-scores."""
    fused_auroc: float | None
    """Of that sum with the score's own z-score."""
    added: float | None
    """Fused less the others'."""
    added_low: float | None
    """Interval of 95 %, by event, of the paired difference."""
    added_high: float | None
    n_pos: int
    n_neg: int
    events: int
    """With a tile in it."""


def beyond(
    score: FloatArray,
    others: Sequence[FloatArray],
    positive: BoolArray,
    events: Sequence[str],
    *,
    bins: int = BINS,
    draws: int = 1000,
    seed: int = 0,
) -> Beyond:
    """Judge a score beside others on the same tiles.

    Args:
        score: higher should mean positive.  (n,)
        others: likewise, at least one.  (n,) each
        positive: the label.  (n,)
        events: name of each tile's event; whole events are drawn.  (n,)
        bins: quantile bins of each other score; their products are the strata.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        InputMismatch: arrays of other lengths, a number that is not finite, no other score, or no bin.
    """
    _check(score, others, positive, events, bins)
    names, event = np.unique(np.asarray(events, dtype=np.str_), return_inverse=True)
    stratum = joint_strata(others, bins)
    alone = z_sum(*others)
    fused = z_sum(*others, score)
    counts = _within(score, stratum, positive, event, len(names))
    every, together = (_pairs(values, positive, event, len(names)) for values in (alone, fused))
    times = event_draws(np.random.default_rng((seed, 0x57A)), len(names), draws)
    there = events_in(every)
    inside = interval(counts.drawn(times), events_in(counts))
    gain = interval(together.drawn(times) - every.drawn(times), there)
    others_auroc, fused_auroc = every.auroc(), together.auroc()
    both = np.intersect1d(stratum[positive], stratum[~positive])
    total = float(every.pairs.sum())
    return Beyond(
        within=counts.auroc(),
        within_low=inside.low,
        within_high=inside.high,
        strata=len(both),
        pairs_share=float(counts.pairs.sum()) / total if total else 0.0,
        others_auroc=others_auroc,
        fused_auroc=fused_auroc,
        added=None if others_auroc is None or fused_auroc is None else fused_auroc - others_auroc,
        added_low=gain.low,
        added_high=gain.high,
        n_pos=int(positive.sum()),
        n_neg=int((~positive).sum()),
        events=there,
    )


def joint_strata(others: Sequence[FloatArray], bins: int) -> IntArray:
    """The stratum of each tile: one for each combination of the others' quantile bins that occurs.  (n,)"""
    each = np.stack([strata_of(np.asarray(values), bins) for values in others], axis=1)
    _, stratum = np.unique(each, axis=0, return_inverse=True)
    return np.asarray(stratum, dtype=np.int64).reshape(len(each))


def _within(score: FloatArray, stratum: IntArray, positive: BoolArray, event: IntArray, events: int) -> PairCounts:
    return PairCounts.within(
        score[positive],
        score[~positive],
        event[positive],
        event[~positive],
        events,
        stratum[positive],
        stratum[~positive],
    )


def _pairs(score: FloatArray, positive: BoolArray, event: IntArray, events: int) -> PairCounts:
    return PairCounts.of(score[positive], score[~positive], event[positive], event[~positive], events)


def _check(
    score: FloatArray, others: Sequence[FloatArray], positive: BoolArray, events: Sequence[str], bins: int
) -> None:
    lengths = {len(score), len(positive), len(events), *(len(values) for values in others)}
    if len(lengths) != 1 or not others or bins < 1:
        raise InputMismatch(
            f"{len(others)} other scores in {bins} bins, over arrays of {sorted(lengths)} tiles; one score or more, "
            "one bin or more, and one length are needed"
        )
    if not all(np.isfinite(values).all() for values in (score, *others)):
        raise InputMismatch("a score is not finite; leave out the tiles that lack one, for all scores together")
