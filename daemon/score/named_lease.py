"""A named lease in the hands of one process, prolonged as it works."""

from __future__ import annotations

from typing import Protocol

from daemon.clock import Clock
from daemon.errors import LeaseLost
from daemon.store.records import Lease


class LeasingStore(Protocol):
    """The part of the store that is used here. May block; raises ``StoreUnavailable``."""

    def hold_lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or prolong a named lease."""
        ...


class NamedLease:
    """A lease, prolonged before it is a third gone."""

    def __init__(self, store: LeasingStore, lease: Lease, lease_s: float, clock: Clock) -> None:
        self.lease = lease
        self._store = store
        self._lease_s = lease_s
        self._clock = clock
        self._since = clock.monotonic()

    def prolong(self) -> Lease:
        """The lease, still held; raises :class:`LeaseLost` where another process had it meanwhile."""
        if self._clock.monotonic() - self._since >= self._lease_s / 3.0:
            again = self._store.hold_lease(self.lease.name, self.lease.owner, self._lease_s)
            if again is None or again.fence != self.lease.fence:
                raise LeaseLost(
                    f"another process has the lease {self.lease.name!r} by now: this one was silent for more than "
                    f"{self._lease_s:g} s. What it stored stays; let the other one finish"
                )
            self.lease, self._since = again, self._clock.monotonic()
        return self.lease
