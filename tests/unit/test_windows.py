"""Laws of polling windows: no gap, no window upside down, whatever the clock does."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backoff import Backoff
from daemon.watch.windows import Pace, Window, next_window, sweep_due

T0 = datetime(2025, 1, 1, tzinfo=UTC)
PACE = Pace()
spans = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=4000))
pieces = st.timedeltas(min_value=timedelta(days=20), max_value=timedelta(days=400))
steps = st.lists(st.timedeltas(min_value=timedelta(days=-3), max_value=timedelta(days=90)), min_size=1, max_size=20)


@given(spans, pieces)
def test_slices_cover_the_window_once_with_no_gap(span: timedelta, longest: timedelta) -> None:
    window = Window(start=T0, end=T0 + span, axis="updated")
    slices = window.slices(longest)
    assert slices[0].start == window.start
    assert slices[-1].end == window.end
    assert all(one.end == two.start for one, two in pairwise(slices))
    assert all(piece.end - piece.start <= longest for piece in slices)
    assert sum((piece.end - piece.start for piece in slices), timedelta()) == span
    assert {piece.axis for piece in slices} == {"updated"}


def test_a_window_without_a_limit_stays_whole() -> None:
    window = Window(start=T0, end=T0 + timedelta(days=4000))
    assert window.slices(None) == (window,)
    with pytest.raises(ValueError, match="cannot be cut"):
        window.slices(timedelta())


@given(steps, st.sampled_from(["datetime", "updated"]), st.booleans())
def test_consecutive_windows_leave_no_gap(moves: list[timedelta], axis: str, sweep: bool) -> None:
    """Each poll's window begins before what the poll before it reached, though the clock steps back."""
    now = T0
    reached = T0
    for move in moves:
        now += move
        window = next_window(reached, now, PACE, axis=axis, sweep=sweep)  # type: ignore[arg-type]
        assert window.start < min(reached, now)
        assert window.end > now
        reached = now


def test_a_sweep_goes_further_back_and_by_sensing_time() -> None:
    now = T0 + timedelta(minutes=5)
    short = next_window(T0, now, PACE, axis="updated", sweep=False)
    long = next_window(T0, now, PACE, axis="updated", sweep=True)
    assert (short.start, short.axis) == (T0 - timedelta(hours=1), "updated")
    assert (long.start, long.axis) == (T0 - timedelta(days=30), "datetime")
    assert next_window(T0, now, PACE, axis="datetime", sweep=False).start == T0 - timedelta(days=2)


def test_an_outage_is_made_up_for() -> None:
    after = T0 + timedelta(days=50)
    assert next_window(T0, after, PACE, axis="datetime", sweep=False).start == T0 - timedelta(days=2)


@pytest.mark.parametrize(
    ("swept_at", "due"),
    [
        (None, True),
        (T0 - timedelta(hours=23), False),
        (T0 - timedelta(days=1), True),
        (T0 + timedelta(hours=1), True),
    ],
)
def test_when_a_sweep_is_due(swept_at: datetime | None, due: bool) -> None:
    assert sweep_due(swept_at, T0, PACE) is due


@given(st.integers(min_value=1, max_value=2000), st.integers(), st.floats(min_value=0, max_value=1e6))
def test_back_off_stays_within_its_bounds(failures: int, seed: int, asked_s: float) -> None:
    backoff = Backoff(base_s=2.0, cap_s=100.0)
    ceiling = min(100.0, 2.0 ** min(failures, 100))
    delay_s = backoff.delay_s(failures, random.Random(seed))
    assert ceiling / 2.0 <= delay_s <= ceiling
    assert backoff.delay_s(failures, random.Random(seed), asked_s=asked_s) == max(delay_s, asked_s)


def test_a_fleet_spreads_out() -> None:
    assert len({Backoff().delay_s(5, random.Random(seed)) for seed in range(50)}) == 50


def test_back_off_without_a_failure_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="follows a failure"):
        Backoff().delay_s(0, random.Random(0))
