"""The outbox: alerts written with the scene that raised them, sent afterwards."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, select, update

from daemon.store.columns import storable_text
from daemon.store.database import Database
from daemon.store.leases import check_lease
from daemon.store.records import Lease, OutboxAlert, OutboxRow
from daemon.store.schema import DETECTION, OUTBOX, SCENE


class Outbox:
    """What is to be sent. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def outbox_batch(self, limit: int, *, after_seq: int = 0) -> tuple[OutboxRow, ...]:
        """Return the first ``limit`` unsent alerts after ``after_seq``, in the order of ``seq``, parked ones left out.

        ``seq`` rises within an incident, because its area was locked as each was written. Across areas a lower number
        may appear after a higher one, so a relay starts again from 0, and never remembers where it was.
        """
        # A detection that was published has its alert's id.
        found = OUTBOX.outerjoin(DETECTION, DETECTION.c.detection_id == OUTBOX.c.alert_id).outerjoin(
            SCENE, SCENE.c.scene_id == DETECTION.c.scene_id
        )
        return self._outbox_rows(
            select(OUTBOX, SCENE.c.discovered_at)
            .select_from(found)
            .where(OUTBOX.c.sent_at.is_(None), OUTBOX.c.parked_at.is_(None), OUTBOX.c.seq > after_seq)
            .order_by(OUTBOX.c.seq)
            .limit(limit)
        )

    def mark_sent(self, lease: Lease, seqs: Sequence[int]) -> None:
        """Record that the broker confirmed these. Raises :class:`LeaseLost` where the relay's lease is another's."""
        with self._database.write() as connection:
            check_lease(self._database, connection, lease)
            now = self._database.now(connection)
            connection.execute(
                update(OUTBOX)
                .where(OUTBOX.c.seq.in_(seqs), OUTBOX.c.sent_at.is_(None))
                .values(sent_at=now, attempts=OUTBOX.c.attempts + 1, last_error=None)
            )

    def mark_attempt(self, lease: Lease, seq: int, error: str) -> None:
        """Record that sending this one failed. Raises :class:`LeaseLost` where the relay's lease is another's."""
        self._mark_failed(lease, seq, error, parked=False)

    def park(self, lease: Lease, seq: int, error: str) -> None:
        """Give up an alert that no sink will ever take, so that those behind it pass; it is kept and counted.

        Raises :class:`LeaseLost` where the relay's lease is another's.
        """
        self._mark_failed(lease, seq, error, parked=True)

    def _mark_failed(self, lease: Lease, seq: int, error: str, *, parked: bool) -> None:
        with self._database.write() as connection:
            check_lease(self._database, connection, lease)
            values: dict[str, Any] = {"attempts": OUTBOX.c.attempts + 1, "last_error": storable_text(error)}
            if parked:
                values["parked_at"] = self._database.now(connection)
            connection.execute(update(OUTBOX).where(OUTBOX.c.seq == seq, OUTBOX.c.sent_at.is_(None)).values(**values))

    def unpark(self) -> int:
        """Offer every parked alert again; returns how many."""
        with self._database.write() as connection:
            return connection.execute(
                update(OUTBOX).where(OUTBOX.c.parked_at.is_not(None)).values(parked_at=None)
            ).rowcount

    def alerts(self) -> tuple[OutboxRow, ...]:
        """Return every alert ever laid into the outbox, in the order of ``seq``."""
        return self._outbox_rows(select(OUTBOX).order_by(OUTBOX.c.seq))

    def _outbox_rows(self, statement: Select[Any]) -> tuple[OutboxRow, ...]:
        with self._database.read() as connection:
            return tuple(_outbox_row(row) for row in connection.execute(statement).mappings())


def _outbox_row(row: RowMapping) -> OutboxRow:
    return OutboxRow(
        seq=row["seq"],
        alert=OutboxAlert(
            alert_id=row["alert_id"],
            incident_key=row["incident_key"],
            sensing_time=row["sensing_time"],
            key=row["key"],
            headers=tuple((name, base64.b64decode(value)) for name, value in row["headers"]),
            value=row["value"],
        ),
        created_at=row["created_at"],
        sent_at=row["sent_at"],
        parked_at=row["parked_at"],
        attempts=row["attempts"],
        last_error=row["last_error"],
        discovered_at=row.get("discovered_at"),
    )
