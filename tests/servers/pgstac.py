"""A real STAC API: stac-fastapi over pgstac in the session's PostgreSQL, on a free loopback port."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.require import missing
from tests.servers.postgres import PostgresServer
from tests.stac_builder import collection

_START_S = 60.0
_QUERYABLES = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "$id": "https://example.test/queryables",
    "type": "object",
    "title": "Queryables",
    "properties": {
        name: {"description": name, "type": "string", "format": "date-time"} for name in ("created", "updated")
    },
    "additionalProperties": True,
}


@dataclass
class PgStac:
    """A running STAC API with transactions."""

    url: str
    """Landing page, with a final slash."""

    def load(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Add or replace Items, and the collections they belong to."""
        for name in dict.fromkeys(str(item["collection"]) for item in items):
            members = [item for item in items if item["collection"] == name]
            self._send("POST", "collections", collection(name, members), allowed=(409,))
            for item in members:
                if self._send("POST", f"collections/{name}/items", item, allowed=(409,)) == 409:
                    self._send("PUT", f"collections/{name}/items/{item['id']}", item)

    def remove(self, collection_id: str) -> None:
        """Delete a collection with its Items."""
        self._send("DELETE", f"collections/{collection_id}", None, allowed=(404,))

    def _send(self, method: str, path: str, document: Mapping[str, Any] | None, allowed: tuple[int, ...] = ()) -> int:
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            error.close()
            if error.code in allowed:
                return int(error.code)
            raise RuntimeError(f"{method} {path}: {error.code} {text}") from error


@pytest.fixture(scope="session")
def pgstac(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgStac]:
    """A STAC API without collections, in which ``created`` and ``updated`` are registered for searching."""
    for module in ("pypgstac", "stac_fastapi.pgstac", "uvicorn"):
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            missing(module, "pip install 'vigie[servers]'")
    database = postgres_server.fresh_database()
    try:
        postgres_server.execute("CREATE EXTENSION postgis", database)
    except psycopg.Error as error:
        missing(
            f"PostGIS ({error})", "run deploy/servers/install-debian.sh, or apt-get install postgresql-15-postgis-3"
        )
    folder = tmp_path_factory.mktemp("pgstac")
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres_server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": "none",
        "PGDATABASE": database,
        "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE",
        "DB_MIN_CONN_SIZE": "1",
        "DB_MAX_CONN_SIZE": "4",
    }
    _pypgstac(environment, folder, "migrate")
    queryables = folder / "queryables.json"
    queryables.write_text(json.dumps(_QUERYABLES))
    _pypgstac(environment, folder, "load_queryables", str(queryables), "--index_fields", '["created","updated"]')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    server = PgStac(url=f"http://127.0.0.1:{port}/")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
    try:
        _await_answer(server.url, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)


def _pypgstac(environment: Mapping[str, str], folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pypgstac.pypgstac", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"pypgstac {arguments[0]} failed: {done.stdout}{done.stderr}")


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the STAC API did not start ({error}): {log.read_text(errors='replace')}"
                ) from error
            time.sleep(0.1)
