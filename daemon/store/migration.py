"""Bringing a database to the newest schema."""

from __future__ import annotations

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from daemon.errors import ConfigError, StoreUnavailable
from daemon.store.database import Database, Turn, lock_timeout

_PATIENCE_S = 120.0


def alembic_config() -> Config:
    """Make Alembic's configuration; the migrations are data of this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(database: Database) -> None:
    """Bring ``database`` to the newest schema in one transaction; a second process waits, then finds nothing to do.

    Raises :class:`ConfigError` where a newer Vigie has migrated the database already, or a SQLite file has no folder.
    """
    if database.file is not None:
        try:
            database.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder of the database {database.file} cannot be made ({error.strerror}); "
                "correct store.url, or make the folder and give this user the right to write there"
            ) from error
        _switch_to_wal(database)
    with database.write() as connection:
        if not database.is_sqlite:
            lock_timeout(connection, _PATIENCE_S)
            database.take_turn(connection, Turn.MIGRATE)
        config = alembic_config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(
                f"the database {database.url!s} cannot be migrated ({error}); "
                "it was probably made by a newer Vigie: run that version, or name another database"
            ) from error


def _switch_to_wal(database: Database) -> None:
    """Let readers and the writer work side by side; the file remembers it."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with database.bare() as connection:
                if connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal":
                    return
                # SQLite does not always wait for this lock by itself, so it is asked again.
                if connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar_one() == "wal":
                    return
                raise ConfigError(f"{database.url!s} is on a file system without WAL; put it on a local disk")
        except StoreUnavailable as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.05)
