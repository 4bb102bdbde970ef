"""Knowledge beyond other scores: exact small cases, loops over all pairs, and scores built to know nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.errors import InputMismatch
from training.evaluate.metrics import auroc
from training.evaluate.strata import beyond, joint_strata


def test_strata_are_the_combinations_of_bins_that_occur() -> None:
    a = np.asarray([0.0, 1, 2, 3, 0, 1, 2, 3])
    b = np.asarray([5.0, 5, 5, 5, 9, 9, 9, 9])
    assert joint_strata([a], 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert joint_strata([a, b], 2).tolist() == [0, 0, 2, 2, 1, 1, 3, 3]


def test_only_pairs_of_one_stratum_are_compared() -> None:
    # Stratum 0: one positive of 3 beats the negatives 1 and 2. Stratum 1: positive 5 loses against 6, wins against 4.
    other = np.asarray([0.0, 0, 0, 1, 1, 1])
    score = np.asarray([3.0, 1, 2, 5, 6, 4])
    positive = np.asarray([True, False, False, True, False, False])
    found = beyond(score, [other], positive, ["a"] * 6, bins=2)
    assert found.within == 3 / 4
    assert found.strata == 2
    assert found.pairs_share == 4 / 8
    assert (found.n_pos, found.n_neg, found.events) == (2, 4, 1)
    assert found.within_low is None, "one event says nothing of the next"


def test_equals_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(3)
    n = 60
    score, one, two = rng.integers(0, 9, (3, n)).astype(np.float64)
    positive = rng.random(n) < 0.4
    events = [f"e{i % 4}" for i in range(n)]
    found = beyond(score, [one, two], positive, events, bins=3, draws=50)
    stratum = joint_strata([one, two], 3)
    won = pairs = 0.0
    for i, j in itertools.product(np.flatnonzero(positive), np.flatnonzero(~positive)):
        if stratum[i] == stratum[j]:
            pairs += 1
            won += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    assert found.within == pytest.approx(won / pairs)
    assert found.pairs_share == pytest.approx(pairs / (positive.sum() * (~positive).sum()))

    def z(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    alone, fused = z(one) + z(two), z(one) + z(two) + z(score)
    want = auroc(fused[positive], fused[~positive]) - auroc(alone[positive], alone[~positive])
    assert found.added == pytest.approx(want)
    assert found.added_low is not None
    assert found.added_high is not None
    assert found.added_low <= found.added_high


def test_a_copy_of_the_other_score_adds_exactly_nothing() -> None:
    rng = np.random.default_rng(0)
    other = rng.normal(size=200)
    positive = other + rng.normal(size=200) > 0
    found = beyond(3 * other + 1, [other], positive, [f"e{i % 5}" for i in range(200)], bins=5)
    assert found.added == pytest.approx(0, abs=1e-12)
    assert found.added_low == pytest.approx(0, abs=1e-12)
    assert found.added_high == pytest.approx(0, abs=1e-12)


def test_a_score_that_knows_the_rest_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    other, hidden = rng.normal(size=(2, n))
    positive = other + hidden > 0
    events = [f"e{i % 8}" for i in range(n)]
    knows = beyond(hidden, [other], positive, events)
    noise = beyond(rng.normal(size=n), [other], positive, events)
    assert knows.within_low is not None
    assert noise.within_low is not None
    assert noise.within_high is not None
    assert knows.within_low > 0.9
    assert knows.added_low is not None
    assert knows.added_low > 0.1
    assert noise.within_low < 0.5 < noise.within_high


def test_one_kind_alone_has_no_figure() -> None:
    found = beyond(np.arange(4.0), [np.arange(4.0)], np.ones(4, bool), ["a", "a", "b", "b"])
    assert (found.within, found.others_auroc, found.added, found.added_low) == (None, None, None, None)
    assert found.pairs_share == 0


def test_what_does_not_fit_is_refused() -> None:
    ones, yes = np.ones(3), np.asarray([True, False, True])
    with pytest.raises(InputMismatch, match="one length"):
        beyond(ones, [np.ones(2)], yes, ["a"] * 3)
    with pytest.raises(InputMismatch, match="one score or more"):
        beyond(ones, [], yes, ["a"] * 3)
    with pytest.raises(InputMismatch, match="not finite"):
        beyond(np.asarray([1.0, np.nan, 1]), [ones], yes, ["a"] * 3)
