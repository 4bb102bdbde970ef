"""Looks and references: what a place looked like, and what a scene is compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.scenes import Scene
from daemon.store import LookRow, Store
from tests.stores import StoreBench, claimed, make_scene, ready, seen, watch

KEY = ("north", "sentinel-2", "model")


def look_at(
    store: Store, scene: Scene, *, flagged: bool = False, family: str = "sentinel-2", model: str = "model"
) -> LookRow:
    """Score ``scene`` over the north; returns the look stored."""
    ready(store, seen(scene))
    claim = claimed(store)
    assert claim.scene == scene
    row = LookRow(
        scene_id=scene.scene_id,
        area="north",
        family=family,
        model_hash=model,
        sensing_time=scene.sensing_time,
        flagged=flagged,
        blob=scene.item_id.encode(),
    )
    with store.finish(claim) as ending:
        ending.put_look(row)
        ending.done("scored")
    return row


def test_earlier_looks_are_the_latest_unflagged_ones_before_a_scene(store: Store) -> None:
    rows = [look_at(store, make_scene(f"s{hour}", hour), flagged=hour == 2) for hour in range(5)]
    before = make_scene("now", 4)

    wanted = sorted((row for row in rows if not row.flagged), key=lambda row: (row.sensing_time, row.scene_id))
    wanted = [row for row in wanted if (row.sensing_time, row.scene_id) < (before.sensing_time, before.scene_id)]
    assert store.earlier_looks(*KEY, before, 10) == tuple(reversed(wanted))
    assert store.earlier_looks(*KEY, before, 2) == tuple(reversed(wanted[-2:]))
    assert store.earlier_looks(*KEY, make_scene("first", -1), 10) == ()
    footprints = store.earlier_footprints(*KEY, before, 2)
    assert [each.scene_id for each in footprints] == [look.scene_id for look in reversed(wanted[-2:])]
    assert all(each.geometry == make_scene("any").geometry for each in footprints)


def test_looks_of_other_areas_families_and_models_do_not_count(store: Store) -> None:
    look_at(store, make_scene("aerial"), family="aerial")
    look_at(store, make_scene("other model", 1), model="other")
    wanted = look_at(store, make_scene("same", 2))
    now = make_scene("now", 9)
    assert store.earlier_looks(*KEY, now, 10) == (wanted,)
    assert store.earlier_looks("south", "sentinel-2", "model", now, 10) == ()


def test_a_scene_is_never_compared_with_another_version_of_itself(store: Store) -> None:
    old = make_scene("a")
    new = replace(old, version="00000000000000b2")
    look_at(store, old)
    assert store.earlier_looks(*KEY, new, 10) == ()
    assert store.earlier_looks(*KEY, old, 10) == ()


def test_of_two_versions_the_newer_look_counts(store: Store) -> None:
    old = make_scene("a")
    look_at(store, old)
    newer = look_at(store, replace(old, version="00000000000000b2"))
    now = make_scene("now", 1)
    assert store.earlier_looks(*KEY, now, 10) == (newer,)
    look_at(store, replace(old, version="00000000000000c3"), flagged=True)
    assert store.earlier_looks(*KEY, now, 10) == ()


def test_looks_come_back_in_the_order_asked(store: Store) -> None:
    rows = [look_at(store, make_scene(f"s{hour}", hour)) for hour in range(3)]
    ids = [rows[2].scene_id, rows[0].scene_id, rows[1].scene_id]
    assert store.looks_by_id(*KEY, ids) == (rows[2], rows[0], rows[1])
    assert store.looks_by_id(*KEY, []) == ()
    with pytest.raises(LookupError, match="unknown"):
        store.looks_by_id(*KEY, [*ids, "unknown"])


def test_the_first_pin_wins_over_retries_and_later_workers(bench: StoreBench, store: Store) -> None:
    scene = make_scene("a")
    ready(store, seen(scene))
    claim = claimed(store, "first", 0.1)
    assert store.pinned_reference(scene.scene_id, *KEY) is None
    pinned = store.pin_reference(claim, *KEY, "reference 1", ["y", "x"])
    assert (pinned.reference_id, pinned.look_ids) == ("reference 1", ("y", "x"))
    bench.let_pass(0.15)
    again = claimed(store, "second")
    assert store.pin_reference(again, *KEY, "reference 2", ["z"]) == pinned
    assert store.pinned_reference(scene.scene_id, *KEY) == pinned

    other_model = store.pin_reference(again, "north", "sentinel-2", "model 2", "reference 3", [])
    assert other_model.look_ids == ()


def test_a_pin_outlives_a_replay(store: Store) -> None:
    ready(store, seen(make_scene("a")))
    claim = claimed(store)
    pinned = store.pin_reference(claim, *KEY, "reference 1", ["x"])
    store.fail(claim, "broken", None)
    store.replay(failed=True)
    assert store.pin_reference(claimed(store), *KEY, "reference 2", ["y"]) == pinned


def test_one_reference_serves_many_scenes_and_never_changes(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", "south")
    ready(store, seen(make_scene("a"), "north"), seen(make_scene("b", 1), "north"))
    claim = claimed(store)
    first = store.pin_reference(claim, *KEY, "reference 1", ["x"])
    store.fail(claim, "broken", None)
    claim = claimed(store)
    with pytest.raises(ValueError, match="never changes"):
        store.pin_reference(claim, *KEY, "reference 1", ["x", "y"])
    assert store.pinned_reference(claim.scene.scene_id, *KEY) is None
    assert store.pin_reference(claim, *KEY, "reference 1", ["x"]) == first


def test_the_identities_behind_scene_versions(store: Store) -> None:
    old = make_scene("a")
    newer = replace(old, version="00000000000000b2")
    look_at(store, old)
    look_at(store, newer)
    assert store.identities_of([old.scene_id, newer.scene_id, "unknown"]) == {
        old.scene_id: "identity of a",
        newer.scene_id: "identity of a",
    }
    assert store.identities_of([]) == {}
