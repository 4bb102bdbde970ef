"""The outbox, the relay's lease, and the counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.errors import LeaseLost
from daemon.store import Lease, OutboxRow, Store
from tests.stores import StoreBench, claimed, end, make_alert, make_scene, ready, seen


@pytest.fixture
def lease(store: Store) -> Lease:
    lease = store.hold_lease("relay", "relay 1", 60)
    assert lease is not None
    return lease


def fill(store: Store, *alert_ids: str) -> tuple[OutboxRow, ...]:
    ready(store, seen(make_scene(" ".join(alert_ids))))
    end(store, claimed(store), *(make_alert(alert_id) for alert_id in alert_ids))
    return store.outbox_batch(100)


def ids(rows: tuple[OutboxRow, ...]) -> list[str]:
    return [row.alert.alert_id for row in rows]


def test_alerts_leave_in_the_order_in_which_they_were_laid(store: Store, lease: Lease) -> None:
    fill(store, "c", "a", "b")
    rows = fill(store, "z", "d")
    assert ids(rows) == ["c", "a", "b", "z", "d"]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert ids(store.outbox_batch(2)) == ["c", "a"]
    assert ids(store.outbox_batch(2, after_seq=rows[1].seq)) == ["b", "z"]

    store.mark_sent(lease, [rows[0].seq, rows[2].seq])
    assert ids(store.outbox_batch(100)) == ["a", "z", "d"]
    assert ids(store.alerts()) == ["c", "a", "b", "z", "d"]
    assert [row.sent_at is not None for row in store.alerts()] == [True, False, True, False, False]


def test_an_alert_on_the_wire_is_byte_for_byte_what_was_laid(store: Store) -> None:
    (row,) = fill(store, "a")
    assert row.alert == make_alert("a")
    assert (row.sent_at, row.parked_at, row.attempts, row.last_error) == (None, None, 0, None)


def test_a_failed_delivery_is_remembered_and_offered_again(store: Store, lease: Lease) -> None:
    (row,) = fill(store, "a")
    store.mark_attempt(lease, row.seq, "broker down")
    store.mark_attempt(lease, row.seq, "broker still down")
    (row,) = store.outbox_batch(1)
    assert (row.attempts, row.last_error) == (2, "broker still down")
    store.mark_sent(lease, [row.seq])
    (row,) = store.alerts()
    assert (row.attempts, row.last_error) == (3, None)


def test_marking_twice_keeps_the_first_time(bench: StoreBench, store: Store, lease: Lease) -> None:
    (row,) = fill(store, "a")
    store.mark_sent(lease, [row.seq])
    first = store.alerts()
    bench.let_pass(0.01)
    store.mark_sent(lease, [row.seq])
    store.mark_attempt(lease, row.seq, "too late")
    store.mark_sent(lease, [])
    assert store.alerts() == first


def test_a_parked_alert_lets_the_others_pass_and_is_not_forgotten(store: Store, lease: Lease) -> None:
    first, _ = fill(store, "too large", "b")
    store.park(lease, first.seq, "message too large")
    (second,) = store.outbox_batch(100)
    assert second.alert.alert_id == "b"
    store.mark_sent(lease, [second.seq])
    assert store.counts().outbox_parked == 1
    assert store.idle()
    assert store.unpark() == 1
    assert store.unpark() == 0
    assert ids(store.outbox_batch(100)) == ["too large"]
    assert not store.idle()


def test_one_relay_at_a_time_marks(bench: StoreBench, store: Store) -> None:
    (row,) = fill(store, "a")
    old = store.hold_lease("relay", "relay 1", 0.2)
    assert old is not None
    assert store.hold_lease("relay", "relay 2", 60) is None
    assert store.hold_lease("watch", "relay 2", 60) is not None
    bench.let_pass(0.25)
    new = store.hold_lease("relay", "relay 2", 60)
    assert new is not None
    assert new.fence == old.fence + 1
    for late in (
        lambda: store.mark_sent(old, [row.seq]),
        lambda: store.mark_attempt(old, row.seq, "x"),
        lambda: store.park(old, row.seq, "x"),
    ):
        with pytest.raises(LeaseLost, match="relay 1 no longer holds the lease 'relay'"):
            late()
    assert store.outbox_batch(1) == (row,)
    store.drop_lease(old)
    assert store.hold_lease("relay", "relay 1", 60) is None
    store.mark_sent(new, [row.seq])


def test_a_holder_prolongs_its_lease_under_the_same_fence(bench: StoreBench, store: Store) -> None:
    first = store.hold_lease("relay", "relay 1", 0.2)
    again = store.hold_lease("relay", "relay 1", 60)
    assert first is not None
    assert again is not None
    assert again.fence == first.fence
    assert again.until > first.until
    bench.let_pass(0.25)
    assert store.hold_lease("relay", "relay 2", 60) is None


def test_a_dropped_lease_is_free_at_once(store: Store, lease: Lease) -> None:
    (row,) = fill(store, "a")
    store.drop_lease(lease)
    store.drop_lease(lease)
    with pytest.raises(LeaseLost):
        store.mark_sent(lease, [row.seq])
    taken = store.hold_lease("relay", "relay 2", 60)
    assert taken is not None
    assert taken.fence == lease.fence + 1


def test_of_many_that_ask_one_gets_the_lease(bench: StoreBench) -> None:
    start = threading.Barrier(6)

    def ask(number: int) -> Lease | None:
        store = bench.open()
        store.ping()
        start.wait()
        return store.hold_lease("relay", f"relay {number}", 60)

    with ThreadPoolExecutor(6) as pool:
        held = [lease for lease in pool.map(ask, range(6)) if lease is not None]
    assert [lease.fence for lease in held] == [1]


def test_counts_follow_the_work(bench: StoreBench, store: Store, lease: Lease) -> None:
    empty = store.counts()
    assert dict(empty.scenes) == dict.fromkeys(("discovered", "pending", "claimed", "done", "failed", "superseded"), 0)
    assert (empty.pending_oldest_age_s, empty.outbox_oldest_age_s) == (None, None)
    assert store.idle()

    store.record_page("catalog", [seen(make_scene("a"))])
    assert store.idle()
    ready(store, seen(make_scene("b", 1)))
    assert not store.idle()
    bench.let_pass(0.5)
    claim = claimed(store)
    counts = store.counts()
    assert (counts.scenes["pending"], counts.scenes["claimed"]) == (1, 1)
    assert counts.pending_oldest_age_s is not None
    assert 0.5 <= counts.pending_oldest_age_s < 30

    end(store, claim, make_alert("x"), make_alert("y"))
    store.fail(claimed(store), "corrupt", None)
    assert not store.idle()
    bench.let_pass(0.2)
    counts = store.counts()
    assert (counts.scenes["done"], counts.scenes["failed"]) == (1, 1)
    assert counts.pending_oldest_age_s is None
    assert counts.outbox_unsent == 2
    assert counts.outbox_oldest_age_s is not None
    assert 0.2 <= counts.outbox_oldest_age_s < 30
    store.mark_sent(lease, [row.seq for row in store.outbox_batch(10)])
    assert store.counts().outbox_unsent == 0
    assert store.counts().outbox_oldest_age_s is None
    assert store.idle()
