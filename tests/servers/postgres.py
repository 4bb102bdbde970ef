"""A real PostgreSQL on a free loopback port, for as long as the test session lasts."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.require import missing

_HINT = "run deploy/servers/install-debian.sh, or apt-get install postgresql"
_START_S = 30.0


@dataclass
class PostgresServer:
    """One server with its data in a folder of its own; speaks TCP on loopback, without a password."""

    binaries: Path
    folder: Path
    port: int
    prefix: list[str]
    """Runs a command as the user that may run the server: it refuses to be root."""
    process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def fresh_database(self, template: str = "template0") -> str:
        """Make an empty database, or a copy of ``template``; returns its name."""
        name = f"vigie_{next(self._names)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def fresh_schema(self) -> str:
        """Make an empty schema in a shared database, which is far cheaper; returns the URL of sessions in it."""
        name = f"schema_{next(self._names)}"
        self.execute(f'CREATE SCHEMA "{name}"')
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def initialise(self) -> None:
        command = [*self.prefix, str(self.binaries / "initdb"), "-D", str(self.folder / "data")]
        command += ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            # The data lives as long as the tests: nothing is lost by trusting the cache.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        command = [*self.prefix, str(self.binaries / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start ({error}): {log_text}") from error
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Shut down and cut off open sessions; SIGQUIT does it as a crash would, and need not write anything."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=20)
        self.process = None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL with no database of ours yet."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        missing("PostgreSQL", _HINT)
    binaries = found[-1].parent if found else Path(str(on_path)).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="vigie-postgres-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            missing("setpriv", "apt-get install util-linux, or run the tests as another user than root")
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            missing("the user postgres", _HINT)
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresServer(binaries=binaries, folder=folder, port=port, prefix=prefix)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of a fresh, empty database."""
    return postgres_server.url(postgres_server.fresh_database())
