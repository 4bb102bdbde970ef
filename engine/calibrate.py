"""From a raw statistic to what a duty officer can act on: p-values, thresholds, and an alert budget.

A p-value here is conformal (Vovk et al. 2005): the share of calibration tiles, on which nothing had happened, that
look at least as strange, ``(1 + #{c ≥ s}) / (n + 1)``. It needs no model of the scores, only that a normal new tile
is exchangeable with the calibration tiles; and it can never be smaller than ``1 / (n + 1)``. Beyond that a
generalised Pareto tail is fitted (peaks over threshold, probability-weighted moments: Hosking & Wallis 1987) and the
result is marked *extrapolated*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.tiles import BoolArray, Float32Array

TAIL_SHARE = 0.1
"""Share of the calibration tiles that the tail is fitted on."""
TAIL_MIN = 20
"""Exceedances below which no tail is fitted."""
SHAPE_MAX = 0.5
"""Largest tail shape; above it a tail has no variance and a fit on so few points is not to be believed."""

BEYOND_DATA = 1000.0
"""How far a fitted tail is believed: no p-value is more than so many times smaller than the data alone allow."""
MAX_FLAGGED_SHARE = 0.01
"""However large the budget or quiet the place, at most this share of its normal tiles is flagged: a looser threshold
joins chance neighbours to an event and blurs its outline."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """A generalised Pareto tail above ``start``."""

    start: float
    share: float
    """Share of calibration tiles above ``start``."""
    shape: float
    scale: float

    @classmethod
    def fit(cls, ascending: Float32Array) -> Tail | None:
        """Fit on the top :data:`TAIL_SHARE` of sorted statistics; None where there are too few or they are equal."""
        n = len(ascending)
        count = int(n * TAIL_SHARE)
        if count < TAIL_MIN:
            return None
        start = float(ascending[n - count - 1])
        excess = ascending[n - count :].astype(np.float64) - start
        if excess[-1] <= 0:
            return None
        # Hosking & Wallis (1987), eqs. 5-6, with their k = -shape: a0 = mean, a1 = sum of (1 - p_i) x_(i) / n.
        position = (np.arange(1, count + 1) - 0.35) / count
        a0 = float(excess.mean())
        a1 = float(np.mean((1 - position) * excess))
        if a0 <= 2 * a1:
            shape, scale = SHAPE_MAX, a0 * (1 - SHAPE_MAX)
        else:
            shape = 2 - a0 / (a0 - 2 * a1)
            # A bounded tail (negative shape) would call anything beyond its end impossible: exponential instead.
            shape = min(max(shape, 0.0), SHAPE_MAX)
            scale = a0 * (1 - shape)
        return cls(start=start, share=count / n, shape=shape, scale=max(scale, 1e-9))

    def survival(self, statistic: float) -> float:
        """Probability that a normal tile exceeds ``statistic`` (≥ ``start``)."""
        excess = max(statistic - self.start, 0.0) / self.scale
        if self.shape < 1e-6:
            return self.share * math.exp(-excess)
        return float(self.share * (1 + self.shape * excess) ** (-1 / self.shape))

    def quantile(self, probability: float) -> float:
        """The statistic that a normal tile exceeds with ``probability`` (≤ ``share``)."""
        ratio = self.share / probability
        if self.shape < 1e-6:
            return self.start + self.scale * math.log(ratio)
        return float(self.start + self.scale * (ratio**self.shape - 1) / self.shape)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Statistics of n tiles on which nothing had happened."""

    ascending: Float32Array
    """Sorted, finite.  (n,)"""
    tail: Tail | None

    @classmethod
    def of(cls, statistics: Float32Array) -> Calibration:
        """Calibrate on the finite ones of ``statistics``, of any shape."""
        ascending = np.sort(statistics[np.isfinite(statistics)].astype(np.float32))
        return cls(ascending=ascending, tail=Tail.fit(ascending))

    def __len__(self) -> int:
        return len(self.ascending)

    def p_values(self, statistics: Float32Array) -> tuple[Float32Array, BoolArray]:
        """p-value of each tile, and whether the fitted tail gave it.  (N,), (N,)

        A statistic that is not finite gets p = 1: nothing is known against it.
        """
        n = len(self.ascending)
        at_least = n - np.searchsorted(self.ascending, statistics, side="left")
        p = (1.0 + at_least) / (n + 1.0)
        extrapolated = (at_least == 0) & np.isfinite(statistics) & (self.tail is not None)
        if self.tail is not None:
            least = 1.0 / ((n + 1.0) * BEYOND_DATA)
            for i in np.flatnonzero(extrapolated):
                p[i] = min(p[i], max(self.tail.survival(float(statistics[i])), least))
        p = np.where(np.isfinite(statistics), p, 1.0)
        return p.astype(np.float32), extrapolated

    def threshold(self, alpha: float) -> tuple[float, bool]:
        """The statistic that a share ``alpha`` of normal tiles exceeds, and whether the fitted tail gave it.

        Where neither the calibration tiles nor a tail reach so far, the largest statistic seen is taken.
        """
        n = len(self.ascending)
        if n == 0:
            return math.inf, True
        allowed = math.floor(alpha * (n + 1)) - 1
        if allowed >= 0:
            return float(self.ascending[n - 1 - allowed]), False
        if self.tail is None:
            return float(self.ascending[-1]), True
        return max(float(self.ascending[-1]), self.tail.quantile(alpha)), True


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an alert budget means on a place's own history."""

    threshold: float
    """Statistic above which a tile is flagged."""
    extrapolated: bool
    """Whether the budget is smaller than the history can support, so that a fitted tail set the threshold."""
    supported_alerts_per_month: float
    """The smallest budget that this history supports without extrapolation."""
    false_tiles_per_1000: float
    """Share of the history's own tiles above the threshold, per 1,000."""


