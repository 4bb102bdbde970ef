"""Named leases: one process at a time does a thing, such as relaying the outbox."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, and_, select, update

from daemon.errors import LeaseLost
from daemon.store.database import Database
from daemon.store.records import Lease
from daemon.store.schema import LEASE


class Leases:
    """Who leads. Part of :class:`daemon.store.store.Store`."""

    _database: Database

    def hold_lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take, or prolong, the lease ``name`` for ``ttl_s`` seconds; None while another owner has it.

        Who still has it keeps its fence; each change of hands raises it.
        """
        with self._database.write() as connection:
            connection.execute(self._database.insert(LEASE).values(name=name, fence=0).on_conflict_do_nothing())
            statement = select(LEASE).where(LEASE.c.name == name)
            if not self._database.is_sqlite:
                statement = statement.with_for_update()
            row = connection.execute(statement).one()
            now = self._database.now(connection)
            if row.owner not in (None, owner) and row.until > now:
                return None
            fence = row.fence if row.owner == owner else row.fence + 1
            until = now + timedelta(seconds=ttl_s)
            connection.execute(update(LEASE).where(LEASE.c.name == name).values(owner=owner, until=until, fence=fence))
        return Lease(name=name, owner=owner, fence=fence, until=until)

    def drop_lease(self, lease: Lease) -> None:
        """Give the lease up for the next owner; nothing happens where it is another's by now."""
        with self._database.write() as connection:
            connection.execute(update(LEASE).where(_is(lease)).values(owner=None, until=None))


def check_lease(database: Database, connection: Connection, lease: Lease) -> None:
    """Lock the lease's row till the transaction ends; raises :class:`LeaseLost` where it is another's."""
    statement = select(LEASE.c.name).where(_is(lease))
    if not database.is_sqlite:
        statement = statement.with_for_update()
    if connection.execute(statement).one_or_none() is None:
        raise LeaseLost(
            f"{lease.owner} no longer holds the lease {lease.name!r} (fence {lease.fence}): it ran out and another "
            "took it; stop, and ask for it again"
        )


def _is(lease: Lease) -> ColumnElement[bool]:
    return and_(LEASE.c.name == lease.name, LEASE.c.owner == lease.owner, LEASE.c.fence == lease.fence)
