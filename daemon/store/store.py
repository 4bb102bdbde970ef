"""The store: one object with everything that the daemon remembers."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sqlalchemy import select

from daemon.clock import Clock
from daemon.store.archive import Archive
from daemon.store.areas import Areas
from daemon.store.claims import Claims
from daemon.store.counts import Counts
from daemon.store.database import Database
from daemon.store.incidents import Incidents
from daemon.store.leases import Leases
from daemon.store.looks import Looks
from daemon.store.migration import migrate
from daemon.store.outbox import Outbox
from daemon.store.scenes import Scenes
from daemon.store.schema import AREA


class Store(Areas, Scenes, Claims, Looks, Archive, Incidents, Outbox, Leases, Counts):
    """Scenes and their states, leases, looks, references, incidents and the outbox, in one database.

    Every method may block on the database, may be called from any thread, and raises
    :class:`daemon.errors.StoreUnavailable` where the database is locked, down, full, read-only or not migrated.
    """

    def __init__(self, database: Database, *, max_attempts: int) -> None:
        self._database = database
        self._max_attempts = max_attempts

    @classmethod
    def open(cls, url: str, *, clock: Clock, max_attempts: int = 5, busy_timeout_s: float = 10.0) -> Self:
        """Prepare the store at ``url``; nothing is contacted yet.

        ``url``: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``. ``clock``: the database's clock where
        it is SQLite; PostgreSQL has its own. ``max_attempts``: tries of a scene before it fails. ``busy_timeout_s``:
        how long a locked database is waited for, seconds.

        Raises :class:`daemon.errors.ConfigError` for any other URL.
        """
        return cls(Database.open(url, clock=clock, busy_timeout_s=busy_timeout_s), max_attempts=max_attempts)

    def migrate(self) -> None:
        """Bring the database to the newest schema, making it where it does not exist; safe to call at every start.

        Raises :class:`daemon.errors.ConfigError` where a newer Vigie has migrated it already.
        """
        migrate(self._database)

    def ping(self) -> None:
        """Check that the database answers and is migrated."""
        with self._database.read() as connection:
            connection.execute(select(AREA.c.name).limit(1))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
