"""What the store says when its database fails: always StoreUnavailable, and nothing half done."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from daemon.clock import ManualClock
from daemon.errors import ConfigError, StoreUnavailable
from daemon.store import Store
from tests.conftest import REPOSITORY
from tests.servers.postgres import PostgresServer
from tests.stores import NOON, StoreBench, claimed, end, make_alert, make_scene, ready, seen, watch


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "vigie.db"


@pytest.fixture
def sqlite_store(sqlite_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{sqlite_path}", clock=ManualClock(NOON), busy_timeout_s=0.1) as store:
        store.migrate()
        watch(store, "north", "south")
        yield store


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[Store]:
    with Store.open(postgres_url, clock=ManualClock(NOON), busy_timeout_s=0.2) as store:
        store.migrate()
        watch(store, "north", "south")
        yield store


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "vigie.db", "sqlite:///file:x"]
)
def test_a_url_that_names_no_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///"):
        Store.open(url, clock=ManualClock(NOON))


def test_sqlite_is_opened_for_many_processes(sqlite_store: Store, sqlite_path: Path) -> None:
    with sqlite_store._database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 100}


def test_a_locked_sqlite_file_is_unavailable_to_writers_and_open_to_readers(
    sqlite_store: Store, sqlite_path: Path
) -> None:
    other = sqlite3.connect(sqlite_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for write in (
        lambda: sqlite_store.claim("worker", 60),
        lambda: ready(sqlite_store, seen(make_scene("a"))),
        lambda: sqlite_store.hold_lease("relay", "relay 1", 60),
        sqlite_store.unpark,
    ):
        with pytest.raises(StoreUnavailable, match=r"locked.*write lock too long"):
            write()
    assert sqlite_store.scenes() == ()
    assert sqlite_store.idle()
    other.execute("ROLLBACK")
    other.close()
    ready(sqlite_store, seen(make_scene("a")))


def test_a_full_disk_is_unavailable_and_loses_nothing(sqlite_store: Store) -> None:
    ready(sqlite_store, seen(make_scene("a")))
    claim = claimed(sqlite_store)
    with sqlite_store._database.bare() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        # One pooled connection: the limit holds for the next transaction too.
    big = make_alert("a" * 36)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        end(
            sqlite_store,
            claim,
            *(big.__class__(**{**vars(big), "alert_id": str(n), "value": b"x" * 9999}) for n in range(9)),
        )
    assert sqlite_store.alerts() == ()
    with sqlite_store._database.bare() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    end(sqlite_store, claim, big)


def test_a_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with (
        Store.open(f"sqlite:///{tmp_path / 'no' / 'such.db'}", clock=ManualClock(NOON)) as store,
        pytest.raises(StoreUnavailable, match="cannot be opened"),
    ):
        store.ping()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be taken for one " * 100)
    with (
        Store.open(f"sqlite:///{tmp_path / 'notes.txt'}", clock=ManualClock(NOON)) as store,
        pytest.raises(StoreUnavailable, match="not a database"),
    ):
        store.ping()


def test_a_read_only_sqlite_is_unavailable_to_writers(sqlite_path: Path, sqlite_store: Store) -> None:
    with sqlite_store._database.bare() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="read-only"):
        sqlite_store.claim("worker", 60)
    sqlite_store.ping()


@pytest.mark.server
def test_a_read_only_postgres_is_unavailable_to_writers(
    postgres_store: Store, postgres_server: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    postgres_server.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with Store.open(postgres_url, clock=ManualClock(NOON)) as store:
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.claim("worker", 60)
        store.ping()


@pytest.mark.server
def test_a_lock_on_postgres_is_waited_for_in_bounds(postgres_store: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE scene IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            postgres_store.claim("worker", 60)
    assert postgres_store.claim("worker", 60) is None


@pytest.mark.server
def test_a_session_cut_in_the_middle_of_an_ending_stores_nothing(
    postgres_store: Store, postgres_server: PostgresServer
) -> None:
    ready(postgres_store, seen(make_scene("a")))
    claim = claimed(postgres_store)

    def cut() -> None:
        with postgres_store.finish(claim) as ending:
            ending.put_alert(make_alert("1"))
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vigie'"
            )
            ending.done("scored")

    with pytest.raises(StoreUnavailable, match="check that it runs"):
        cut()
    assert postgres_store.alerts() == ()
    end(postgres_store, claim, make_alert("1"))


@pytest.mark.server
def test_postgres_may_restart_under_an_open_store(postgres_store: Store, postgres_server: PostgresServer) -> None:
    ready(postgres_store, seen(make_scene("a")))
    claim = claimed(postgres_store)
    postgres_server.stop()
    try:
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
            end(postgres_store, claim)
        with pytest.raises(StoreUnavailable):
            postgres_store.ping()
    finally:
        postgres_server.start()
    postgres_server.stop()
    postgres_server.start()
    # The pooled connections are dead, and nobody had to notice.
    end(postgres_store, claim)


def test_a_password_is_never_printed(tmp_path: Path) -> None:
    url = "postgresql://vigie:s3cret@127.0.0.1:1/vigie"
    with (
        Store.open(url, clock=ManualClock(NOON)) as store,
        pytest.raises(StoreUnavailable, match="not available") as caught,
    ):
        store.ping()
    assert "s3cret" not in str(caught.value)


_CHILD = """
import sys, time
from tests.stores import *
from daemon.clock import SystemClock
store = Store.open(sys.argv[1], clock=SystemClock())
claim = claimed(store, "victim", 0.2)
with store.finish(claim) as ending:
    ending.put_alert(make_alert("1"))
    if sys.argv[2] == "before commit":
        print("now", flush=True)
        time.sleep(60)
    ending.done("scored")
print("now", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("moment", "alerts", "state"), [("before commit", 0, "claimed"), ("after commit", 1, "done")])
def test_a_worker_killed_outright_has_stored_all_or_nothing(
    bench: StoreBench, store: Store, moment: str, alerts: int, state: str
) -> None:
    ready(store, seen(make_scene("a")))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, bench.url, moment],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"now\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert len(store.alerts()) == alerts
    assert [row.state for row in store.scenes()] == [state]
    if state == "claimed":
        bench.let_pass(0.3)
        bench.clock.step(10 * 365 * 86400)
        heir = claimed(store, "heir")
        assert heir.fence == 2
        end(store, heir, make_alert("1"))
        assert len(store.alerts()) == 1
