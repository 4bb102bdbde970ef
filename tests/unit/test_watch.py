"""The watcher on catalogs in memory and a store on SQLite."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.memory import MemoryCatalog
from daemon.backoff import Backoff
from daemon.clock import ManualClock, SystemClock
from daemon.errors import CatalogInvalid, CatalogUnavailable, StoreUnavailable
from daemon.scenes import Area, Scene
from daemon.store import Cursor, SceneRow, Store
from daemon.store.records import PageCounts, Sighting
from daemon.watch.catalogs import Page, SceneQuery
from daemon.watch.poll import CatalogWatch
from daemon.watch.poll_report import PollReport
from daemon.watch.sifting import is_copy
from daemon.watch.watcher import Watcher
from tests.stac_builder import item, square

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AREA = Area(name="north", geometry=square(10.0, 50.0), history_looks=2, history_days=100, max_cloud_percent=50.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=clock) as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def catalog() -> MemoryCatalog:
    return MemoryCatalog("memory")


def scene(name: str, days: float, **fields: Any) -> dict[str, Any]:
    """An Item sensed ``days`` after now, over the area unless told otherwise."""
    return item(
        name,
        collection=fields.pop("collection", "sentinel-2-l2a"),
        when=f"{NOW + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}",
        geometry=fields.pop("geometry", square(10.0, 50.0, 0.5)),
        assets={"red": {"href": "https://e.test/red.tif", "file:checksum": fields.pop("checksum", "1220aa")}},
        **fields,
    )


def watcher(
    store: Any, clock: Any, *catalogs: MemoryCatalog, areas: Sequence[Area] = (AREA,), **options: Any
) -> Watcher:
    known = options.pop("versions_of", lambda identity: ())
    on_report = options.pop("on_report", lambda report: None)
    watches = [
        CatalogWatch(catalog=catalog, areas=tuple(areas), sensors={"sentinel-2-l2a": "auto", "naip": "auto"}, **options)
        for catalog in catalogs
    ]
    return Watcher(watches, store, clock, rng=random.Random(1), versions_of=known, on_report=on_report)


def held(store: Store) -> dict[str, SceneRow]:
    return {row.scene.item_id: row for row in store.scenes()}


def test_the_first_poll_takes_the_last_clear_looks_and_everything_fresh(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    area = Area(**{**vars_of(AREA), "alert_since": NOW - timedelta(days=10)})
    catalog.add(*(scene(f"old-{days}", -days) for days in range(11, 31)))
    catalog.add(scene("cloudy", -10.5, eo__cloud_cover=51.0), scene("ancient", -111.0))
    catalog.add(*(scene(f"new-{days}", -days) for days in (1, 5, 10)))
    catalog.add(scene("aside", -2, geometry=square(30.0, 50.0)))
    report = watcher(store, clock, catalog, areas=[area], page_size=4).poll("memory")
    rows = held(store)
    assert sorted(rows) == ["new-1", "new-10", "new-5", "old-11", "old-12", "old-13", "old-14"]
    assert {name: row.areas["north"] for name, row in rows.items()} == {
        **dict.fromkeys(["new-1", "new-10", "new-5"], "fresh"),
        **dict.fromkeys(["old-11", "old-12", "old-13", "old-14"], "history"),
    }
    assert {row.state for row in rows.values()} == {"pending"}
    assert report.error is None
    assert (report.new, report.made_claimable) == (7, 7)
    assert report.passed_over == {"clouded": 1, "surplus": 16}
    assert report.newest == {"north": NOW - timedelta(days=1)}
    cursor = store.cursor("memory", "north")
    assert cursor is not None
    assert (cursor.time, cursor.settled, cursor.swept_at) == (NOW, True, NOW)


def vars_of(area: Area) -> dict[str, Any]:
    return {name: getattr(area, name) for name in area.__dataclass_fields__}


def test_history_is_counted_per_sensor(store: Store, clock: ManualClock, catalog: MemoryCatalog) -> None:
    catalog.add(*(scene(f"s2-{days}", -days) for days in range(1, 10)))
    catalog.add(*(scene(f"naip-{days}", -days, collection="naip") for days in range(50, 60)))
    watcher(store, clock, catalog).poll("memory")
    assert sorted(held(store)) == [*(f"naip-{days}" for days in range(50, 54)), *(f"s2-{days}" for days in range(1, 5))]


def test_polling_again_changes_nothing(store: Store, clock: ManualClock, catalog: MemoryCatalog) -> None:
    catalog.add(scene("a", -1), scene("b", -2))
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    before = held(store)
    clock.advance(300)
    report = watching.poll("memory")
    assert (report.new, report.changed, report.made_claimable, report.known) == (0, 0, 0, 2)
    assert held(store) == before


def test_a_scene_published_late_is_found_within_the_look_back(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    clock.advance(3 * 86_400)
    watching.poll("memory")
    catalog.add(scene("late", 1.5))
    clock.advance(300)
    assert watching.poll("memory").new == 1
    assert held(store)["late"].areas == {"north": "fresh"}


def test_a_daily_sweep_finds_what_came_later_still(store: Store, clock: ManualClock, catalog: MemoryCatalog) -> None:
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    clock.advance(10 * 86_400)
    watching.poll("memory")
    catalog.add(scene("very-late", 1.0))
    clock.advance(300)
    assert watching.poll("memory").new == 0
    clock.advance(86_400)
    assert watching.poll("memory").new == 1


def test_a_republished_scene_is_a_new_version_and_an_update_alone_is_not(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    catalog.add(scene("a", -1))
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    catalog.add(scene("a", -1, updated="2026-01-01T00:00:00Z"))
    assert watching.poll("memory").changed == 0
    catalog.add(scene("a", -1, checksum="1220bb"))
    assert watching.poll("memory").changed == 1


def test_an_item_with_an_old_time_is_found_by_when_it_was_updated(store: Store, clock: ManualClock) -> None:
    catalog = MemoryCatalog("memory", axes=frozenset({"datetime", "updated"}))
    catalog.add(scene("a", -1, updated="2025-12-31T00:00:00Z"))
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    catalog.add(scene("old", -60, updated="2026-01-01T00:04:00Z"))
    clock.advance(300)
    assert watching.poll("memory").new == 1
    assert catalog.queries[-1].axis == "updated"


def test_updated_is_not_trusted_where_items_lack_it(store: Store, clock: ManualClock) -> None:
    catalog = MemoryCatalog("memory", axes=frozenset({"datetime", "updated", "created"}))
    catalog.add(scene("a", -1), scene("b", -1.5, updated="2025-12-31T00:00:00Z"))
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    clock.advance(300)
    watching.poll("memory")
    assert {query.axis for query in catalog.queries} == {"datetime"}


def test_a_scene_over_two_areas_is_claimed_once_for_both(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    areas = [Area(name=name, geometry=square(10.0 + shift, 50.0)) for name, shift in (("a", 0.0), ("b", 0.05))]
    catalog.add(scene("both", -1), scene("only-a", -2, geometry=square(9.95, 50.0, 0.05)))
    watcher(store, clock, catalog, areas=areas).poll("memory")
    assert {name: set(row.areas) for name, row in held(store).items()} == {"both": {"a", "b"}, "only-a": {"a"}}


def test_an_area_added_later_gets_its_own_back_fill(store: Store, clock: ManualClock, catalog: MemoryCatalog) -> None:
    catalog.add(scene("old", -20, geometry=square(30.0, 50.0)), scene("here", -20))
    watcher(store, clock, catalog).poll("memory")
    assert set(held(store)) == {"here"}
    clock.advance(300)
    south = Area(name="south", geometry=square(30.0, 50.0))
    watcher(store, clock, catalog, areas=[AREA, south]).poll("memory")
    assert held(store)["old"].areas == {"south": "history"}


def test_bad_items_are_counted_and_do_not_stop_good_ones(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    broken = scene("broken", -1)
    broken["properties"]["datetime"] = "soon"
    nowhere = scene("nowhere", -1)
    nowhere["geometry"] = None
    catalog.add(broken, nowhere, scene("landsat", -1, collection="naip"), scene("good", -1))
    watching = Watcher(
        [CatalogWatch(catalog=catalog, areas=(AREA,), sensors={"naip": "no-such", "sentinel-2-l2a": "auto"})],
        store,
        clock,
        rng=random.Random(1),
    )
    report = watching.poll("memory")
    assert set(held(store)) == {"good"}
    assert report.error is None
    assert report.passed_over == {"invalid": 3, "unknown sensor": 1}  # both windows list what has no time
    assert any("'soon' is not an RFC 3339 time" in fault for fault in report.faults)
    assert any("naip/landsat: there is no sensor 'no-such'" in fault for fault in report.faults)


def test_a_page_that_fails_is_asked_for_again_where_it_stood(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    catalog.add(*(scene(f"s-{days}", -days) for days in range(1, 5)))
    catalog.fail(None, CatalogUnavailable("cut"), None)
    report = watcher(store, clock, catalog, page_size=2).poll("memory")
    assert report.error is None
    assert len(held(store)) == 4
    assert report.items == 4
    assert clock.monotonic() > 0.0


def test_a_window_that_cannot_be_read_whole_does_not_move_the_cursor(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    area = Area(**{**vars_of(AREA), "alert_since": NOW - timedelta(days=50)})
    catalog.add(*(scene(f"s-{days}", -days) for days in range(1, 5)))
    catalog.fail(None, None, *[CatalogUnavailable("down")] * 3)  # the history window passes
    watching = watcher(store, clock, catalog, areas=[area], page_size=2, page_tries=3)
    report = watching.poll("memory")
    assert report.error == "down"
    assert {row.state for row in held(store).values()} == {"discovered"}
    assert store.cursor("memory", "north") == Cursor()
    assert store.claim("worker", 60) is None
    report = watching.poll("memory")
    assert (report.error, report.made_claimable) == (None, 4)
    assert {row.state for row in held(store).values()} == {"pending"}


def test_retry_after_is_obeyed(store: Store, clock: ManualClock, catalog: MemoryCatalog) -> None:
    catalog.fail(CatalogUnavailable("busy", retry_after_s=20.0))
    assert watcher(store, clock, catalog).poll("memory").error is None
    assert 20.0 <= clock.monotonic() < 30.0
    catalog.fail(CatalogUnavailable("busy", retry_after_s=3600.0))
    report = watcher(store, clock, catalog).poll("memory")
    assert (report.error, report.retry_after_s) == ("busy", 3600.0)
    assert clock.monotonic() < 30.0


def test_an_answer_that_can_never_be_used_is_not_asked_for_again(
    store: Store, clock: ManualClock, catalog: MemoryCatalog
) -> None:
    catalog.fail(CatalogInvalid("pages lead in a circle"))
    assert watcher(store, clock, catalog).poll("memory").error == "pages lead in a circle"
    assert len(catalog.queries) == 1


class DownStore:
    """A store whose database is down."""

    def register_areas(self, areas: object, catalogs: object) -> Any:
        raise StoreUnavailable("the database is down")

    def cursor(self, catalog: str, area: str) -> Cursor | None:
        raise StoreUnavailable("the database is down")

    def record_page(self, catalog: str, sightings: Sequence[Sighting]) -> PageCounts:
        raise StoreUnavailable("the database is down")

    def checkpoint(self, catalog: str, areas: Sequence[str], token: str) -> None:
        raise StoreUnavailable("the database is down")

    def close_window(self, catalog: str, areas: Sequence[str], cursor: Cursor) -> int:
        raise StoreUnavailable("the database is down")


def test_a_store_that_is_down_costs_the_poll_alone(clock: ManualClock, catalog: MemoryCatalog) -> None:
    assert watcher(DownStore(), clock, catalog).poll("memory").error == "the database is down"


class Faulty(MemoryCatalog):
    """A catalog whose adapter has a fault of its own."""

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        raise ZeroDivisionError("a fault")


def test_one_failing_catalog_never_stops_another(store: Store) -> None:
    good, down, faulty = MemoryCatalog("good"), MemoryCatalog("down"), Faulty("faulty")
    down.fail(*[CatalogUnavailable("down")] * 1000)
    good.add(scene("first", -1))
    stop, enough = threading.Event(), threading.Event()
    reports: list[PollReport] = []

    def note(report: PollReport) -> None:
        reports.append(report)
        names = [entry.catalog for entry in reports]
        if names.count("good") >= 3 and names.count("down") >= 2:
            enough.set()

    watching = watcher(
        store, SystemClock(), good, down, faulty, on_report=note, poll_every_s=0.02, backoff=Backoff(base_s=0.01)
    )
    thread = threading.Thread(target=watching.run, args=(stop,))
    thread.start()
    assert enough.wait(30)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert {entry.error for entry in reports if entry.catalog == "good"} <= {None, stopped("good")}
    assert {entry.error for entry in reports if entry.catalog == "down"} <= {"down", stopped("down")}
    assert set(held(store)) == {"first"}


def stopped(name: str) -> str:
    return f"the poll of {name} was stopped; its window is read again next time"


@pytest.mark.parametrize("step_s", [-600.0, 600.0, -40 * 86_400.0])
def test_a_clock_that_is_set_loses_no_scene(
    store: Store, clock: ManualClock, catalog: MemoryCatalog, step_s: float
) -> None:
    watching = watcher(store, clock, catalog)
    watching.poll("memory")
    clock.step(step_s)
    watching.poll("memory")
    clock.step(-step_s)
    catalog.add(scene("after", 0.001))
    clock.advance(300)
    watching.poll("memory")
    assert set(held(store)) == {"after"}


def sentinel(name: str, *, collection: str, baseline: str, checksum: str) -> dict[str, Any]:
    return scene(
        name,
        -1,
        collection=collection,
        checksum=checksum,
        platform="sentinel-2b",
        grid__code="MGRS-32UNA",
        s2__datatake_id="GS2B_20251231T000000_043879_N05.11",
        s2__processing_baseline=baseline,
        vigie__sensor="sentinel-2-l2a",
    )


def known_to(store: Store) -> Callable[[str], Sequence[Scene]]:
    return lambda identity: [row.scene for row in store.scenes() if row.scene.identity == identity]


def test_copies_in_other_collections_and_catalogs_are_one_scene(store: Store, clock: ManualClock) -> None:
    first, second = MemoryCatalog("first"), MemoryCatalog("second")
    first.add(
        sentinel("_0", collection="sentinel-2-l2a", baseline="05.11", checksum="a"),
        sentinel("_1", collection="sentinel-2-l2a", baseline="05.11", checksum="b"),
    )
    second.add(sentinel("c1", collection="naip", baseline="05.11", checksum="c"))
    watching = watcher(store, clock, first, second, versions_of=known_to(store))
    for _ in range(2):
        for name in ("first", "second"):
            assert watching.poll(name).passed_over["copy"] >= 1
    assert len(held(store)) == 1


def test_a_newer_baseline_is_a_new_version_wherever_it_is_listed(store: Store, clock: ManualClock) -> None:
    first, second = MemoryCatalog("first"), MemoryCatalog("second")
    first.add(sentinel("_0", collection="sentinel-2-l2a", baseline="05.09", checksum="a"))
    second.add(sentinel("c1", collection="naip", baseline="05.11", checksum="c"))
    watching = watcher(store, clock, first, second, versions_of=known_to(store))
    assert watching.poll("first").new == 1
    assert watching.poll("second").changed == 1
    first.add(sentinel("_0", collection="sentinel-2-l2a", baseline="05.09", checksum="z"))
    assert watching.poll("first").changed == 1, "a re-publication under its own listing is looked at"


def test_what_is_a_copy() -> None:
    def made(**changes: Any) -> Scene:
        values: Mapping[str, Any] = {
            "identity": "i",
            "version": "v",
            "catalog": "c",
            "collection": "l2a",
            "item_id": "a",
            "sensor": "sentinel-2-l2a",
            "platform": None,
            "sensing_time": NOW,
            "grid_code": None,
            "geometry": {},
            "cloud_cover_percent": None,
            "updated": None,
            "item": {"properties": {"s2:processing_baseline": changes.pop("baseline", "05.10")}},
        }
        return Scene(**{**values, **changes})

    first = made()
    assert not is_copy(first, [])
    assert not is_copy(made(version="w"), [first])
    assert is_copy(made(item_id="b", version="w"), [first])
    assert is_copy(made(item_id="b", baseline="05.09"), [first])
    assert not is_copy(made(item_id="b", baseline="05.11"), [first])
    assert not is_copy(made(item_id="b", sensor="sentinel-2-l1c"), [first])
    assert not is_copy(made(item_id="b", identity="j"), [first])
