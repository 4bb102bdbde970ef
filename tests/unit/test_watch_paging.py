"""Windows that a catalog does not list whole: caps, loops, repeats, time limits, and checkpoints between pages."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.adapters.memory import MemoryCatalog
from daemon.clock import ManualClock
from daemon.errors import CatalogInvalid, CatalogUnavailable, WindowTooWide
from daemon.scenes import Area
from daemon.store import Store
from daemon.watch.catalogs import Page, SceneQuery
from daemon.watch.notes import Note
from daemon.watch.paging import Place, WindowReader
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from daemon.watch.windows import Window
from tests.stac_builder import item, square

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GROUND = square(10.0, 50.0, 1.0)
AREA = Area(name="north", geometry=GROUND, history_looks=500, history_days=40)


def scene(name: str, at: datetime, lon: float = 10.0, lat: float = 50.0) -> dict[str, Any]:
    return item(
        name,
        collection="sentinel-2-l2a",
        when=at.isoformat().replace("+00:00", "Z"),
        geometry=square(lon, lat, 0.001),
        assets={"red": {"href": "https://e.test/red.tif"}},
        updated=at.isoformat().replace("+00:00", "Z"),
    )


class Odd(MemoryCatalog):
    """A catalog whose searches misbehave beyond so many Items."""

    def __init__(self, *, kind: str, most: int) -> None:
        super().__init__("odd")
        self.kind = kind
        self.most = most
        self.most_items = most if kind == "capped" else None

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        self.most_items, cap = None, self.most_items  # the twin's own cap is silent; here it is told
        found = [entry for page in super().pages(replace(query, page_size=10**6)) for entry in page.items]
        self.most_items = cap
        if self.kind == "slow" and len(found) > self.most:
            raise CatalogUnavailable("out of time", too_slow=True)
        if self.kind == "loops" and len(found) > query.page_size:
            yield Page(items=tuple(found[: query.page_size]), next="again")
            raise WindowTooWide("the pages lead in a circle")
        listed = found[: self.most] if self.kind in ("capped", "short") else found
        start = int(resume or 0)
        matched = len(found) if self.kind == "short" else None
        while True:
            stop = start + query.page_size
            more = stop < len(listed)
            yield Page(items=tuple(listed[start:stop]), next=str(stop) if more else None, matched=matched)
            if not more:
                return
            start = stop


def reader(catalog: MemoryCatalog, *, page_size: int = 3, tries: int = 1, shorts: list[str] | None = None) -> Any:
    return WindowReader(
        catalog,
        collections=("sentinel-2-l2a",),
        page_size=page_size,
        tries=tries,
        pause=lambda failures, error: None,
        on_short=(shorts if shorts is not None else []).append,
    )


def listed(reading: Any, window: Window, ground: Mapping[str, Any] = GROUND) -> list[str]:
    return [str(entry["id"]) for page, _ in reading.pages(window, ground) for entry in page.items]


offsets = st.lists(st.integers(min_value=0, max_value=40 * 86_400), max_size=40)


@settings(deadline=None, max_examples=40)
@given(offsets, st.sampled_from(["capped", "loops"]), st.integers(min_value=2, max_value=6))
def test_windows_are_sliced_past_paging_caps_and_no_item_is_missed(offsets: list[int], kind: str, most: int) -> None:
    """Complaint 6: whatever the cap and however Items cluster, slices list every one."""
    catalog = Odd(kind=kind, most=most)
    # Items of one second are told apart by their ground.
    catalog.add(
        *(
            scene(f"s-{i}", NOW - timedelta(seconds=offset), 9.6 + 0.02 * i, 49.6 + 0.02 * ((7 * i) % 40))
            for i, offset in enumerate(offsets)
        )
    )
    window = Window(start=NOW - timedelta(days=40), end=NOW)
    shorts: list[str] = []
    assert set(listed(reader(catalog, page_size=most, shorts=shorts), window)) == {
        f"s-{i}" for i in range(len(offsets))
    }
    assert shorts == []


def test_a_silent_cap_is_found_out_by_the_number_that_matched() -> None:
    catalog = Odd(kind="short", most=4)
    catalog.add(*(scene(f"s-{i}", NOW - timedelta(days=i)) for i in range(40)))
    window = Window(start=NOW - timedelta(days=40), end=NOW)
    assert set(listed(reader(catalog), window)) == {f"s-{i}" for i in range(40)}


def test_a_catalog_that_lists_less_than_it_counts_is_told_of_not_asked_for_ever() -> None:
    class Miscounting(MemoryCatalog):
        def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
            for page in super().pages(query, resume=resume):
                yield replace(page, matched=1000)

    catalog = Miscounting("m")
    catalog.add(scene("a", NOW))
    shorts: list[str] = []
    window = Window(start=NOW - timedelta(days=40), end=NOW)
    assert "a" in listed(reader(catalog, shorts=shorts), window)
    assert "says that 1000 Items" in shorts[0]
    assert len(catalog.queries) < 200


def test_many_items_of_one_second_on_one_spot_are_told_of() -> None:
    catalog = Odd(kind="capped", most=4)
    catalog.add(*(scene(f"s-{i}", NOW) for i in range(9)))
    shorts: list[str] = []
    window = Window(start=NOW - timedelta(seconds=1), end=NOW)
    assert len(set(listed(reader(catalog, shorts=shorts), window))) == 4
    assert "there may be more" in shorts[0]


def test_a_search_that_runs_out_of_time_is_cut() -> None:
    """Complaint 13: time-outs of wide searches."""
    catalog = Odd(kind="slow", most=5)
    catalog.add(*(scene(f"s-{i}", NOW - timedelta(days=i)) for i in range(40)))
    window = Window(start=NOW - timedelta(days=40), end=NOW)
    assert set(listed(reader(catalog), window)) == {f"s-{i}" for i in range(40)}


def test_a_host_that_is_down_is_not_asked_in_ever_smaller_pieces() -> None:
    catalog = MemoryCatalog("down")
    catalog.fail(*[CatalogUnavailable("out of time", too_slow=True)] * 100)
    with pytest.raises(CatalogUnavailable, match="out of time"):
        listed(reader(catalog, tries=3), Window(start=NOW - timedelta(days=40), end=NOW))
    assert len(catalog.queries) == 15


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=clock) as opened:
        opened.migrate()
        yield opened


def watcher(store: Store, clock: ManualClock, catalog: MemoryCatalog, **options: Any) -> Watcher:
    watch = CatalogWatch(catalog=catalog, areas=(AREA,), sensors={"sentinel-2-l2a": "auto"}, **options)
    return Watcher([watch], store, clock, rng=random.Random(1))


def test_a_checkpoint_is_left_after_each_page_and_reading_goes_on_there(store: Store, clock: ManualClock) -> None:
    """Complaint 14: a disconnect in the middle of paging costs one page, in a new process too."""
    catalog = MemoryCatalog("memory")
    watcher(store, clock, catalog, page_size=2).poll("memory")
    catalog.add(*(scene(f"s-{i}", NOW + timedelta(minutes=i)) for i in range(9)))
    clock.advance(3600)
    catalog.fail(None, None, None, *[CatalogUnavailable("cut")] * 3)
    assert watcher(store, clock, catalog, page_size=2).poll("memory").error == "cut"
    cursor = store.cursor("memory", "north")
    assert cursor is not None
    begun = Note.read(cursor.token).open
    assert begun is not None
    assert begun.place.token == "6"
    asked = len(catalog.queries)
    report = watcher(store, clock, catalog, page_size=2).poll("memory")
    assert report.error is None
    assert {row.scene.item_id for row in store.scenes(state="pending")} == {f"s-{i}" for i in range(9)}
    # Three Items were left of the window; then the window of this poll follows, with all nine.
    assert (report.new, report.items, len(catalog.queries) - asked) == (3, 3 + 9, 2)
    cursor = store.cursor("memory", "north")
    assert cursor is not None
    assert Note.read(cursor.token).open is None


def test_a_token_that_has_died_costs_one_window_read_again(store: Store, clock: ManualClock) -> None:
    class Forgetful(MemoryCatalog):
        def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
            if resume is not None and self.forgets:
                raise CatalogInvalid("no such token")
            yield from super().pages(query, resume=resume)

        forgets = False

    catalog = Forgetful("memory")
    watcher(store, clock, catalog, page_size=2).poll("memory")
    catalog.add(*(scene(f"s-{i}", NOW + timedelta(minutes=i)) for i in range(5)))
    clock.advance(3600)
    catalog.fail(None, None, *[CatalogUnavailable("cut")] * 3)
    watcher(store, clock, catalog, page_size=2).poll("memory")
    catalog.forgets = True
    report = watcher(store, clock, catalog, page_size=9).poll("memory")
    assert report.error is None
    assert {row.scene.item_id for row in store.scenes(state="pending")} == {f"s-{i}" for i in range(5)}


def test_a_note_comes_back_as_it_was_written() -> None:
    plain = Note(axis="updated")
    assert Note.read(plain.write()) == plain
    assert Note.read(json.dumps({"axis": "updated"})) == plain  # as earlier versions wrote it
    for odd in (None, "", "[]", "{", '{"open": {"start": 7}}', '{"axis": 3}'):
        assert Note.read(odd) == Note()


def test_a_place_is_told_only_over_the_whole_ground() -> None:
    catalog = Odd(kind="capped", most=2)
    catalog.add(*(scene(f"s-{i}", NOW, 9.6 + 0.1 * i) for i in range(6)))
    window = Window(start=NOW - timedelta(seconds=1), end=NOW)
    pages = list(reader(catalog, page_size=1).pages(window, GROUND))
    assert {str(entry["id"]) for page, _ in pages for entry in page.items} == {f"s-{i}" for i in range(6)}
    assert all(place is None or isinstance(place, Place) for _, place in pages)
    assert None in [place for _, place in pages]


class Liar(MemoryCatalog):
    """Declares searches by ``updated``; ignores them, or answers them with nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__("liar", axes=frozenset({"datetime", "updated"}))
        self.kind = kind

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        if query.axis == "datetime":
            yield from super().pages(query, resume=resume)
            return
        self.queries.append(query)
        everything = tuple(self._items.values()) if self.kind == "ignores" else ()
        yield Page(items=everything, next=None)


@pytest.mark.parametrize("kind", ["ignores", "answers nothing"])
def test_a_server_that_only_declares_searches_by_updated_is_found_out(
    store: Store, clock: ManualClock, kind: str
) -> None:
    catalog = Liar(kind)
    catalog.add(scene("a", NOW - timedelta(days=1)), scene("b", NOW - timedelta(days=2)))
    watching = watcher(store, clock, catalog)
    report = watching.poll("liar")
    assert any("does not find its own Items by it" in fault for fault in report.faults)
    catalog.add(scene("late", NOW - timedelta(hours=5)))
    clock.advance(300)
    assert watching.poll("liar").new == 1
    assert catalog.queries[-1].axis == "datetime"


def test_a_server_that_finds_its_items_by_updated_is_searched_by_it(store: Store, clock: ManualClock) -> None:
    catalog = MemoryCatalog("memory", axes=frozenset({"datetime", "updated"}))
    catalog.add(scene("a", NOW - timedelta(days=1)))
    watching = watcher(store, clock, catalog)
    assert watching.poll("memory").faults == ()
    clock.advance(300)
    watching.poll("memory")
    assert catalog.queries[-1].axis == "updated"
