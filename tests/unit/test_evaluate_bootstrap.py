"""Draws of events by pair counts against tiles that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluate.bootstrap import PairCounts, event_draws, events_in, interval
from training.evaluate.metrics import auroc

EVENTS = 5


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties; event 4 has no positive, event 3 no negative."""
    rng = np.random.default_rng(3)
    positive_event, negative_event = rng.integers(0, 4, 60), rng.choice([0, 1, 2, 4], 80)
    positive = rng.integers(0, 12, 60) + 0.5 * positive_event
    negative = rng.integers(0, 10, 80) + 0.5 * negative_event
    return positive, negative, positive_event, negative_event


def test_a_draw_is_what_its_tiles_would_give(scored: tuple[np.ndarray, ...]) -> None:
    positive, negative, positive_event, negative_event = scored
    counts = PairCounts.of(positive, negative, positive_event, negative_event, EVENTS)
    draws = event_draws(np.random.default_rng(0), EVENTS, 50)
    for weights, drawn in zip(draws, counts.drawn(draws), strict=True):
        times = weights.astype(int)
        p, n = positive.repeat(times[positive_event]), negative.repeat(times[negative_event])
        if len(p) and len(n):
            assert drawn == pytest.approx(auroc(p, n))
        else:
            assert np.isnan(drawn)
    assert counts.auroc() == pytest.approx(auroc(positive, negative))


def test_events_have_their_own_figure_where_they_have_both_kinds(scored: tuple[np.ndarray, ...]) -> None:
    positive, negative, positive_event, negative_event = scored
    counts = PairCounts.of(*scored, EVENTS)
    assert counts.of_event(1) == pytest.approx(auroc(positive[positive_event == 1], negative[negative_event == 1]))
    assert counts.of_event(3) is None
    assert counts.of_event(4) is None


def test_within_strata_only_pairs_of_one_stratum_count(scored: tuple[np.ndarray, ...]) -> None:
    positive, negative, _, _ = scored
    rng = np.random.default_rng(1)
    p_stratum, n_stratum = rng.integers(0, 4, len(positive)), rng.integers(1, 6, len(negative))
    counts = PairCounts.within(*scored, EVENTS, p_stratum, n_stratum)
    pairs = [
        (p > n) + 0.5 * (p == n)
        for p, s in zip(positive, p_stratum, strict=True)
        for n, t in zip(negative, n_stratum, strict=True)
        if s == t
    ]
    assert counts.pairs.sum() == len(pairs)
    assert counts.auroc() == pytest.approx(np.mean(pairs))
    apart = PairCounts.within(*scored, EVENTS, p_stratum, n_stratum + 100)
    assert apart.auroc() is None


def test_draws_take_as_many_events_as_there_are() -> None:
    draws = event_draws(np.random.default_rng(0), 7, 2000)
    assert (draws.sum(axis=1) == 7).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.1)


def test_an_interval_is_the_middle_of_the_draws_and_needs_two_events() -> None:
    values = np.append(np.linspace(0, 1, 1001), np.nan)
    found = interval(values, 2)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert found.excludes_zero
    assert interval(values - 0.5, 2).excludes_zero is False
    alone = interval(values, 1)
    assert (alone.low, alone.high, alone.excludes_zero) == (None, None, None)


def test_the_interval_knows_that_tiles_of_an_event_are_alike() -> None:
    """Many copies of a tile tell no more than one: the interval stays as wide."""
    rng = np.random.default_rng(0)
    event = np.arange(8)
    positive, negative = rng.normal(0.5, 1, 8), rng.normal(0, 1, 8)
    draws = event_draws(np.random.default_rng(1), 8, 500)
    few = PairCounts.of(positive, negative, event, event, 8).drawn(draws)
    many = PairCounts.of(positive.repeat(9), negative.repeat(9), event.repeat(9), event.repeat(9), 8).drawn(draws)
    np.testing.assert_allclose(few, many)


def test_events_with_a_tile_are_counted(scored: tuple[np.ndarray, ...]) -> None:
    assert events_in(PairCounts.of(*scored, EVENTS)) == 5
    assert events_in(PairCounts.of(*scored, EVENTS + 3)) == 5
