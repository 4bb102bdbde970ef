"""The transaction that ends a scene: all of it, or nothing."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from daemon.errors import LeaseLost
from daemon.store import Claim, DetectionRow, IncidentRow, LookRow, Store
from engine.errors import PermanentError
from tests.stores import NOON, SQUARE, StoreBench, claimed, end, make_alert, make_scene, ready, seen, watch


def look(claim: Claim, area: str = "north", **changes: object) -> LookRow:
    row = LookRow(
        scene_id=claim.scene.scene_id,
        area=area,
        family="sentinel-2",
        model_hash="model",
        sensing_time=claim.scene.sensing_time,
        flagged=False,
        blob=b"\x00\x01\xff",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def detection(claim: Claim, detection_id: str = "d1", **changes: object) -> DetectionRow:
    row = DetectionRow(
        detection_id=detection_id,
        scene_id=claim.scene.scene_id,
        area="north",
        kind="flood",
        p_value=0.1 + 0.2,
        threshold=1e-300,
        anchor_cell="32630-0-64-10-20",
        geometry=SQUARE,
        evidence={"new_water": 0.25, "looks": ["a", None], "ünïcode": True},
        incident_key="incident 1",
        published=False,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def incident(key: str = "incident 1", **changes: object) -> IncidentRow:
    row = IncidentRow(
        incident_key=key,
        area="north",
        kind="flood",
        state="new",
        opened_at=NOON,
        first_sensing_time=NOON,
        last_sensing_time=NOON,
        sequence=1,
        geometry=SQUARE,
        cells=("32630-0-64-10-20", "32630-0-64-10-21"),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


@pytest.fixture
def claim(store: Store) -> Claim:
    ready(store, seen(make_scene("a")), seen(make_scene("b", 1)))
    return claimed(store)


def test_everything_put_comes_back_equal(store: Store, claim: Claim) -> None:
    with store.finish(claim) as ending:
        ending.put_look(look(claim))
        ending.put_detection(detection(claim))
        ending.put_incident(incident())
        assert ending.open_incidents("north") == (incident(),)
        assert ending.put_alert(make_alert("alert-1"))
        assert ending.has_alert("alert-1")
        ending.done("scored", "two tiles", {"tiles": 12, "skipped": {"cloud": 3}, "seconds": 0.25})

    assert store.looks_by_id("north", "sentinel-2", "model", [claim.scene.scene_id]) == (look(claim),)
    assert store.detections(claim.scene.scene_id) == (detection(claim),)
    assert store.incidents() == store.incidents("north") == (incident(),)
    assert store.incidents("south") == ()
    assert [row.alert for row in store.alerts()] == [make_alert("alert-1")]
    row = store.scene(claim.scene.scene_id)
    assert row is not None
    assert (row.state, row.outcome, row.reason, row.lease_owner) == ("done", "scored", "two tiles", None)
    assert row.stats == {"tiles": 12, "skipped": {"cloud": 3}, "seconds": 0.25}
    assert row.finished_at is not None
    assert store.areas()["north"].revision == 1


def test_a_crash_in_the_middle_stores_nothing(store: Store, claim: Claim) -> None:
    before = store.scenes()

    def crash() -> None:
        with store.finish(claim) as ending:
            ending.put_look(look(claim))
            ending.put_detection(detection(claim))
            ending.put_incident(incident())
            ending.put_alert(make_alert("alert-1"))
            ending.done("scored")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert store.scenes() == before
    assert store.alerts() == store.incidents() == store.detections(claim.scene.scene_id) == ()
    with pytest.raises(LookupError, match="no look of 'north'"):
        store.looks_by_id("north", "sentinel-2", "model", [claim.scene.scene_id])
    end(store, claim, make_alert("alert-1"))
    assert len(store.alerts()) == 1


def test_an_ending_without_an_outcome_is_refused(store: Store, claim: Claim) -> None:
    with pytest.raises(RuntimeError, match=r"'a' left its block without done\(\)"), store.finish(claim) as ending:
        ending.put_alert(make_alert("alert-1"))
    assert store.alerts() == ()
    assert store.scene(claim.scene.scene_id).state == "claimed"  # type: ignore[union-attr]


def test_done_comes_last(store: Store, claim: Claim) -> None:
    with store.finish(claim) as ending:
        ending.done("scored")
        with pytest.raises(RuntimeError, match="comes last"):
            ending.put_alert(make_alert("alert-1"))
    assert store.alerts() == ()


def test_an_ending_writes_only_where_its_claim_reaches(store: Store, claim: Claim) -> None:
    other = "00000000-0000-0000-0000-000000000000"
    with store.finish(claim) as ending:
        for refused in (
            lambda: ending.put_look(look(claim, "south")),
            lambda: ending.put_look(look(claim, scene_id=other)),
            lambda: ending.put_detection(detection(claim, scene_id=other)),
            lambda: ending.put_incident(incident(area="south")),
            lambda: ending.open_incidents("south"),
        ):
            with pytest.raises(ValueError, match="claimed"):
                refused()
        ending.done("scored")


def test_an_alert_is_laid_into_the_outbox_once(store: Store, claim: Claim) -> None:
    end(store, claim, make_alert("alert-1"))
    (before,) = store.alerts()
    store.replay(scene_ids=[claim.scene.scene_id])
    again = claimed(store)
    with store.finish(again) as ending:
        assert ending.has_alert("alert-1")
        assert not ending.put_alert(replace(make_alert("alert-1"), value=b"other"))
        assert not ending.has_alert("alert-2")
        ending.done("scored")
    assert store.alerts() == (before,)


def test_a_replay_replaces_what_the_first_try_stored(store: Store, claim: Claim) -> None:
    with store.finish(claim) as ending:
        ending.put_look(look(claim))
        for name, published in (("kept", False), ("dropped", False), ("published", True)):
            ending.put_detection(detection(claim, name, published=published))
        ending.put_incident(incident())
        ending.done("scored")
    store.replay(scene_ids=[claim.scene.scene_id])
    again = claimed(store)
    with store.finish(again) as ending:
        ending.put_look(look(again, flagged=True, blob=b""))
        ending.put_detection(detection(again, "kept", p_value=0.5))
        ending.put_incident(incident(state="updated", sequence=2, cells=()))
        ending.done("scored")

    scene_id = claim.scene.scene_id
    assert store.looks_by_id("north", "sentinel-2", "model", [scene_id]) == (look(claim, flagged=True, blob=b""),)
    assert store.detections(scene_id) == (
        detection(claim, "kept", p_value=0.5),
        detection(claim, "published", published=True),
    )
    assert store.incidents() == (incident(state="updated", sequence=2, cells=()),)


def test_open_incidents_are_those_that_have_not_ended_oldest_first(store: Store, claim: Claim) -> None:
    later = incident("1 later", opened_at=NOON.replace(hour=13))
    first = incident("2 first", state="updated")
    with store.finish(claim) as ending:
        for row in (later, first, incident("3 over", state="ended")):
            ending.put_incident(row)
        ending.done("scored")
    with store.finish(claimed(store)) as ending:
        assert ending.open_incidents("north") == (first, later)
        ending.done("scored")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_evidence_that_is_no_json_is_refused_by_name(store: Store, claim: Claim, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"), store.finish(claim) as ending:
        ending.put_detection(detection(claim, evidence={"distance": value}))
    assert store.detections(claim.scene.scene_id) == ()


def test_a_row_that_breaks_the_schema_is_a_permanent_error(store: Store, claim: Claim) -> None:
    with pytest.raises(PermanentError, match="fault of the caller"), store.finish(claim) as ending:
        ending.put_detection(detection(claim, kind=None))
    end(store, claim)


def test_endings_of_an_area_wait_for_each_other(bench: StoreBench, store: Store) -> None:
    """A worker that was late by a lease sees what its heir's predecessor stored, or nothing, never half of it."""
    ready(store, seen(make_scene("a")))
    late = claimed(store, "late", 0.05)
    bench.let_pass(0.1)
    heir = claimed(store, "heir", 60)
    inside, outcome = threading.Event(), []

    def zombie() -> None:
        inside.wait()
        try:
            end(bench.open(), late, make_alert("zombie"))
        except LeaseLost:
            outcome.append("lost")

    thread = threading.Thread(target=zombie)
    thread.start()
    with store.finish(heir) as ending:
        inside.set()
        ending.put_alert(make_alert("heir"))
        thread.join(0.2)
        assert thread.is_alive(), "it did not wait for the area"
        ending.done("scored")
    thread.join(10)
    assert outcome == ["lost"]
    assert [row.alert.alert_id for row in store.alerts()] == ["heir"]


def test_recent_incidents_are_counted_by_area_and_an_alert_knows_when_its_scene_was_discovered(
    bench: StoreBench, store: Store, claim: Claim
) -> None:
    assert store.counts().incidents_opened == {"north": 0, "south": 0}
    now = bench.clock.now() if bench.kind == "sqlite" else datetime.now(UTC)
    with store.finish(claim) as ending:
        for key, days in (("young", 1), ("younger", 29), ("old", 31)):
            first = now - timedelta(days=days)
            ending.put_incident(incident(key, opened_at=first, first_sensing_time=first, last_sensing_time=now))
        ending.put_detection(detection(claim, "alert-1"))
        ending.put_alert(make_alert("alert-1"))
        ending.put_alert(make_alert("without a scene"))
        ending.done("scored")
    assert store.counts().incidents_opened == {"north": 2, "south": 0}
    scene = store.scene(claim.scene.scene_id)
    assert scene is not None
    known = {row.alert.alert_id: row.discovered_at for row in store.outbox_batch(10)}
    assert known == {"alert-1": scene.discovered_at, "without a scene": None}
    watch(store, "north")
    assert store.counts().incidents_opened == {"north": 2}
