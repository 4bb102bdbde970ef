from __future__ import annotations

import threading

import pytest

from daemon.errors import LeaseLost, StoreUnavailable
from daemon.score.lease_keeper import LeaseKeeper
from daemon.store.records import Claim
from tests.unit.test_worker import scene


def claim() -> Claim:
    return Claim(
        scene=scene(0), areas={"valley": "fresh"}, owner="w", fence=1, attempt=1, lease_until=scene(0).sensing_time
    )


class Script:
    """Answers renewals by a script, then goes on renewing."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.over = threading.Event()

    def renew(self, one: Claim, lease_s: float) -> Claim:
        self.asked += 1
        answer = self._answers.pop(0) if self._answers else None
        if not self._answers:
            self.over.set()
        if answer is not None:
            raise answer
        return one


def test_a_claim_is_renewed_until_the_block_ends() -> None:
    store = Script(None, None, None)
    with LeaseKeeper(store, claim(), lease_s=0.03) as lease:
        assert store.over.wait(5)
        lease.check()
    asked = store.asked
    assert asked >= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("lease-")]


def test_a_lost_lease_is_told_to_the_worker() -> None:
    store = Script(LeaseLost("another has it"))
    with LeaseKeeper(store, claim(), lease_s=0.03) as lease:
        assert store.over.wait(5)
        for thread in threading.enumerate():
            if thread.name.startswith("lease-"):
                thread.join(5)
        with pytest.raises(LeaseLost):
            lease.check()
    assert store.asked == 1


def test_a_database_that_fails_for_a_moment_is_asked_again() -> None:
    store = Script(StoreUnavailable("down"), StoreUnavailable("down"), None)
    with LeaseKeeper(store, claim(), lease_s=0.03) as lease:
        assert store.over.wait(5)
        lease.check()
    assert store.asked >= 3
