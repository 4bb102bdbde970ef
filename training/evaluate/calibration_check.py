"""Is a p-value worth its name? Measured false-tile rates beside what a conformal threshold promises.

Let the threshold be the k-th largest of n calibration tiles, k = floor(alpha (n + 1)), as
:meth:`engine.calibrate.Calibration.threshold` takes it. If m normal tiles are exchangeable with them and no two
statistics are equal, the number of those above it is BetaBinomial(m, k, n + 1 - k): the threshold's true rate is
Beta(k, n + 1 - k) (Vovk et al. 2005, the order statistics of uniforms), and the count is binomial given it. So random
halves of one set must keep within its interval of 95 %, whatever the score; lands that nothing was calibrated on need
not, for they are not exchangeable with the others, and how far they stray is what the rates by event say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom

from engine.calibrate import Calibration, back_test
from engine.change import Change, Scales, Weights
from engine.errors import InputMismatch
from engine.tiles import Float32Array
from training.evaluate.bootstrap import event_draws, interval

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Split = Callable[[IntArray, IntArray], tuple[Float32Array, Float32Array]]
"""Rows to calibrate on and rows to test to the statistics of both; what the statistic is scaled by comes from the
former alone."""


@dataclass(frozen=True, kw_only=True)
class CountInterval:
    """Where the number of exceedances lies with 95 % and more."""

    low: int
    high: int
    coverage: float
    """Probability of that; above 0.95, for counts are whole."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Random halves of the same normal tiles, many times."""

    per_1000: float
    calibrated_on: int
    tested_on: int
    rank: int
    """k of the threshold; 0 where a fitted tail set it."""
    extrapolated: bool
    mean_per_1000: float
    """Measured, mean over all splits."""
    low_per_1000: float | None
    """Interval for one split; None where a fitted tail set the threshold, which promises nothing."""
    high_per_1000: float | None
    inside: float | None
    """Share of the splits within it."""
    promised: float | None
    """What that share should be at least, as splits go to infinity."""
    splits: int


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """False tiles of events that nothing was calibrated on."""

    per_1000: float | None
    """All tiles together; None without a tile."""
    low_per_1000: float | None
    """Interval of 95 %, by event."""
    high_per_1000: float | None
    lowest_event: float | None
    """Per 1,000, of an event."""
    highest_event: float | None
    events: int
    tiles: int


@dataclass(frozen=True, kw_only=True)
class Supported:
    """The alert budget that a history of some looks supports."""

    looks: int
    alerts_per_month: float
    """The smallest, all tracks together; below it a fitted tail sets the threshold."""
    asked_is_extrapolated: bool
    """Whether the budget that was asked for is smaller."""


def exceedances(calibrated_on: int, tested_on: int, rank: int) -> CountInterval:
    """The central interval of BetaBinomial(m, k, n + 1 - k).

    Raises:
        InputMismatch: the rank is not 1..n.
    """
    if not 1 <= rank <= calibrated_on:
        raise InputMismatch(f"the {rank}-th largest of {calibrated_on} calibration tiles is no threshold")
    law = betabinom(tested_on, rank, calibrated_on + 1 - rank)
    low, high = (int(law.ppf(q)) for q in (0.025, 0.975))
    return CountInterval(low=low, high=high, coverage=float(law.cdf(high) - law.cdf(low - 1)))


def random_halves(split: Split, tiles: int, per_1000: float, *, splits: int, seed: int) -> Halves:
    """Calibrate on a random half, test on the other, over and over.

    The splits are of the same tiles, so their shares are no independent trials.

    Raises:
        InputMismatch: fewer than two tiles.
    """
    if tiles < 2:
        raise InputMismatch(f"{tiles} normal tiles cannot be halved; give more images")
    rng = np.random.default_rng((seed, 0x4A1F))
    n, m = tiles // 2, tiles - tiles // 2
    rank = math.floor(per_1000 / 1000 * (n + 1))
    bounds = exceedances(n, m, rank) if rank else None
    counts = np.empty(splits)
    for i in range(splits):
        order = rng.permutation(tiles)
        normal, new = split(np.sort(order[:n]), np.sort(order[n:]))
        threshold, _ = Calibration.of(normal).threshold(per_1000 / 1000)
        counts[i] = np.count_nonzero(new > threshold)
    return Halves(
        per_1000=per_1000,
        calibrated_on=n,
        tested_on=m,
        rank=rank,
        extrapolated=bounds is None,
        mean_per_1000=float(1000 * counts.mean() / m),
        low_per_1000=None if bounds is None else 1000 * bounds.low / m,
        high_per_1000=None if bounds is None else 1000 * bounds.high / m,
        inside=None if bounds is None else float(((counts >= bounds.low) & (counts <= bounds.high)).mean()),
        promised=None if bounds is None else bounds.coverage,
        splits=splits,
    )


def of_values(values: Float32Array) -> Split:
    """Statistics that nothing is fitted to.  (T,)"""
    return lambda normal, new: (values[normal], values[new])


def of_changes(change: Change, weights: Weights) -> Split:
    """The joined change of :mod:`engine.change`, scaled by the normal rows.  Parts (T,)"""

    def split(normal: IntArray, new: IntArray) -> tuple[Float32Array, Float32Array]:
        a, b = (
            Change(odeed=change.odeed[rows], xstars=change.xstars[rows], water=change.water[rows])
            for rows in (normal, new)
        )
        scales = Scales.of(a)
        return scales.joined(a, weights), scales.joined(b, weights)

    return split


def grouped(flagged: BoolArray, group: IntArray, *, draws: int, seed: int) -> Grouped:
    """The rate of flagged tiles, all of them normal, and its interval over whole events.  (T,) each"""
    numbers, at = np.unique(group, return_inverse=True)
    tiles = np.bincount(at, minlength=len(numbers)).astype(np.float64)
    hits = np.bincount(at, weights=flagged.astype(np.float64), minlength=len(numbers))
    times = event_draws(np.random.default_rng((seed, 0x6E0)), max(len(numbers), 1), draws)
    drawn = np.full(draws, np.nan)
    if len(numbers):
        drawn = 1000 * (times @ hits) / (times @ tiles)
    bounds = interval(drawn, len(numbers))
    each = 1000 * hits / tiles
    return Grouped(
        per_1000=float(1000 * hits.sum() / tiles.sum()) if len(numbers) else None,
        low_per_1000=bounds.low,
        high_per_1000=bounds.high,
        lowest_event=float(each.min()) if len(numbers) else None,
        highest_event=float(each.max()) if len(numbers) else None,
        events=len(numbers),
        tiles=len(flagged),
    )


def supported(looks: int, looks_per_month: float, alerts_per_month: float, tracks: int) -> Supported:
    """What :func:`engine.calibrate.back_test` says of a history of so many looks, with the budget shared by tracks.

    It depends on the number of looks alone, so the history may be of any one cell.
    """
    history = np.arange(looks, dtype=np.float32)
    budget = back_test(
        [{"cell": float(value)} for value in history],
        {"cell": []},
        min_tiles=1,
        alerts_per_month=alerts_per_month / tracks,
        looks_per_month=looks_per_month,
        calibration=Calibration.of(history),
    )
    return Supported(
        looks=looks,
        alerts_per_month=tracks * budget.supported_alerts_per_month,
        asked_is_extrapolated=budget.extrapolated,
    )
