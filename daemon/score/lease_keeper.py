"""Keeps a claim alive while its scene is being worked on."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol, Self

from daemon.errors import LeaseLost, StoreUnavailable
from daemon.store.records import Claim


class RenewingStore(Protocol):
    """The part of the store that a keeper calls, from its own thread."""

    def renew(self, claim: Claim, lease_s: float) -> Claim:
        """Prolong a claim; raises :class:`~daemon.errors.LeaseLost`."""
        ...


class LeaseKeeper:
    """Renews a claim every third of its lease, in a thread, until the block ends.

    A database that fails for a moment is asked again; the lease is lost only when the database says so.
    """

    def __init__(self, store: RenewingStore, claim: Claim, *, lease_s: float) -> None:
        self._store = store
        self._claim = claim
        self._lease_s = lease_s
        self._end = threading.Event()
        self._lost: LeaseLost | None = None
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.scene.item_id}", daemon=True)

    def check(self) -> None:
        """Raise :class:`~daemon.errors.LeaseLost` where another worker has taken the scene."""
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        # Real time, whatever clock the worker was given: the lease runs by the database's clock.
        while not self._end.wait(self._lease_s / 3.0):
            try:
                self._store.renew(self._claim, self._lease_s)
            except LeaseLost as lost:
                self._lost = lost
                return
            except StoreUnavailable:
                continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
