"""The relay: takes alerts from the outbox to every sink, in order, until each is confirmed.

An alert is in the outbox from the moment its scene ended, in one transaction, so whatever falls over
afterwards it is still there. The relay reads a batch, hands it to every sink, and marks only what all
of them confirmed. A crash in between sends some alerts again, with the same id: at least once. One relay
at a time holds the relay lease, which keeps the order of a key; the others stand by.

Only one batch is in memory. A sink that is down makes the outbox grow, not the process.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import structlog

from daemon.backoff import Backoff
from daemon.clock import Clock
from daemon.errors import LeaseLost, StoreUnavailable
from daemon.operate.health import Heartbeats
from daemon.operate.metrics import Metrics
from daemon.publish.sinks import DeliveryResult, Message, Sink
from daemon.store.records import Lease, OutboxRow

LEASE_NAME = "relay"
LOOP = "publish"
"""Name of the relay's loop among the heartbeats."""

log = structlog.get_logger(__name__)


class OutboxStore(Protocol):
    """What the relay needs of the store; :class:`daemon.store.store.Store` has it."""

    def hold_lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease; None while another holds it."""
        ...

    def drop_lease(self, lease: Lease) -> None:
        """Give a lease back."""
        ...

    def outbox_batch(self, limit: int, *, after_seq: int = 0) -> Sequence[OutboxRow]:
        """Return the first unsent alerts, in order."""
        ...

    def mark_sent(self, lease: Lease, seqs: Sequence[int]) -> None:
        """Mark alerts as confirmed."""
        ...

    def mark_attempt(self, lease: Lease, seq: int, error: str) -> None:
        """Note a failed delivery."""
        ...

    def park(self, lease: Lease, seq: int, error: str) -> None:
        """Set an alert aside that no sink will take."""
        ...


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """How the relay goes about it."""

    owner: str
    """Name of this process in the lease; unique among those that run at once."""
    batch: int = 50
    """Alerts that are in memory at once."""
    poll_s: float = 0.5
    """How often an empty outbox is looked at."""
    lease_ttl_s: float = 15.0
    """How long after a crash of this relay another takes over."""
    stall_after_s: float = 300.0
    """Longest legal time between two heartbeats; more than the sinks' delivery time-outs together."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=1.0, cap_s=60.0))


