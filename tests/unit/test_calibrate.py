from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.calibrate import Calibration, Tail, alert_threshold, back_test


def test_a_p_value_is_the_share_of_calibration_tiles_at_least_as_strange() -> None:
    calibration = Calibration.of(np.arange(9, dtype=np.float32))
    p, extrapolated = calibration.p_values(np.asarray([-1.0, 4.0, 8.0, 8.5], np.float32))
    assert p.tolist() == pytest.approx([1.0, 0.6, 0.2, 0.1])
    assert not extrapolated.any(), "nine tiles carry no tail"


def test_an_unknown_statistic_is_not_strange() -> None:
    p, _ = Calibration.of(np.arange(9, dtype=np.float32)).p_values(np.asarray([np.nan], np.float32))
    assert p.tolist() == [1.0]


def test_p_values_of_normal_tiles_are_valid() -> None:
    rng = np.random.default_rng(4)
    below = 0
    for _ in range(200):
        draw = rng.gamma(2.0, size=301).astype(np.float32)
        p, _ = Calibration.of(draw[:300]).p_values(draw[300:])
        below += int(p[0] <= 0.1)
    assert below <= 200 * 0.1 + 3 * math.sqrt(200 * 0.09)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.floats(0.001, 0.9))
def test_a_threshold_flags_at_most_the_share_asked_for(values: list[float], alpha: float) -> None:
    calibration = Calibration.of(np.asarray(values, np.float32))
    threshold, _ = calibration.threshold(alpha)
    assert np.mean(calibration.ascending > threshold) <= alpha


@pytest.mark.parametrize(("shape", "tolerance"), [(0.0, 0.35), (0.3, 0.5)])
def test_a_fitted_tail_finds_a_known_quantile(shape: float, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    uniform = rng.uniform(size=4000)
    draws = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
    tail = Tail.fit(np.sort(draws).astype(np.float32))
    assert tail is not None
    exact = -math.log(1e-4) if shape == 0 else (1e-4**-shape - 1) / shape
    assert tail.quantile(1e-4) == pytest.approx(exact, rel=tolerance)
    assert tail.survival(tail.quantile(1e-4)) == pytest.approx(1e-4, rel=1e-6)


def test_beyond_the_calibration_tiles_p_is_extrapolated_and_smaller() -> None:
    calibration = Calibration.of(np.random.default_rng(0).exponential(size=500).astype(np.float32))
    p, extrapolated = calibration.p_values(np.asarray([30.0], np.float32))
    assert extrapolated[0]
    assert 0 < p[0] < 1 / 501


LINE = {"a": ["b"], "b": ["a", "c"], "c": ["b", "d"], "d": ["c"]}


@pytest.mark.parametrize(
    ("values", "min_tiles", "expected"),
    [
        ({"a": 9.0, "b": 1.0, "c": 8.0, "d": 5.0}, 1, 9.0),
        ({"a": 9.0, "b": 1.0, "c": 8.0, "d": 5.0}, 2, 5.0),
        ({"a": 9.0, "b": 1.0, "c": 8.0, "d": 5.0}, 3, 1.0),
        ({"a": 9.0, "b": math.nan, "c": 8.0, "d": 5.0}, 3, -math.inf),
    ],
)
def test_alert_threshold_is_where_a_group_first_forms(
    values: dict[str, float], min_tiles: int, expected: float
) -> None:
    assert alert_threshold(values, LINE, min_tiles) == expected


def _history(peaks: list[float]) -> list[dict[str, float]]:
    return [{"a": peak, "b": peak, "c": 0.0, "d": 0.0} for peak in peaks]


def test_a_back_test_spends_the_budget_and_not_more() -> None:
    peaks = [float(i) for i in range(1, 10)]
    quiet = [0.0] * 1000
    pooled = Calibration.of(np.asarray([v for look in _history(peaks) for v in look.values()] + quiet, np.float32))
    # Nine looks at one a month: each alert allowed costs 0.1 a month, the first is the new look's own chance.
    spend = {
        budget: back_test(
            _history(peaks),
            LINE,
            min_tiles=2,
            alerts_per_month=budget,
            looks_per_month=1.0,
            calibration=pooled,
        )
        for budget in (0.1, 0.2, 0.31)
    }
    assert [round(b.threshold) for b in spend.values()] == [9, 8, 7]
    assert not any(b.extrapolated for b in spend.values())
    assert spend[0.1].supported_alerts_per_month == pytest.approx(0.1)


def test_a_budget_below_what_the_history_supports_is_marked() -> None:
    rng = np.random.default_rng(2)
    looks = [dict(zip("abcd", map(float, rng.exponential(size=4)), strict=True)) for _ in range(200)]
    pooled = Calibration.of(np.asarray([v for look in looks for v in look.values()], np.float32))
    highest = max(alert_threshold(look, LINE, 2) for look in looks)
    budget = back_test(looks, LINE, min_tiles=2, alerts_per_month=0.0001, looks_per_month=1.0, calibration=pooled)
    assert budget.extrapolated
    assert budget.threshold > highest
