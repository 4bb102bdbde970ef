"""Score drift against an independent implementation of the statistic, and against its meaning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from daemon.operate.drift import DriftWatch
from engine.tiles import Float32Array

RNG = np.random.default_rng(7)
CALIBRATION = {"odeed": RNG.lognormal(-7, 0.4, 999).astype(np.float32)}


def like(count: int, factor: float = 1.0) -> Float32Array:
    return (factor * RNG.lognormal(-7, 0.4, count)).astype(np.float32)


def test_the_distance_is_that_of_scipy() -> None:
    scores = like(400, 1.3)
    drift = DriftWatch().add("s", scores, CALIBRATION)
    assert drift is not None
    p_values = [(np.sum(CALIBRATION["odeed"] >= score) + 0.5) / 1000 for score in scores]
    assert drift.distance == pytest.approx(stats.ks_1samp(p_values, stats.uniform.cdf).statistic, abs=1e-12)
    assert drift.mean_p_value == pytest.approx(np.mean(p_values), abs=1e-12)
    assert drift.tiles == 400


@pytest.mark.parametrize(("factor", "low", "high"), [(1.0, 0.0, 0.06), (3.0, 0.75, 1.0), (1 / 3.0, 0.75, 1.0)])
def test_only_what_differs_from_the_calibration_is_far_from_it(factor: float, low: float, high: float) -> None:
    drift = DriftWatch().add("s", like(4000, factor), CALIBRATION)
    assert drift is not None
    assert low <= drift.distance <= high
    assert (drift.mean_p_value < 0.45) == (factor > 1)
    assert (drift.mean_p_value > 0.55) == (factor < 1)


def test_the_calibration_itself_has_a_mean_of_one_half_and_the_smallest_distance() -> None:
    drift = DriftWatch().add("s", CALIBRATION["odeed"], CALIBRATION)
    assert drift is not None
    assert drift.mean_p_value == pytest.approx(0.5, abs=2e-3)
    assert drift.distance < 2e-3


def test_old_tiles_are_forgotten_and_sensors_kept_apart() -> None:
    watch = DriftWatch(window_tiles=1000)
    watch.add("one", like(1000, 5.0), CALIBRATION)
    other = watch.add("other", like(1000), CALIBRATION)
    again = watch.add("one", like(1000), CALIBRATION)
    assert other is not None
    assert again is not None
    assert again.tiles == 1000
    assert max(other.distance, again.distance) < 0.08


def test_nothing_is_said_without_scores_or_without_a_calibration() -> None:
    watch = DriftWatch()
    nan = np.full(3, np.nan, np.float32)
    assert watch.add("s", nan, CALIBRATION) is None
    assert watch.add("s", like(3), {"odeed": nan}) is None
    mixed = watch.add("s", np.concatenate([nan, like(2)]), CALIBRATION)
    assert mixed is not None
    assert mixed.tiles == 2