Outcome = Literal["standby", "idle", "sent", "failed"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one round did."""

    outcome: Outcome
    """``standby``: another relay leads. ``idle``: nothing to send. ``sent``: the batch is through, perhaps less
    parked alerts. ``failed``: some alerts must be tried again."""
    sent: int = 0
    parked: int = 0
    error: str | None = None
    """The first failure, where there was one."""


class Relay:
    """Publishes the outbox. ``run``, ``drain`` and ``step`` are called from one thread."""

    def __init__(
        self,
        store: OutboxStore,
        sinks: Sequence[Sink],
        settings: RelaySettings,
        *,
        clock: Clock,
        metrics: Metrics,
        heartbeats: Heartbeats,
        rng: random.Random,
    ) -> None:
        if not sinks:
            raise ValueError("a relay needs a sink: without one every alert would count as delivered")
        self._store = store
        self._sinks = tuple(sinks)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._rng = rng
        self._lease: Lease | None = None
        self._renew_at = 0.0
        # What a sink has confirmed of alerts that another sink still lacks: without it, a broker's outage would
        # write the same alerts to a healthy sink again and again. In memory, so a restart may repeat them once.
        self._confirmed: dict[str, set[int]] = {sink.name: set() for sink in self._sinks}

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set; store and sink failures are waited out."""
        self._heartbeats.expect(LOOP, self._settings.stall_after_s)
        failures = 0
        try:
            while not stop.is_set():
                self._heartbeats.beat(LOOP)
                step = self.step()
                failures = failures + 1 if step.outcome == "failed" else 0
                if step.outcome != "sent":
                    self._clock.wait(stop, self._pause_s(failures))
        finally:
            self._heartbeats.forget(LOOP)
            self.close()

    def drain(self, deadline_s: float) -> bool:
        """Publish until the outbox is empty or ``deadline_s`` seconds have passed; True where it is empty."""
        never = threading.Event()
        until = self._clock.monotonic() + deadline_s
        failures = 0
        while True:
            step = self.step()
            if step.outcome == "idle":
                return True
            failures = failures + 1 if step.outcome == "failed" else 0
            left_s = until - self._clock.monotonic()
            if left_s <= 0:
                return False
            if step.outcome != "sent":
                self._clock.wait(never, min(left_s, self._pause_s(failures)))

    def step(self) -> Step:
        """Publish one batch. Never raises for a store or a sink that fails."""
        try:
            lease = self._held()
            if lease is None:
                return Step(outcome="standby")
            rows = self._store.outbox_batch(self._settings.batch)
            self._remember_only({row.seq for row in rows})
            if not rows:
                return Step(outcome="idle")
            with self._renewing():
                results = self._deliver(rows)
            return self._settle(lease, rows, results)
        except LeaseLost as error:
            self._lease = None
            log.warning("another process took over publishing", action="stand by", error=str(error))
            return Step(outcome="standby", error=str(error))
        except StoreUnavailable as error:
            # Whether the lease is still ours is unknown by now; ask before the next batch.
            self._lease = None
            log.warning("the outbox cannot be read or marked", action="try again", error=str(error))
            return Step(outcome="failed", error=str(error))

    def close(self) -> None:
        """Give back the lease, so that another relay takes over at once, and close the sinks."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                self._store.drop_lease(lease)
            except StoreUnavailable as error:
                log.warning("the relay lease could not be given back", action="it runs out by itself", error=str(error))
        for sink in self._sinks:
            sink.close()

    def _held(self) -> Lease | None:
        """Return the lease, renewed where a third of it has passed."""
        now = self._clock.monotonic()
        if self._lease is None or now >= self._renew_at:
            self._lease = self._store.hold_lease(LEASE_NAME, self._settings.owner, self._settings.lease_ttl_s)
            self._renew_at = now + self._settings.lease_ttl_s / 3.0
        return self._lease

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew the lease from a second thread while a delivery blocks for longer than the lease lasts."""
        done = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(done,), name="relay-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(self._settings.lease_ttl_s / 3.0):
            try:
                self._store.hold_lease(LEASE_NAME, self._settings.owner, self._settings.lease_ttl_s)
            except StoreUnavailable:
                # Marking finds out whether the lease outlived this; the fence protects what it writes.
                continue

    def _deliver(self, rows: Sequence[OutboxRow]) -> dict[int, DeliveryResult]:
        """Hand the batch to every sink; return for each ``seq`` the first failure, or a confirmation by all."""
        results: dict[int, DeliveryResult] = {}
        for sink in self._sinks:
            confirmed = self._confirmed[sink.name]
            todo = [row for row in rows if row.seq not in confirmed]
            answers = sink.send([_message(row) for row in todo])
            counts: dict[Literal["delivered", "failed", "refused"], int] = {}
            for row, answer in zip(todo, answers, strict=True):
                result: Literal["delivered", "failed", "refused"] = "delivered"
                if answer.error is not None:
                    result = "refused" if answer.refused else "failed"
                    if not self._outranks(results.get(row.seq), answer):
                        results[row.seq] = answer
                else:
                    confirmed.add(row.seq)
                counts[result] = counts.get(result, 0) + 1
            for outcome, count in counts.items():
                self._metrics.published(sink.name, outcome, count)
        for row in rows:
            results.setdefault(row.seq, DeliveryResult(alert_id=row.alert.alert_id))
        return results

    @staticmethod
    def _outranks(earlier: DeliveryResult | None, later: DeliveryResult) -> bool:
        """A failure that may pass outranks a refusal: the alert is parked once every other sink has it."""
        return earlier is not None and (not earlier.refused or later.refused)

    def _settle(self, lease: Lease, rows: Sequence[OutboxRow], results: Mapping[int, DeliveryResult]) -> Step:
        """Mark each alert as its result says."""
        sent = [row for row in rows if results[row.seq].delivered]
        if sent:
            self._store.mark_sent(lease, [row.seq for row in sent])
            now = self._clock.now()
            for row in sent:
                self._metrics.sensing_to_alert((now - row.alert.sensing_time).total_seconds())
                if row.discovered_at is not None:
                    self._metrics.catalog_to_alert((now - row.discovered_at).total_seconds())
        parked = 0
        first_error: str | None = None
        for row in rows:
            error = results[row.seq].error
            if error is None:
                continue
            if results[row.seq].refused:
                parked += 1
                self._store.park(lease, row.seq, str(error))
                log.error("a sink refused an alert for good", action="park", alert=row.alert.alert_id, error=str(error))
            else:
                first_error = first_error or str(error)
                self._store.mark_attempt(lease, row.seq, str(error))
        if first_error is not None:
            log.warning("alerts could not be delivered", action="try again", error=first_error)
        if sent:
            log.info("alerts were delivered", action="mark sent", count=len(sent))
        return Step(outcome="failed" if first_error else "sent", sent=len(sent), parked=parked, error=first_error)

    def _remember_only(self, seqs: set[int]) -> None:
        for confirmed in self._confirmed.values():
            confirmed &= seqs

    def _pause_s(self, failures: int) -> float:
        return self._settings.backoff.delay_s(failures, self._rng) if failures else self._settings.poll_s


def _message(row: OutboxRow) -> Message:
    alert = row.alert
    return Message(alert_id=alert.alert_id, key=alert.key, headers=alert.headers, value=alert.value)
