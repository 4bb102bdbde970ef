"""Migrations: from nothing to the schema in the code, whoever runs them, and however often."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from daemon.errors import ConfigError, StoreUnavailable
from daemon.store.migration import alembic_config
from daemon.store.schema import METADATA
from tests.stores import StoreBench, make_scene, seen, watch

_MIGRATE = """
import sys
from daemon.clock import SystemClock
from daemon.store import Store
with Store.open(sys.argv[1], clock=SystemClock()) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    store.migrate()
    store.ping()
"""


def plain_url(bench: StoreBench) -> str:
    return bench.url.replace("postgresql:", "postgresql+psycopg:")


def test_the_migrations_end_at_the_schema_in_the_code(bench: StoreBench) -> None:
    db = create_engine(plain_url(bench))
    with db.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, METADATA)
        tables = set(inspect(connection).get_table_names())
    db.dispose()
    assert differences == []
    assert tables == {*METADATA.tables, "alembic_version"}


def test_the_migrations_are_one_line() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_before_the_first_migration_the_store_says_what_to_do(empty_bench: StoreBench) -> None:
    store = empty_bench.open()
    with pytest.raises(StoreUnavailable, match="vigie migrate"):
        store.ping()
    store.migrate()
    store.ping()


def test_migrating_again_changes_nothing(bench: StoreBench) -> None:
    store = bench.open()
    watch(store, "north")
    store.record_page("catalog", [seen(make_scene("a"))])
    before = store.scenes()
    bench.open().migrate()
    assert store.scenes() == before


def test_processes_that_start_together_migrate_once(empty_bench: StoreBench) -> None:
    command = [sys.executable, "-c", _MIGRATE, empty_bench.url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    faults = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], faults
    empty_bench.open().ping()


def test_a_database_of_a_newer_vigie_is_left_alone(bench: StoreBench) -> None:
    db = create_engine(plain_url(bench))
    with db.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    db.dispose()
    with pytest.raises(ConfigError, match="newer Vigie"):
        bench.open().migrate()
