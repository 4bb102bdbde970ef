"""Areas and rates against counted examples."""

from __future__ import annotations

import numpy as np
import pytest

from training.errors import TrainingDataInvalid
from training.evaluate.metrics import (
    auroc,
    auroc_within,
    average_precision,
    false_positive_rate,
    joint_strata,
    strata_of,
    z_sum,
)


@pytest.fixture(params=range(4))
def sides(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties."""
    rng = np.random.default_rng(request.param)
    return rng.integers(0, 9, 37).astype(float), rng.integers(0, 7, 53).astype(float)


def test_auroc_counts_pairs_with_ties_as_halves(sides: tuple[np.ndarray, np.ndarray]) -> None:
    positive, negative = sides
    counted = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert auroc(positive, negative) == pytest.approx(counted)


def test_average_precision_walks_the_thresholds(sides: tuple[np.ndarray, np.ndarray]) -> None:
    positive, negative = sides
    area, recall = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits, false = (positive >= threshold).sum(), (negative >= threshold).sum()
        area += (hits / len(positive) - recall) * hits / (hits + false)
        recall = hits / len(positive)
    assert average_precision(positive, negative) == pytest.approx(area)


def test_average_precision_of_a_score_that_knows_nothing_is_the_share_of_positives() -> None:
    assert average_precision(np.zeros(3), np.zeros(9)) == pytest.approx(0.25)
    assert average_precision(np.ones(3), np.zeros(9)) == 1.0


def test_false_positive_rate_is_the_least_over_thresholds_that_reach_the_recall(
    sides: tuple[np.ndarray, np.ndarray],
) -> None:
    positive, negative = sides
    rates = [(negative >= t).mean() for t in {*positive, *negative} if (positive >= t).mean() >= 0.95]
    assert false_positive_rate(positive, negative) == pytest.approx(min(rates))


def test_nineteen_of_twenty_are_95_percent() -> None:
    positive = np.array([0.0, *[2.0] * 19])
    assert false_positive_rate(positive, np.array([1.0, 3.0])) == 0.5


def test_within_is_the_mean_over_groups_that_have_both() -> None:
    """Perfect in group 0, wrong in group 1; group 2 has positives alone and group 3 negatives alone."""
    positive, positive_group = np.array([2.0, 0.0, 9.0]), np.array([0, 1, 2])
    negative, negative_group = np.array([1.0, 5.0, 5.0, 99.0]), np.array([0, 1, 1, 3])
    assert auroc_within(positive, negative, positive_group, negative_group) == 0.5
    assert auroc_within(positive, negative, positive_group, negative_group + 10) is None


def test_both_kinds_are_needed() -> None:
    for figure in (auroc, average_precision, false_positive_rate):
        with pytest.raises(TrainingDataInvalid, match="0 flooded and 1 dry"):
            figure(np.array([]), np.array([1.0]))


def test_strata_hold_equal_shares_and_never_part_equals() -> None:
    strata = strata_of(np.random.default_rng(0).permutation(100).astype(float), 10)
    assert (np.bincount(strata) == 10).all()
    values = np.array([1.0] * 50 + [2.0] * 50)
    assert {frozenset(values[strata_of(values, 10) == s]) for s in strata_of(values, 10)} == {
        frozenset({1.0}),
        frozenset({2.0}),
    }


def test_z_sum_weighs_scores_alike_whatever_their_units() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    fused = z_sum(a, b)
    np.testing.assert_allclose(z_sum(1000 * a + 7, b / 1000), fused)
    np.testing.assert_allclose(fused, (a - a.mean()) / a.std() + (b - b.mean()) / b.std())
    np.testing.assert_allclose(z_sum(a, np.full(50, 3.0)), (a - a.mean()) / a.std())


def test_joint_strata_are_the_combinations_of_bins_that_occur() -> None:
    a = np.asarray([0.0, 1, 2, 3, 0, 1, 2, 3])
    b = np.asarray([5.0, 5, 5, 5, 9, 9, 9, 9])
    assert joint_strata([a], 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert joint_strata([a, b], 2).tolist() == [0, 0, 2, 2, 1, 1, 3, 3]
