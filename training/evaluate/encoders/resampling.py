"""Intervals of means whose values hang together: whole events are drawn, or images within their class.

Efron & Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 8. Weights are drawn once and shared by all
subjects, so that differences of two subjects are paired.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.evaluate.bootstrap import Interval, event_draws, interval

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]


def unit_weights(rng: np.random.Generator, units: IntArray, draws: int) -> Float64Array:
    """How often each value counts when units (numbered from 0) are drawn with replacement.  (draws, n)"""
    return event_draws(rng, int(units.max()) + 1, draws)[:, units]


def stratum_weights(rng: np.random.Generator, strata: IntArray, draws: int) -> Float64Array:
    """How often each value counts when values are drawn with replacement within their stratum.  (draws, n)"""
    weights = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = event_draws(rng, len(members), draws)
    return weights


def drawn_means(values: npt.NDArray[np.floating], weights: Float64Array) -> Float64Array:
    """The mean of the values (n,) in each draw; NaN where a draw is empty.  (draws,)"""
    total = weights.sum(axis=1)
    out = np.full(len(weights), np.nan)
    np.divide(weights @ values.astype(np.float64), total, out=out, where=total > 0)
    return out


def mean_interval(values: npt.NDArray[np.floating], weights: Float64Array, units: int) -> Interval:
    """The middle 95 % of the drawn means; ``units`` is how many were drawn from."""
    return interval(drawn_means(values, weights), units)
