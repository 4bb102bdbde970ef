"""Areas, cursors and windows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daemon.scenes import Area
from daemon.store import Cursor, Store
from tests.stores import NOON, SQUARE, StoreBench, make_scene, ready, seen, settle, watch


def test_an_area_is_watched_since_its_first_registration(bench: StoreBench) -> None:
    store = bench.open()
    area = Area(name="north", geometry=SQUARE)
    first = store.register_areas([area], {"catalog": ["north"]})["north"]
    bench.let_pass(0.01)
    again = store.register_areas([area], {"catalog": ["north"]})["north"]

    assert first.geometry == SQUARE
    assert again.watched_since == first.watched_since
    assert store.areas() == {"north": again}
    if bench.kind == "sqlite":
        assert first.watched_since == NOON


def test_alert_since_says_since_when_an_area_is_watched(bench: StoreBench) -> None:
    store = bench.open()
    area = Area(name="north", geometry=SQUARE, alert_since=NOON - timedelta(days=30))
    assert store.register_areas([area], {})["north"].watched_since == NOON - timedelta(days=30)
    later = replace(area, alert_since=NOON)
    assert store.register_areas([later], {})["north"].watched_since == NOON


def test_an_area_that_is_no_longer_configured_is_not_worked_on(store: Store) -> None:
    ready(store, seen(make_scene("a"), "north"), seen(make_scene("b", 1), "south"))
    watch(store, "south")

    assert not store.areas()["north"].active
    claim = store.claim("worker", 60)
    assert claim is not None
    assert claim.scene.item_id == "b"
    assert store.claim("worker", 60) is None


def test_an_area_that_comes_back_keeps_its_start_and_its_cursor(store: Store) -> None:
    before = store.areas()["north"]
    settle(store, "north")
    watch(store, "south")
    watch(store, "north", "south")

    assert store.areas()["north"] == before
    assert store.cursor("catalog", "north") == Cursor(time=NOON, settled=True)


def test_a_catalog_cannot_be_read_for_an_unknown_area(store: Store) -> None:
    with pytest.raises(ValueError, match="elsewhere"):
        store.register_areas([Area(name="north", geometry=SQUARE)], {"catalog": ["elsewhere"]})


def test_a_cursor_comes_back_as_it_was_stored(store: Store) -> None:
    assert store.cursor("catalog", "north") == Cursor()
    assert store.cursor("other", "north") is None

    moved = Cursor(
        time=NOON + timedelta(microseconds=1), settled=True, token="page 7", swept_at=NOON - timedelta(days=1)
    )
    store.close_window("catalog", ["north"], moved)
    assert store.cursor("catalog", "north") == moved
    assert store.cursor("catalog", "south") == Cursor()


def test_a_settled_cursor_stays_settled(store: Store) -> None:
    settle(store, "north")
    store.close_window("catalog", ["north"], Cursor(time=NOON, settled=False))
    cursor = store.cursor("catalog", "north")
    assert cursor is not None
    assert cursor.settled


def test_scenes_are_pending_once_their_window_closes(store: Store) -> None:
    store.record_page("catalog", [seen(make_scene("a"), "north"), seen(make_scene("b"), "south")])
    assert {row.state for row in store.scenes()} == {"discovered"}
    assert settle(store, "north") == 1
    assert {row.scene.item_id: row.state for row in store.scenes()} == {"a": "pending", "b": "discovered"}
    assert settle(store, "north") == 0


def test_a_window_that_cannot_close_moves_nothing(store: Store) -> None:
    store.record_page("catalog", [seen(make_scene("a"), "north")])
    with pytest.raises(ValueError, match="not registered for area 'nowhere'"):
        store.close_window("catalog", ["north", "nowhere"], Cursor(time=NOON, settled=True))

    assert store.cursor("catalog", "north") == Cursor()
    assert [row.state for row in store.scenes()] == ["discovered"]


def test_a_window_closes_only_over_what_its_own_catalog_listed(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", catalogs=("one", "two"))
    store.record_page("one", [seen(make_scene("a", catalog="one"))])
    store.record_page("two", [seen(make_scene("b", 1, catalog="two"))])

    assert settle(store, "north", catalog="two") == 1
    assert {row.scene.item_id: row.state for row in store.scenes()} == {"a": "discovered", "b": "pending"}


def test_a_scene_of_two_catalogs_does_not_wait_for_the_one_that_fails(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", catalogs=("one", "two"))
    store.record_page("one", [seen(make_scene("a", catalog="one"))])
    store.record_page("two", [seen(make_scene("a", catalog="two"))])

    assert settle(store, "north", catalog="two") == 1


def test_settled_waits_for_every_active_catalog(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", "south", catalogs=("one", "two"))
    settle(store, "north", "south", catalog="one")
    assert not store.settled()
    settle(store, "north", catalog="two")
    assert store.settled("north")
    assert not store.settled("south")
    assert not store.settled()
    watch(store, "north", "south", catalogs=("one",))
    assert store.settled()


def test_a_catalog_that_never_answers_can_be_excused(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", "south", catalogs=("one", "mute"))
    store.record_page("one", [seen(make_scene("a", catalog="one"), "north")])
    settle(store, "north", catalog="one")
    assert store.claim("worker", 60.0) is None
    assert store.excuse("mute") == ("north", "south")
    assert store.excuse("mute") == ()
    claim = store.claim("worker", 60.0)
    assert claim is not None
    assert claim.scene.item_id == "a"
    # Its first window is still to be read as one.
    assert store.cursor("mute", "north") == Cursor(time=None, settled=True)
