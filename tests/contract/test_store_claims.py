"""Claims: order, exclusion, leases, retries."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from daemon.errors import LeaseLost
from daemon.store import BACK_FILL, Claim, Cursor, Sighting, Store
from tests.stores import NOON, StoreBench, claimed, end, make_scene, ready, seen, settle, watch


def test_a_claim_says_all_that_a_worker_needs(store: Store) -> None:
    scene = make_scene("a")
    ready(store, seen(scene, "south", "north"))
    claim = claimed(store, "worker 1", 60)

    assert claim.scene == scene
    assert list(claim.areas.items()) == [("north", "fresh"), ("south", "fresh")]
    assert (claim.owner, claim.fence, claim.attempt) == ("worker 1", 1, 1)
    row = store.scene(scene.scene_id)
    assert row is not None
    assert (row.state, row.lease_owner, row.lease_until) == ("claimed", "worker 1", claim.lease_until)


def test_nothing_is_claimed_before_every_catalog_of_its_areas_is_settled(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", "south", catalogs=("one", "two"))
    store.record_page("one", [seen(make_scene("both"), "north", "south"), seen(make_scene("only north", 1), "north")])
    settle(store, "north", "south", catalog="one")
    assert store.claim("worker", 60) is None
    settle(store, "north", catalog="two")
    # The later scene needs the north alone, but the earlier one comes first there, and waits for the south.
    assert store.claim("worker", 60) is None
    settle(store, "south", catalog="two")
    assert claimed(store).scene.item_id == "both"


def test_a_window_that_does_not_settle_lets_nothing_be_claimed(store: Store) -> None:
    store.record_page("catalog", [seen(make_scene("a"))])
    assert store.close_window("catalog", ["north"], Cursor(time=NOON, settled=False)) == 1
    assert store.claim("worker", 60) is None
    settle(store, "north")
    assert store.claim("worker", 60) is not None


def test_scenes_of_an_area_are_claimed_one_at_a_time_in_sensing_order(store: Store) -> None:
    order = ["a", "b", "c", "d", "e"]
    sightings = [seen(make_scene(name, hours)) for hours, name in enumerate(order)]
    random.Random(1).shuffle(sightings)
    ready(store, *sightings)

    for name in order:
        claim = claimed(store)
        assert claim.scene.item_id == name
        assert store.claim("other", 60) is None
        end(store, claim)
    assert store.claim("worker", 60) is None


def test_scenes_sensed_at_once_are_claimed_in_order_of_their_ids(store: Store) -> None:
    scenes = [make_scene(name) for name in "abcdef"]
    ready(store, *(seen(scene) for scene in scenes))
    order = []
    while claim := store.claim("worker", 60):
        order.append(claim.scene.scene_id)
        end(store, claim)
    assert order == sorted(scene.scene_id for scene in scenes)


def test_areas_that_share_no_scene_are_worked_on_side_by_side(store: Store) -> None:
    ready(store, seen(make_scene("n1"), "north"), seen(make_scene("n2", 1), "north"), seen(make_scene("s", 2), "south"))
    assert claimed(store, "one").scene.item_id == "n1"
    assert claimed(store, "two").scene.item_id == "s"
    assert store.claim("three", 60) is None


def test_a_scene_of_two_areas_waits_for_both(store: Store) -> None:
    ready(
        store,
        seen(make_scene("s"), "south"),
        seen(make_scene("n"), "north"),
        seen(make_scene("both", 1), "north", "south"),
    )
    claims = [claimed(store, "one"), claimed(store, "two")]
    for claim in claims:
        assert store.claim("three", 60) is None
        end(store, claim)
    assert claimed(store).scene.item_id == "both"


def test_a_late_scene_waits_for_the_one_being_worked_on_and_then_comes_first(store: Store) -> None:
    ready(store, seen(make_scene("b", 1)), seen(make_scene("c", 2)))
    claim = claimed(store)
    ready(store, seen(make_scene("a", 0)))
    assert store.claim("other", 60) is None
    end(store, claim)
    assert claimed(store).scene.item_id == "a"


def test_an_expired_lease_is_claimed_again_and_its_zombie_is_fenced_off(bench: StoreBench, store: Store) -> None:
    ready(store, seen(make_scene("a")))
    zombie = claimed(store, "zombie", 0.2)
    assert store.claim("heir", 60) is None
    bench.let_pass(0.25)
    heir = claimed(store, "heir", 60)
    assert (heir.scene, heir.fence, heir.attempt) == (zombie.scene, 2, 2)

    for late in (
        lambda: store.renew(zombie, 60),
        lambda: store.release(zombie),
        lambda: store.fail(zombie, "late", 1),
        lambda: end(store, zombie),
        lambda: store.pin_reference(zombie, "north", "family", "model", "reference", []),
    ):
        with pytest.raises(LeaseLost, match="zombie no longer holds 'a'"):
            late()
    end(store, heir)
    with pytest.raises(LeaseLost):
        end(store, heir)


def test_the_same_owner_is_fenced_off_from_its_own_earlier_claim(bench: StoreBench, store: Store) -> None:
    ready(store, seen(make_scene("a")))
    first = claimed(store, "worker", 0.1)
    bench.let_pass(0.15)
    claimed(store, "worker", 60)
    with pytest.raises(LeaseLost):
        end(store, first)


def test_a_renewed_lease_does_not_expire(bench: StoreBench, store: Store) -> None:
    ready(store, seen(make_scene("a")))
    claim = claimed(store, "worker", 0.2)
    renewed = store.renew(claim, 60)
    assert renewed.lease_until - claim.lease_until > timedelta(seconds=50)
    bench.let_pass(0.25)
    assert store.claim("other", 60) is None
    end(store, claim)


def test_a_late_worker_may_finish_what_nobody_took_up(bench: StoreBench, store: Store) -> None:
    ready(store, seen(make_scene("a")))
    claim = claimed(store, "worker", 0.1)
    bench.let_pass(0.15)
    end(store, claim)
    assert store.claim("other", 60) is None


def test_a_released_scene_counts_no_attempt(store: Store) -> None:
    ready(store, seen(make_scene("a")))
    for fence in (1, 2, 3):
        claim = claimed(store)
        assert (claim.attempt, claim.fence) == (1, fence)
        store.release(claim)
    (row,) = store.scenes()
    assert (row.state, row.attempts, row.lease_owner) == ("pending", 0, None)


def test_a_retry_waits_and_holds_back_the_scenes_behind_it(bench: StoreBench, store: Store) -> None:
    ready(store, seen(make_scene("a")), seen(make_scene("b", 1)), seen(make_scene("s", 2), "south"))
    assert store.fail(claimed(store), "503 \x00\ud800", retry_in_s=0.3) == "pending"
    (row,) = store.scenes(item_id="a")
    assert row.reason == "503 \N{REPLACEMENT CHARACTER}?"
    assert claimed(store).scene.item_id == "s"
    assert store.claim("worker", 60) is None
    bench.let_pass(0.35)
    again = claimed(store)
    assert (again.scene.item_id, again.attempt) == ("a", 2)


def test_a_permanent_error_fails_at_once_and_lets_the_next_scene_pass(store: Store) -> None:
    ready(store, seen(make_scene("a")), seen(make_scene("b", 1)))
    assert store.fail(claimed(store), "truncated file", None) == "failed"
    (row,) = store.scenes(item_id="a")
    assert (row.state, row.outcome, row.reason) == ("failed", "failed", "truncated file")
    assert row.finished_at is not None
    assert claimed(store).scene.item_id == "b"


def test_attempts_are_bounded(bench: StoreBench) -> None:
    store = bench.open(max_attempts=3)
    watch(store, "north", "south")
    ready(store, seen(make_scene("a")))
    states = [store.fail(claimed(store), "timeout", retry_in_s=0) for _ in range(3)]
    assert states == ["pending", "pending", "failed"]
    assert store.claim("worker", 60) is None


def test_a_scene_that_kills_its_workers_fails_in_the_end(bench: StoreBench) -> None:
    store = bench.open(max_attempts=2)
    watch(store, "north", "south")
    ready(store, seen(make_scene("poison")), seen(make_scene("b", 1)))
    for attempt in (1, 2):
        assert claimed(store, "victim", 0.05).attempt == attempt
        bench.let_pass(0.1)
    assert claimed(store).scene.item_id == "b"
    (row,) = store.scenes(state="failed")
    assert row.scene.item_id == "poison"
    assert "2 times" in str(row.reason)
    assert store.replay(failed=True) == 1


def test_an_older_version_whose_worker_died_is_not_taken_up_again(bench: StoreBench, store: Store) -> None:
    old = make_scene("a")
    ready(store, seen(old))
    claimed(store, "victim", 0.1)
    ready(store, seen(make_scene("a", version="00000000000000b2")))
    bench.let_pass(0.15)
    assert claimed(store).scene.version == "00000000000000b2"
    assert [row.scene for row in store.scenes(state="superseded")] == [old]


def test_many_workers_score_every_scene_once_in_order(bench: StoreBench) -> None:
    """Threads with stores of their own; scenes of one, two and three areas; some tries fail or are handed back."""
    areas = ["east", "north", "south", "west"]
    draw = random.Random(7)
    setup = bench.open()
    watch(setup, *areas)
    scenes = [(make_scene(f"s{hour}", hour), draw.sample(areas, draw.choice((1, 1, 2, 3)))) for hour in range(40)]
    setup.record_page("catalog", [seen(scene, *where) for scene, where in scenes])
    settle(setup, *areas)

    held: dict[str, str] = {}
    log: dict[str, list[str]] = defaultdict(list)
    guard = threading.Lock()

    def work(number: int) -> None:
        store, fate, deadline = bench.open(), random.Random(number), time.monotonic() + 60
        while not store.idle():
            assert time.monotonic() < deadline, "the workers do not come to an end"
            claim = store.claim(f"worker {number}", 30)
            if claim is None:
                time.sleep(0.002)
                continue
            with guard:
                assert not held.keys() & claim.areas.keys(), "two workers are in one area"
                held.update(dict.fromkeys(claim.areas, claim.owner))
            time.sleep(fate.random() * 0.004)
            with guard:
                for name in claim.areas:
                    del held[name]
            throw = fate.random()
            if throw < 0.1:
                store.release(claim)
            elif throw < 0.2:
                store.fail(claim, "unlucky", retry_in_s=0)
            else:
                with store.finish(claim) as ending:
                    with guard:
                        for name in claim.areas:
                            log[name].append(claim.scene.item_id)
                    ending.done("scored")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert {row.state for row in setup.scenes()} == {"done"}
    assert dict(log) == {name: [scene.item_id for scene, where in scenes if name in where] for name in areas}
    assert sum(watched.revision for watched in setup.areas().values()) == sum(len(where) for _, where in scenes)


def test_workers_that_race_for_one_scene_get_it_once(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north", "south")
    ready(store, seen(make_scene("a")))
    start = threading.Barrier(6)

    def race(number: int) -> Claim | None:
        own = bench.open()
        own.ping()
        start.wait()
        return own.claim(f"worker {number}", 60)

    with ThreadPoolExecutor(6) as pool:
        winners = [claim for claim in pool.map(race, range(6)) if claim is not None]
    assert len(winners) == 1
    assert winners[0].fence == 1


def back_filled(name: str, hours: float, *areas: str) -> Sighting:
    return Sighting(
        scene=make_scene(name, hours), areas=dict.fromkeys(areas or ("north",), "history"), priority=BACK_FILL
    )


def test_no_fresh_scene_waits_for_a_back_fill(store: Store) -> None:
    settle(store)
    store.record_page("back-fill", [back_filled("old-1", -900), back_filled("old-2", -800)])
    assert store.claim("worker", 60) is None
    assert store.release_listed("back-fill", ["north", "south"]) == 2
    history = claimed(store, "one")
    assert history.scene.item_id == "old-1"
    # A fresh scene arrives while history is worked on: it neither waits for that nor for the rest.
    ready(store, seen(make_scene("fresh", 1)), seen(make_scene("elsewhere", 2), "south"))
    fresh = claimed(store, "two")
    assert fresh.scene.item_id == "fresh"
    assert claimed(store, "three").scene.item_id == "elsewhere"
    end(store, history)
    assert store.claim("four", 60) is None  # and history waits while a fresh scene is worked on
    end(store, fresh)
    assert claimed(store).scene.item_id == "old-2"


def test_fresh_scenes_of_any_area_come_before_a_back_fill_of_another(store: Store) -> None:
    settle(store)
    store.record_page("back-fill", [back_filled("old", -900, "north")])
    store.release_listed("back-fill", ["north"])
    ready(store, seen(make_scene("fresh", 5), "south"))
    assert claimed(store).scene.item_id == "fresh"
    assert claimed(store).scene.item_id == "old"


def test_what_a_back_fill_has_queued_is_fresh_once_it_is_watched(store: Store) -> None:
    settle(store)
    store.record_page("back-fill", [back_filled("a", -900), back_filled("b", -800)])
    store.release_listed("back-fill", ["north"])
    ready(store, seen(make_scene("b", -800)), seen(make_scene("c", 0)))
    names = []
    while claim := store.claim("worker", 60):
        names.append((claim.scene.item_id, claim.areas["north"]))
        end(store, claim)
    assert names == [("b", "fresh"), ("c", "fresh"), ("a", "history")]


def test_a_mark_of_a_back_fill_is_no_catalog_that_is_waited_for(store: Store) -> None:
    settle(store)
    assert store.cursor("back-fill", "north") is None
    store.mark("back-fill", "north", Cursor(time=NOON, token="3"))
    store.mark("back-fill", "north", Cursor(time=NOON, token="4"))
    assert store.cursor("back-fill", "north") == Cursor(time=NOON, token="4", settled=True)
    ready(store, seen(make_scene("a")))
    assert claimed(store).scene.item_id == "a"
