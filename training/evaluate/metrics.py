"""How well scores tell positives from negatives: areas, rates, and what one score knows beyond another.

Higher scores should mean positive. All take plain arrays of finite scores and say what is undefined by an error or
by None, never by NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from training.errors import TrainingDataInvalid

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


def auroc(positive: FloatArray, negative: FloatArray) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann & Whitney 1947).

    Raises:
        TrainingDataInvalid: one side is empty.
    """
    p, n = _both(positive, negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))


def auroc_within(
    positive: FloatArray, negative: FloatArray, positive_group: IntArray, negative_group: IntArray
) -> float | None:
    """Mean of the AUROCs within each group (an image) that has both kinds, each counting the same; None without one."""
    groups = np.intersect1d(positive_group, negative_group)
    if not len(groups):
        return None
    each = [auroc(positive[positive_group == group], negative[negative_group == group]) for group in groups]
    return float(np.mean(each))


def average_precision(positive: FloatArray, negative: FloatArray) -> float:
    """Area under precision over recall, as the sum of precision times gained recall; equal scores are one step.

    It depends on how many negatives there are for each positive, so compare it within one set of tiles only.

    Raises:
        TrainingDataInvalid: one side is empty.
    """
    p, _ = _both(positive, negative)
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum((order < p).astype(np.int64))
    last_of_equals = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, called = hits[last_of_equals], last_of_equals + 1
    return float(np.sum(np.diff(hits, prepend=0) / p * hits / called))


def false_positive_rate(positive: FloatArray, negative: FloatArray, recall: float = 0.95) -> float:
    """Share of negatives at or above the highest threshold that still calls ``recall`` of the positives.

    Raises:
        TrainingDataInvalid: one side is empty.
    """
    p, _ = _both(positive, negative)
    # The guard keeps 0.95 * 20 from becoming 20 by rounding.
    needed = math.ceil(recall * p - 1e-9)
    threshold = np.sort(positive)[p - needed]
    return float((negative >= threshold).mean())


def strata_of(values: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Which of ``count`` quantile strata each value is in; equal values share one, so there may be fewer.  (n,)"""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def joint_strata(others: Sequence[FloatArray], bins: int) -> npt.NDArray[np.int64]:
    """One stratum for each combination of the others' quantile bins that occurs.  (n,), from (n,) each"""
    each = np.stack([strata_of(np.asarray(values), bins) for values in others], axis=1)
    _, stratum = np.unique(each, axis=0, return_inverse=True)
    return np.asarray(stratum, dtype=np.int64).reshape(len(each))


def z_sum(*scores: FloatArray) -> npt.NDArray[np.float64]:
    """The scores' sum after each is brought to mean 0 and standard deviation 1 over what is given; no label enters.

    A score that is the same everywhere adds nothing.
    """
    total = np.zeros(len(scores[0]))
    for score in scores:
        spread = float(np.std(score, dtype=np.float64))
        if spread > 0:
            total += (score - np.mean(score, dtype=np.float64)) / spread
    return total


def _both(positive: FloatArray, negative: FloatArray) -> tuple[int, int]:
    p, n = len(positive), len(negative)
    if p == 0 or n == 0:
        raise TrainingDataInvalid(f"an AUROC needs both kinds of tiles; there are {p} flooded and {n} dry ones")
    return p, n