def alert_threshold(statistics: Mapping[str, float], neighbours: Mapping[str, Sequence[str]], min_tiles: int) -> float:
    """The highest threshold at which ``min_tiles`` touching tiles of one look are all at or above it.

    Tiles are added from the strangest down, joined where they touch; −inf where no group is ever large enough.
    """
    parent: dict[str, str] = {}
    size: dict[str, int] = {}

    def root(cell: str) -> str:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    finite = [cell for cell, value in statistics.items() if math.isfinite(value)]
    for cell in sorted(finite, key=lambda c: (-statistics[c], c)):
        parent[cell], size[cell] = cell, 1
        for other in neighbours[cell]:
            if other in parent:
                a, b = root(cell), root(other)
                if a != b:
                    parent[a] = b
                    size[b] += size[a]
        if size[root(cell)] >= min_tiles:
            return statistics[cell]
    return -math.inf


def back_test(
    looks: Iterable[Mapping[str, float]],
    neighbours: Mapping[str, Sequence[str]],
    *,
    min_tiles: int,
    alerts_per_month: float,
    looks_per_month: float,
    calibration: Calibration,
) -> Budget:
    """The threshold that keeps an alert budget on a place's own history.

    Each look of the history, compared with the others, has a highest threshold at which it would have raised an
    alert. With k of L looks above the threshold, a normal new look raises one with probability ≤ (k + 1) / (L + 1).

    Args:
        looks: per look, the statistic of each cell against the other looks.
        neighbours: the touching cells of each cell.
        min_tiles: flagged tiles that must touch before there is an alert.
        alerts_per_month: the budget.
        looks_per_month: how often the place is seen.
        calibration: the same statistics, pooled.
    """
    peaks = sorted((alert_threshold(look, neighbours, min_tiles) for look in looks), reverse=True)
    supported = looks_per_month / (len(peaks) + 1)
    allowed = math.floor(alerts_per_month / supported + 1e-9) - 1
    highest = peaks[0] if peaks else -math.inf
    extrapolated = allowed < 0
    if not extrapolated:
        threshold = peaks[allowed] if allowed < len(peaks) else -math.inf
    else:
        # The tail carries the highest alert of the history on to the share of it that the budget allows.
        share = float(calibration.p_values(np.asarray([highest], dtype=np.float32))[0][0])
        beyond, _ = calibration.threshold(share * alerts_per_month / supported)
        threshold = max(highest, beyond)
    threshold = max(threshold, calibration.threshold(MAX_FLAGGED_SHARE)[0])
    above = float(np.mean(calibration.ascending > threshold)) if len(calibration) else 0.0
    return Budget(
        threshold=threshold,
        extrapolated=extrapolated,
        supported_alerts_per_month=supported,
        false_tiles_per_1000=1000.0 * above,
    )
