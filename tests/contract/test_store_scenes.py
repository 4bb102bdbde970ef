"""Scenes: what catalogs list is stored once, whatever they repeat."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from daemon.store import PageCounts, Store
from tests.stores import NOON, StoreBench, claimed, end, make_scene, ready, seen, settle, watch


def test_a_scene_comes_back_as_it_was_seen(store: Store) -> None:
    scene = make_scene("a", updated=None, cloud_cover_percent=None, platform=None, grid_code=None)
    assert store.record_page("catalog", [seen(scene, "south", "north")]) == PageCounts(new=1)

    row = store.scene(scene.scene_id)
    assert row is not None
    assert row.scene == scene
    assert dict(row.areas) == {"north": "fresh", "south": "fresh"}
    assert (row.state, row.attempts, row.fence, row.outcome, row.finished_at) == ("discovered", 0, 0, None, None)
    assert store.scenes(item_id="a") == (row,)
    assert store.scenes(item_id="b") == ()
    assert store.scenes(state="discovered") == (row,)
    assert store.scenes(state="done") == ()
    assert store.scene("00000000-0000-0000-0000-000000000000") is None


def test_times_are_kept_to_the_microsecond_in_utc(store: Store) -> None:
    elsewhere = datetime(2026, 7, 1, 0, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    store.record_page("catalog", [seen(make_scene("a", sensing_time=elsewhere))])
    (row,) = store.scenes()
    assert row.scene.sensing_time == elsewhere
    assert row.scene.sensing_time.tzinfo is UTC


def test_scenes_are_listed_in_sensing_order(store: Store) -> None:
    # Texts of unequal precision sort wrongly; so would local times.
    offsets_s = [0.000001, 0, 10, 9, 0.5, -1, 86400]
    scenes = [make_scene(str(offset), sensing_time=NOON + timedelta(seconds=offset)) for offset in offsets_s]
    store.record_page("catalog", [seen(scene) for scene in scenes])
    assert [row.scene.item_id for row in store.scenes()] == [str(offset) for offset in sorted(offsets_s)]


def test_a_page_recorded_again_changes_nothing(store: Store) -> None:
    page = [seen(make_scene("a"), "north"), seen(make_scene("b", 1), "north", "south")]
    store.record_page("catalog", page)
    before = store.scenes()
    assert store.record_page("catalog", page) == PageCounts(known=2)
    assert store.scenes() == before

    settle(store)
    end(store, claimed(store))
    before = store.scenes()
    assert store.record_page("catalog", page) == PageCounts(known=2)
    settle(store)
    assert store.scenes() == before


def test_updated_alone_makes_no_new_version(store: Store) -> None:
    scene = make_scene("a")
    store.record_page("catalog", [seen(scene)])
    touched = replace(scene, updated=NOON + timedelta(days=1))
    assert store.record_page("catalog", [seen(touched)]) == PageCounts(known=1)
    assert len(store.scenes()) == 1


def test_twins_of_one_acquisition_are_one_row(store: Store) -> None:
    first, twin = make_scene("S2A_30TXQ_0", identity="one pass"), make_scene("S2A_30TXQ_1", identity="one pass")
    counts = store.record_page("catalog", [seen(first, "north"), seen(twin, "south"), seen(first, "north")])
    assert counts == PageCounts(new=1, known=2, gained=1)
    (row,) = store.scenes()
    assert row.scene.item_id == "S2A_30TXQ_0"
    assert set(row.areas) == {"north", "south"}


def test_a_new_version_supersedes_one_that_nobody_scored(store: Store) -> None:
    old = make_scene("a")
    new = replace(old, version="00000000000000b2")
    ready(store, seen(old))
    assert store.record_page("catalog", [seen(new)]) == PageCounts(changed=1)

    row = store.scene(old.scene_id)
    assert row is not None
    assert (row.state, row.superseded_by) == ("superseded", new.scene_id)
    assert row.finished_at is not None
    assert "00000000000000b2" in str(row.reason)
    settle(store)
    assert claimed(store).scene == new
    assert store.record_page("catalog", [seen(old)]) == PageCounts(known=1)
    assert store.scenes(state="superseded") == (row,)


def test_a_new_version_leaves_a_scored_one_as_it_is(store: Store) -> None:
    old = make_scene("a")
    ready(store, seen(old))
    end(store, claimed(store))
    ready(store, seen(replace(old, version="00000000000000b2")))

    assert sorted(row.state for row in store.scenes()) == ["done", "pending"]


def test_the_levels_of_one_pass_do_not_supersede_each_other(store: Store) -> None:
    l2a = make_scene("l2a", identity="one pass")
    l1c = make_scene("l1c", identity="one pass", sensor="sentinel-2-l1c", version="00000000000000b2")
    assert store.record_page("catalog", [seen(l2a), seen(l1c)]) == PageCounts(new=2)
    assert store.versions_of("one pass") == (l2a, l1c)
    assert store.versions_of("another") == ()
    later = replace(l2a, version="00000000000000c3")
    assert store.record_page("catalog", [seen(later)]) == PageCounts(changed=1)
    assert {row.scene.item_id: row.scene.version for row in store.scenes(state="discovered")} == {
        "l1c": l1c.version,
        "l2a": later.version,
    }
    assert store.versions_of("one pass") == (l2a, l1c, later)


def test_an_old_version_listed_late_by_a_lagging_replica_is_not_scored(store: Store) -> None:
    new = make_scene("a", version="00000000000000b2", updated=NOON)
    old = replace(new, version="00000000000000a1", updated=NOON - timedelta(days=1))
    counts = store.record_page("catalog", [seen(new), seen(old)])
    assert counts == PageCounts(new=1, known=1)
    assert {row.scene.version: row.state for row in store.scenes()} == {
        "00000000000000a1": "superseded",
        "00000000000000b2": "discovered",
    }


def test_a_version_that_arrives_during_the_work_takes_over_where_it_fails(store: Store) -> None:
    old = make_scene("a")
    ready(store, seen(old))
    claim = claimed(store)
    ready(store, seen(replace(old, version="00000000000000b2")))
    assert store.claim("other", 60) is None
    assert store.fail(claim, "timeout", retry_in_s=0) == "superseded"
    assert claimed(store).scene.version == "00000000000000b2"


def test_a_done_scene_that_gains_an_area_is_scored_there_only(store: Store) -> None:
    scene = make_scene("a")
    ready(store, seen(scene, "north"))
    end(store, claimed(store))
    assert store.record_page("catalog", [seen(scene, "north", "south")]) == PageCounts(known=1, gained=1)
    assert store.claim("worker", 60) is None
    settle(store)

    claim = claimed(store)
    assert dict(claim.areas) == {"south": "fresh"}
    assert claim.attempt == 1
    end(store, claim)
    (row,) = store.scenes()
    assert row.state == "done"


def test_a_scene_that_gains_an_area_during_the_work_is_pending_for_it(store: Store) -> None:
    scene = make_scene("a")
    ready(store, seen(scene, "north"))
    claim = claimed(store)
    store.record_page("catalog", [seen(scene, "south")])
    end(store, claim)

    assert not store.idle()
    settle(store)
    assert dict(claimed(store).areas) == {"south": "fresh"}


def test_history_may_become_fresh_but_never_the_other_way(store: Store) -> None:
    scene = make_scene("a")
    store.record_page("catalog", [seen(scene, role="history")])
    store.record_page("catalog", [seen(scene, role="fresh")])
    store.record_page("catalog", [seen(scene, role="history")])
    settle(store)
    claim = claimed(store)
    assert dict(claim.areas) == {"north": "fresh"}

    end(store, claim)
    assert store.record_page("catalog", [seen(scene, role="fresh")]) == PageCounts(known=1)
    assert store.scenes()[0].state == "done"


def test_one_bad_item_does_not_block_its_page(store: Store) -> None:
    bad = [
        make_scene("nul\x00"),
        make_scene("surrogate", platform="\ud800"),
        make_scene("nan", item={"x": math.nan}),
        make_scene("naive", sensing_time=datetime(2026, 1, 1)),  # noqa: DTZ001
    ]
    counts = store.record_page("catalog", [*(seen(scene) for scene in bad), seen(make_scene("good"))])
    assert counts.new == 1
    assert len(counts.refused) == 4
    assert [row.scene.item_id for row in store.scenes()] == ["good"]
    for name, sentence in zip(["nul", "surrogate", "nan", "naive"], counts.refused, strict=True):
        assert name in sentence


def test_a_page_for_an_unknown_area_is_refused_whole(store: Store) -> None:
    with pytest.raises(ValueError, match="elsewhere"):
        store.record_page("catalog", [seen(make_scene("a")), seen(make_scene("b"), "elsewhere")])
    assert store.scenes() == ()


def test_replay_takes_up_what_it_is_told(bench: StoreBench) -> None:
    store = bench.open(max_attempts=1)
    watch(store, "north", "south")
    scenes = [make_scene(name, hours) for hours, name in enumerate("abcd")]
    ready(store, *(seen(scene) for scene in scenes))
    for outcome in ("fails", "fails", "ends", "ends"):
        claim = claimed(store)
        if outcome == "fails":
            assert store.fail(claim, "no such band", None) == "failed"
        else:
            end(store, claim)

    assert store.replay() == 0
    assert store.replay(failed=True) == 2
    assert store.replay(failed=True) == 0
    assert store.replay(item_ids=["c"]) == 1
    assert store.replay(scene_ids=[scenes[3].scene_id, "unknown"]) == 1
    assert [(row.state, row.attempts) for row in store.scenes()] == [("pending", 0)] * 4
    assert [end(store, claimed(store)) for _ in scenes] == [None] * 4
    assert {row.state for row in store.scenes()} == {"done"}


def test_replay_lets_a_failed_scene_rest_that_was_replaced(store: Store) -> None:
    old = make_scene("a")
    ready(store, seen(old))
    store.fail(claimed(store), "corrupt", None)
    ready(store, seen(replace(old, version="00000000000000b2")))
    assert store.replay(failed=True) == 0
    assert store.replay(scene_ids=[old.scene_id]) == 1
