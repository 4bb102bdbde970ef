"""One database, opened: transactions, its clock, and the one place where its errors become ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, make_url, select, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext

from daemon.clock import Clock
from daemon.errors import ConfigError, StoreUnavailable
from engine.errors import PermanentError, VigieError

_REMEDIES = {
    "locked": "another process has held its write lock too long; look for a backup or a second daemon on the same file",
    "lock timeout": "another session has held a lock too long; look at pg_stat_activity",
    "readonly": "it is read-only; check the permissions of the file and of its folder",
    "read-only": "it is read-only; connect to the primary, or lift default_transaction_read_only",
    "full": "its disk is full; free some space",
    "no space": "its disk is full; free some space",
    "no such table": "it is not migrated; run `vigie migrate`",
    "no such column": "it is not migrated; run `vigie migrate`",
    "undefinedtable": "it is not migrated; run `vigie migrate`",
    "undefinedcolumn": "it is not migrated; run `vigie migrate`",
    "unable to open": "its file cannot be opened; check that its folder exists and may be written",
}
_REFUSALS = (sa_exc.IntegrityError, sa_exc.DataError, sa_exc.ProgrammingError, sa_exc.NotSupportedError)
"""The database is well, and refuses what it was asked."""


class Turn(IntEnum):
    """What one transaction at a time may do on a PostgreSQL database: keys of advisory locks."""

    MIGRATE = 0x7669676965_01
    RECORD = 0x7669676965_02
    """Recording pages and closing windows: versions get one order, and many scenes are locked at once."""


class Database:
    """A pool of connections to one SQLite file or PostgreSQL database; every thread gets its own connection.

    The database's clock decides when leases expire. PostgreSQL has one of its own. A SQLite file is used on one machine
    only, so that machine's clock is the database's, and it is read from ``clock``, which tests move by hand.
    """

    def __init__(self, db: Engine, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, url: str, *, clock: Clock, busy_timeout_s: float) -> Self:
        """Prepare connections to ``url``; nothing is contacted yet.

        Raises :class:`ConfigError` for a URL that is neither ``sqlite:///FILE`` nor ``postgresql://…``.
        """
        try:
            parsed = make_url(url)
        except sa_exc.ArgumentError as error:
            raise ConfigError(f"the store's URL {url!r} cannot be read; write sqlite:///vigie.db") from error
        backend = parsed.get_backend_name()
        serializer = partial(json.dumps, allow_nan=False, separators=(",", ":"))
        if backend == "sqlite":
            if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
                raise ConfigError(f"the store's URL {url!r} names no file; write sqlite:///vigie.db")
            db = create_engine(
                parsed.set(drivername="sqlite+pysqlite"),
                connect_args={"timeout": busy_timeout_s},
                json_serializer=serializer,
                max_overflow=20,
            )
            event.listen(db, "connect", _prepare_sqlite)
            event.listen(db, "begin", _begin_sqlite)
        elif backend == "postgresql":
            db = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": 10, "application_name": "vigie"},
                json_serializer=serializer,
                pool_pre_ping=True,
                max_overflow=20,
            )
            event.listen(db, "connect", partial(_prepare_postgresql, busy_timeout_s))
        else:
            raise ConfigError(f"the store cannot use {backend!r}; write sqlite:///FILE or postgresql://USER@HOST/NAME")
        event.listen(db, "handle_error", partial(_translate, str(db.url)))
        return cls(db, clock)

    @property
    def url(self) -> URL:
        """Where it is; prints without its password."""
        return self._db.url

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file, which has one writer at a time."""
        return self._db.dialect.name == "sqlite"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return Path(str(self._db.url.database)) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one moment of the database and writes nothing."""
        options: dict[str, Any] = (
            {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        with self._connection(options) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that commits on leaving and rolls back on any error; keep it short.

        SQLite takes its write lock at once (BEGIN IMMEDIATE): a lock taken later could not be waited for.
        """
        with self._connection({"vigie_write": True}) as connection, connection.begin():
            yield connection

    @contextmanager
    def bare(self) -> Iterator[Connection]:
        """Open a connection without a transaction, for what a transaction forbids."""
        with self._connection({"isolation_level": "AUTOCOMMIT"}) as connection:
            yield connection

    def now(self, connection: Connection) -> datetime:
        """Tell the time by the database's clock, aware UTC."""
        if self.is_sqlite:
            return self._clock.now()
        now = connection.execute(select(func.clock_timestamp())).scalar_one()
        if not isinstance(now, datetime):
            raise TypeError(f"the database's clock answered {now!r}")
        return now

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Make an INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def take_turn(self, connection: Connection, turn: Turn) -> None:
        """Wait until no other transaction has this ``turn``; on SQLite every writing one is alone already."""
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(int(turn))))

    def close(self) -> None:
        """Close all pooled connections."""
        self._db.dispose()

    @contextmanager
    def _connection(self, options: dict[str, Any]) -> Iterator[Connection]:
        try:
            connection = self._db.connect()
        except sa_exc.TimeoutError as error:
            raise StoreUnavailable(
                f"no free connection to the database {self.url!s}: more threads use the store than it has connections"
            ) from error
        with connection:
            yield connection.execution_options(**options)


def _prepare_sqlite(dbapi_connection: Any, record: Any) -> None:
    # The driver's own BEGIN would come late and be DEFERRED; `_begin_sqlite` says it instead.
    dbapi_connection.isolation_level = None
    dbapi_connection.execute("PRAGMA foreign_keys = ON")
    # FULL: after a power cut no alert id may have been sent whose transaction is gone.
    dbapi_connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("vigie_write") else "BEGIN")


def _prepare_postgresql(lock_timeout_s: float, dbapi_connection: Any, record: Any) -> None:
    with dbapi_connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET lock_timeout = {round(lock_timeout_s * 1000)}")
        # A worker that is stopped in the middle of an ending must not keep its areas locked for ever.
        cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    dbapi_connection.commit()


def _translate(where: str, context: ExceptionContext) -> None:
    """Turn whatever SQLAlchemy or a driver raises into an error of ours; called by SQLAlchemy, raises by contract."""
    original = context.original_exception
    # A pooled connection that has died is no fault yet: the pool opens another, and only that may fail.
    if context.is_pre_ping or isinstance(original, VigieError):
        return
    if isinstance(original, (ValueError, TypeError)):
        raise original
    if not isinstance(context.sqlalchemy_exception, sa_exc.DBAPIError):
        return
    said = " ".join(f"{type(original).__name__}: {original}".split())
    remedy = next((remedy for symptom, remedy in _REMEDIES.items() if symptom in said.lower()), None)
    if remedy is None and isinstance(context.sqlalchemy_exception, _REFUSALS):
        raise PermanentError(
            f"the database {where} refused a statement: {said}; this is a fault of the caller"
        ) from original
    raise StoreUnavailable(
        f"the database {where} is not available ({said}): {remedy or 'check that it runs and can be reached'}"
    ) from original


def lock_timeout(connection: Connection, seconds: float) -> None:
    """Wait this long for locks in this PostgreSQL transaction."""
    connection.execute(text(f"SET LOCAL lock_timeout = {round(seconds * 1000)}"))
