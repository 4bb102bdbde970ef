"""Looks of all ages: which there are of a model, which are of others, and how they are renewed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daemon.errors import LeaseLost
from daemon.scenes import Scene
from daemon.store import LookCount, LookKey, LookRow, Sighting, Store
from tests.stores import NOON, StoreBench, claimed, end, make_scene, ready, settle, watch


def look_at(
    store: Store, scene: Scene, model: str = "new", *, areas: tuple[str, ...] = ("north",), flagged: bool = False
) -> list[LookKey]:
    """Score ``scene``; returns the keys of its looks."""
    ready(store, Sighting(scene=scene, areas=dict.fromkeys(areas, "fresh")))
    claim = claimed(store)
    assert claim.scene == scene
    rows = [
        LookRow(
            scene_id=scene.scene_id,
            area=area,
            family="aerial" if scene.sensor.startswith("aerial") else "sentinel-2",
            model_hash=model,
            sensing_time=scene.sensing_time,
            flagged=flagged,
            blob=f"{scene.item_id} {area}".encode(),
        )
        for area in areas
    ]
    with store.finish(claim) as ending:
        for row in rows:
            ending.put_look(row)
        ending.done("scored")
    return [key_of(row) for row in rows]


def key_of(row: LookRow) -> LookKey:
    return LookKey(
        scene_id=row.scene_id,
        area=row.area,
        family=row.family,
        model_hash=row.model_hash,
        sensing_time=row.sensing_time,
        flagged=row.flagged,
    )


def renewed(key: LookKey, model: str = "new") -> LookRow:
    return LookRow(
        scene_id=key.scene_id,
        area=key.area,
        family=key.family,
        model_hash=model,
        sensing_time=key.sensing_time,
        flagged=key.flagged,
        blob=b"renewed",
    )


def test_keys_are_of_one_model_latest_first_and_filtered(store: Store) -> None:
    (first,) = look_at(store, make_scene("a"))
    (other_model,) = look_at(store, make_scene("b", 1), "old")
    aerial, _ = look_at(store, make_scene("c", 2, sensor="aerial-rgb"), areas=("north", "south"))
    (south,) = look_at(store, make_scene("d", 3), areas=("south",), flagged=True)

    in_south = replace(aerial, area="south")
    assert store.look_keys("new") == (south, aerial, in_south, first)
    assert store.look_keys("old") == (other_model,)
    assert store.look_keys("never") == ()
    assert store.look_keys("new", areas=["north"]) == (aerial, first)
    assert store.look_keys("new", areas=[]) == ()
    assert store.look_keys("new", family="sentinel-2") == (south, first)
    hour = timedelta(hours=1)
    assert store.look_keys("new", since=NOON + 2 * hour, until=NOON + 2 * hour) == (aerial, in_south)
    assert store.look_keys("new", since=NOON + 4 * hour) == ()
    assert store.look_counts() == (
        LookCount(area="north", model_hash="new", looks=2),
        LookCount(area="north", model_hash="old", looks=1),
        LookCount(area="south", model_hash="new", looks=2),
    )


def test_a_look_comes_back_whole_and_a_missing_one_is_none(store: Store) -> None:
    key, south = look_at(store, make_scene("a"), areas=("north", "south"))
    row = store.look(key)
    assert row is not None
    assert (key_of(row), row.blob) == (key, b"a north")
    assert store.look(replace(key, model_hash="other")) is None
    row = store.look(south)
    assert row is not None
    assert row.blob == b"a south"


def test_of_two_versions_only_the_newer_look_is_searched_or_renewed(store: Store) -> None:
    old = make_scene("a")
    look_at(store, old, "old")
    (newer,) = look_at(store, replace(old, version="00000000000000b2"), "old")
    assert store.look_keys("old") == (newer,)
    assert store.looks_to_renew("new") == (newer,)
    with_lease = store.hold_lease("reembed", "me", 60.0)
    assert with_lease is not None
    assert store.renew_look(with_lease, renewed(newer))
    assert store.looks_to_renew("new") == ()


def test_looks_to_renew_are_those_without_a_successor_latest_first(store: Store) -> None:
    (done,) = look_at(store, make_scene("a"), "old")
    north, south = look_at(store, make_scene("b", 1), "old", areas=("north", "south"), flagged=True)
    look_at(store, make_scene("c", 2), "new")
    lease = store.hold_lease("reembed", "me", 60.0)
    assert lease is not None
    assert store.renew_look(lease, renewed(done))

    assert store.looks_to_renew("new") == (north, south)
    assert store.looks_to_renew("new", areas=["south"]) == (south,)
    assert store.looks_to_renew("new", since=NOON + timedelta(hours=2)) == ()
    assert [key.scene_id for key in store.looks_to_renew("third", areas=["north"])] == [
        make_scene("c", 2).scene_id,
        make_scene("b", 1).scene_id,
        make_scene("a").scene_id,
    ]


def test_a_scene_that_any_model_flagged_stays_flagged(store: Store) -> None:
    (plain,) = look_at(store, make_scene("a"), "a model")
    lease = store.hold_lease("reembed", "me", 60.0)
    assert lease is not None
    assert store.renew_look(lease, replace(renewed(plain, "later"), flagged=True))
    (key,) = store.looks_to_renew("new")
    assert (key.scene_id, key.flagged) == (plain.scene_id, True)


def test_a_renewed_look_is_a_look_of_the_new_model_and_renewing_twice_changes_nothing(store: Store) -> None:
    (key,) = look_at(store, make_scene("a"), "old")
    lease = store.hold_lease("reembed", "me", 60.0)
    assert lease is not None
    assert store.renew_look(lease, renewed(key))
    assert not store.renew_look(lease, replace(renewed(key), blob=b"again", flagged=True))
    now = make_scene("now", 9)
    assert store.earlier_looks("north", "sentinel-2", "new", now, 9) == (renewed(key),)
    (old,) = store.earlier_looks("north", "sentinel-2", "old", now, 9)
    assert old.blob == b"a north"
    assert store.scenes(state="done")[0].outcome == "scored"
    assert store.idle()


def test_who_lost_the_lease_renews_nothing(bench: StoreBench, store: Store) -> None:
    (key,) = look_at(store, make_scene("a"), "old")
    assert store.hold_lease("reembed", "slow", 60.0) is not None
    assert store.hold_lease("reembed", "quick", 60.0) is None
    slow = store.hold_lease("reembed", "slow", 0.05)
    assert slow is not None
    bench.let_pass(0.1)
    quick = store.hold_lease("reembed", "quick", 60.0)
    assert quick is not None
    with pytest.raises(LeaseLost, match="slow no longer holds"):
        store.renew_look(slow, renewed(key))
    assert store.looks_to_renew("new") == (key,)
    assert store.renew_look(quick, renewed(key))


def test_work_ahead_is_what_may_be_claimed_or_is_being_scored(bench: StoreBench, store: Store) -> None:
    assert store.work_ahead() == "none"
    watch(store, "north", "south", catalogs=("catalog", "slow catalog"))
    ready(store, Sighting(scene=make_scene("a"), areas={"north": "fresh"}))
    assert store.work_ahead() == "none", "another catalog may still list an earlier scene"
    settle(store, catalog="slow catalog")
    assert store.work_ahead() == "waiting"
    claim = claimed(store)
    assert store.work_ahead() == "claimed"
    store.renew(claim, 0.05)
    bench.let_pass(0.1)
    assert store.work_ahead() == "waiting", "its lease has run out"
    store.fail(claimed(store), "503", retry_in_s=60.0)
    assert store.work_ahead() == "none", "it waits for its retry"
    ready(store, Sighting(scene=make_scene("b"), areas={"south": "fresh"}))
    assert store.work_ahead() == "waiting"
    end(store, claimed(store))
    assert store.work_ahead() == "none"
