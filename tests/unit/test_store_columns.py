"""Times and texts as the store writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from daemon.store.columns import UtcDateTime, storable_text

SQLITE, POSTGRESQL = sqlite.dialect(), postgresql.dialect()
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=ZONES)  # noqa: DTZ001


@settings(deadline=None)
@given(TIMES, TIMES)
def test_texts_on_sqlite_sort_as_their_times_do(one: datetime, other: datetime) -> None:
    column = UtcDateTime()
    texts = [column.process_bind_param(time, SQLITE) for time in (one, other)]
    assert (texts[0] < texts[1], texts[0] == texts[1]) == (one < other, one == other)


@settings(deadline=None)
@given(TIMES)
def test_a_time_comes_back_equal_and_in_utc(time: datetime) -> None:
    column = UtcDateTime()
    for dialect in (SQLITE, POSTGRESQL):
        back = column.process_result_value(column.process_bind_param(time, dialect), dialect)
        assert back == time
        assert back is not None
        assert back.tzinfo is UTC


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), SQLITE)  # noqa: DTZ001


@settings(deadline=None)
@given(st.text())
def test_what_a_text_column_gets_it_can_hold(text: str) -> None:
    clean = storable_text(text)
    assert "\x00" not in clean
    clean.encode()
    assert len(clean) == len(text)
    assert storable_text(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"), [("plain é 💧\n", "plain é 💧\n"), ("a\x00b", "a\ufffdb"), ("\ud800!", "?!")]
)
def test_only_what_cannot_be_stored_is_replaced(text: str, clean: str) -> None:
    assert storable_text(text) == clean
