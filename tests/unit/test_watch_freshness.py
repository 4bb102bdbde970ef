"""Collections that fall silent: told by their own usual gap."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.memory import MemoryCatalog
from daemon.clock import ManualClock
from daemon.errors import CatalogUnavailable
from daemon.scenes import Area
from daemon.store import Store
from daemon.watch.freshness import Passes
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from tests.stac_builder import item, square

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def passes(*gaps_h: float, **options: Any) -> Passes:
    """Passes that end now, of two tiles each."""
    known, at = Passes(**options), NOW
    times = [at]
    for gap in reversed(gaps_h):
        at -= gap * HOUR
        times += [at, at + timedelta(seconds=20)]
    known.see({"s2": times})
    return known


def test_the_usual_gap_is_that_of_passes_not_of_tiles() -> None:
    (fresh,) = passes(48, 72, 48, 72, 48).freshness(["s2"], NOW)
    assert fresh.usual_gap is not None
    assert fresh.usual_gap == pytest.approx(72 * HOUR, abs=timedelta(minutes=1))
    assert (fresh.newest, fresh.silent) == (NOW, False)


def test_silence_is_longer_than_three_usual_gaps() -> None:
    known = passes(48, 48, 48, 48)
    assert [known.freshness(["s2"], NOW + days * DAY)[0].silent for days in (0, 5.9, 6.1)] == [False, False, True]


def test_a_collection_over_the_whole_world_may_be_silent_for_half_a_day() -> None:
    known = passes(*[0.5] * 40)
    assert [known.freshness(["s2"], NOW + hours * HOUR)[0].silent for hours in (11, 13)] == [False, True]


def test_too_few_passes_tell_nothing_unless_a_limit_is_given() -> None:
    later = NOW + 100 * DAY
    assert passes(48, 48).freshness(["s2"], later)[0].silent is False
    assert passes(48, 48, silent_after=10 * DAY).freshness(["s2"], later)[0].silent is True
    assert passes(48, silent_after=10 * DAY).freshness(["s2"], NOW + 9 * DAY)[0].silent is False


def test_a_collection_that_never_listed_anything_is_silent() -> None:
    (fresh,) = Passes().freshness(["misspelt"], NOW)
    assert (fresh.newest, fresh.usual_gap, fresh.silent) == (None, None, True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=clock) as opened:
        opened.migrate()
        yield opened


def test_a_collection_without_new_images_is_told_of_while_another_goes_on(
    store: Store, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Complaint 2: a whole collection without new images since a given day, and nobody was told."""

    def scene(collection: str, days: int) -> dict[str, Any]:
        return item(
            f"{collection}-{days}",
            collection=collection,
            when=f"{NOW + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}",
            geometry=square(10.0, 50.0),
            assets={"red": {"href": "https://e.test/red.tif"}},
            eo__cloud_cover=100.0,  # what is too cloudy to be taken is a sign of life too
        )

    catalog = MemoryCatalog("memory")
    catalog.add(*(scene(name, -days) for name in ("sentinel-2-l2a", "naip") for days in range(1, 20)))
    area = Area(name="north", geometry=square(10.0, 50.0))
    sensors = {"sentinel-2-l2a": "auto", "naip": "auto", "empty": "auto"}
    watching = Watcher(
        [CatalogWatch(catalog=catalog, areas=(area,), sensors=sensors)], store, clock, rng=random.Random(1)
    )
    caplog.set_level(logging.INFO, logger="daemon.watch.watcher")
    report = watching.poll("memory")
    assert {fresh.collection: fresh.silent for fresh in report.freshness} == {
        "sentinel-2-l2a": False,
        "naip": False,
        "empty": True,
    }
    for day in range(6):
        clock.advance(86_400)
        catalog.add(scene("sentinel-2-l2a", day))
        report = watching.poll("memory")
    by_name = {fresh.collection: fresh for fresh in report.freshness}
    assert (by_name["naip"].silent, by_name["naip"].newest) == (True, NOW - DAY)
    assert by_name["sentinel-2-l2a"].silent is False
    told = [record.getMessage() for record in caplog.records if "silent" in record.getMessage()]
    assert len(told) == 2
    assert "has listed nothing" in told[0]
    assert "naip" in told[1]
    assert "longer than its usual gap" in told[1]
    # It comes back, and that is told once too.
    catalog.add(scene("naip", 6))
    watching.poll("memory")
    assert sum("brings Items again" in record.getMessage() for record in caplog.records) == 1


def test_a_catalog_that_does_not_answer_is_not_called_silent(store: Store, clock: ManualClock) -> None:
    catalog = MemoryCatalog("memory")
    catalog.fail(*[CatalogUnavailable("down")] * 9)
    area = Area(name="north", geometry=square(10.0, 50.0))
    watch = CatalogWatch(catalog=catalog, areas=(area,), sensors={"naip": "auto"})
    assert Watcher([watch], store, clock, rng=random.Random(1)).poll("memory").freshness == ()
