"""A cheap score before the full decision: exact small cases and a loop over every limit."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputMismatch
from training.evaluate.cascade import Costs, cascade, curve, left_out, limit_of

COSTS = Costs(cheap=1.0, full=100.0)


def test_the_limit_is_the_highest_that_keeps_enough() -> None:
    cheap = np.arange(100.0)
    found = np.arange(100) >= 50  # 50 tiles found, with scores 50..99
    assert limit_of(cheap, found, 1.0) == 50
    assert limit_of(cheap, found, 0.98) == 51
    assert limit_of(cheap, found, 0.97) == 51, "48.5 tiles are 49"
    assert limit_of(cheap, found, 0.5) == 75
    assert limit_of(cheap, np.zeros(100, bool), 0.98) == -np.inf
    with pytest.raises(InputMismatch, match="to keep"):
        limit_of(cheap, found, 0.0)


def test_equal_scores_go_on_together() -> None:
    cheap = np.asarray([1.0, 1.0, 1.0, 2.0])
    assert limit_of(cheap, np.ones(4, bool), 0.5) == 1.0


def test_a_small_cascade_exactly() -> None:
    positive = np.asarray([True, True, True, False, False, False, False, False])
    flagged = np.asarray([True, True, False, True, True, False, False, False])
    passes = np.asarray([True, False, True, True, False, False, False, True])
    found = cascade(passes, flagged, positive, COSTS)
    assert found.passed == 0.5
    assert found.passed_normal == 2 / 5
    assert found.full_recall == 2 / 3
    assert found.recall == 1 / 3
    assert found.kept == 0.5
    assert (found.false_full, found.false) == (2 / 5, 1 / 5)
    assert found.cost == pytest.approx(0.51)
    assert found.cost_normal == pytest.approx(0.41)
    assert (found.tiles, found.positives) == (8, 3)


def test_tiles_between_positive_and_normal_cost_and_are_no_false_ones() -> None:
    positive = np.asarray([True, False, False, False])
    normal = np.asarray([False, False, True, True])
    passes = flagged = np.asarray([True, True, False, True])
    found = cascade(passes, flagged, positive, COSTS, normal)
    assert (found.passed, found.passed_normal, found.false) == (0.75, 0.5, 0.5)
    both = left_out(
        np.asarray([1.0, 1, 0, 1]),
        flagged.astype(float),
        positive,
        ["a"] * 4,
        threshold=0.5,
        costs=COSTS,
        normal=normal,
    )
    assert both.pooled.false_full == 0.5
    share, kept = curve(np.asarray([1.0, 1, 0, 1]), flagged, positive, normal)
    assert (share.tolist(), kept.tolist()) == ([0.5, 1.0], [1.0, 1.0])


def test_what_cannot_be_said_is_none() -> None:
    none = np.zeros(3, bool)
    found = cascade(~none, none, none, COSTS)
    assert (found.full_recall, found.recall, found.kept) == (None, None, None)
    assert cascade(none[:0], none[:0], none[:0], COSTS).cost is None
    with pytest.raises(InputMismatch, match="above 0"):
        Costs(cheap=1, full=0)


def test_the_limit_of_an_event_is_chosen_on_the_others() -> None:
    # Event a: hits at 5 and 6; event b: hits at 1 and 9.
    cheap = np.asarray([5.0, 6, 0, 2, 1, 9, 0, 3])
    full = np.asarray([2.0, 2, 0, 0, 2, 2, 0, 0])
    positive = np.asarray([True, True, False, False] * 2)
    found = left_out(cheap, full, positive, list("aaaabbbb"), threshold=1.0, costs=COSTS, keep=1.0)
    assert found.limits == {"a": 1.0, "b": 5.0}
    assert found.by_event["a"].kept == 1.0
    assert found.by_event["a"].passed_normal == 0.5
    assert found.by_event["b"].kept == 0.5, "b's own easy limit would have been 1"
    assert found.by_event["b"].passed_normal == 0.0
    assert found.pooled.kept == 0.75
    assert found.pooled.passed == 4 / 8


def test_a_threshold_of_each_tile() -> None:
    cheap, full = np.ones(4), np.asarray([1.0, 1, 1, 1])
    found = left_out(cheap, full, np.ones(4, bool), list("aabb"), threshold=np.asarray([0.0, 2, 0, 2]), costs=COSTS)
    assert found.pooled.full_recall == 0.5


def test_one_event_alone_has_nothing_to_choose_by_and_passes_all() -> None:
    found = left_out(np.arange(4.0), np.ones(4), np.ones(4, bool), ["a"] * 4, threshold=0.0, costs=COSTS)
    assert found.limits == {"a": -np.inf}
    assert found.pooled.cost == pytest.approx(1.01)


def test_the_curve_equals_a_loop_over_limits() -> None:
    rng = np.random.default_rng(0)
    cheap = rng.integers(0, 12, 60).astype(np.float64)
    positive, flagged = rng.random((2, 60)) < 0.5
    passed, kept = curve(cheap, flagged, positive)
    for limit, share, hit in zip(sorted(set(cheap), reverse=True), passed, kept, strict=True):
        assert share == pytest.approx((cheap[~positive] >= limit).mean())
        assert hit == pytest.approx((cheap[positive & flagged] >= limit).mean())
    assert (passed[-1], kept[-1]) == (1.0, 1.0)
    with pytest.raises(InputMismatch, match="both are needed"):
        curve(cheap, np.zeros(60, bool), positive)


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones(3)
    with pytest.raises(InputMismatch, match="one length"):
        left_out(ones, ones, np.ones(3, bool), ["a", "b"], threshold=0.0, costs=COSTS)
    with pytest.raises(InputMismatch, match="not finite"):
        left_out(np.asarray([1, np.nan, 1]), ones, np.ones(3, bool), list("abc"), threshold=0.0, costs=COSTS)
