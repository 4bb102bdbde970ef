"""Stores to test with: the same tests run on a SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.clock import ManualClock
from daemon.scenes import Area, Scene
from daemon.store import Claim, Cursor, OutboxAlert, Role, Sighting, Store
from tests.servers.postgres import PostgresServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SQUARE = {"type": "Polygon", "coordinates": [[[-1.5, 44.0], [-1.4, 44.0], [-1.4, 44.1], [-1.5, 44.1], [-1.5, 44.0]]]}


@dataclass
class StoreBench:
    """A database to open stores on, with its clock."""

    kind: str
    """``sqlite`` or ``postgres``."""
    url: str
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOON))
    _stores: ExitStack = field(default_factory=ExitStack)

    def open(self, **options: Any) -> Store:
        """Open a store; closed with the test."""
        return self._stores.enter_context(Store.open(self.url, clock=self.clock, **options))

    def let_pass(self, seconds: float) -> None:
        """Move the database's clock on: by hand on SQLite, by waiting on PostgreSQL."""
        if self.kind == "sqlite":
            self.clock.advance(seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        self._stores.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def empty_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreBench]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        bench = StoreBench(kind="sqlite", url=f"sqlite:///{tmp_path / 'vigie.db'}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        bench = StoreBench(kind="postgres", url=server.fresh_schema())
    yield bench
    bench.close()


@pytest.fixture
def bench(empty_bench: StoreBench) -> StoreBench:
    """A migrated database of each kind."""
    empty_bench.open().migrate()
    return empty_bench


@pytest.fixture
def store(bench: StoreBench) -> Store:
    """A migrated store of each kind, which watches the areas north and south through one catalog."""
    store = bench.open()
    watch(store, "north", "south")
    return store


def watch(store: Store, *names: str, catalogs: tuple[str, ...] = ("catalog",)) -> None:
    """Register areas, each to be read from each catalog."""
    store.register_areas(
        [Area(name=name, geometry=SQUARE) for name in names], {catalog: list(names) for catalog in catalogs}
    )


def make_scene(name: str, hours: float = 0.0, **changes: Any) -> Scene:
    """A scene called ``name``, sensed ``hours`` after noon."""
    values: dict[str, Any] = {
        "identity": f"identity of {name}",
        "version": "00000000000000a1",
        "catalog": "catalog",
        "collection": "sentinel-2-l2a",
        "item_id": name,
        "sensor": "sentinel-2-l2a",
        "platform": "sentinel-2c",
        "sensing_time": NOON + timedelta(hours=hours),
        "grid_code": "MGRS-30TXQ",
        "geometry": SQUARE,
        "cloud_cover_percent": 12.5,
        "updated": NOON + timedelta(hours=hours + 3, microseconds=1),
        "item": {"id": name, "properties": {"note": "é ∂", "z": [1, 2.5, None]}, "assets": {}},
    }
    return Scene(**{**values, **changes})


def seen(scene: Scene, *areas: str, role: Role = "fresh") -> Sighting:
    return Sighting(scene=scene, areas=dict.fromkeys(areas or ("north",), role))


def settle(store: Store, *areas: str, catalog: str = "catalog") -> int:
    """Close a window of ``catalog``; returns how many scenes became pending."""
    return store.close_window(catalog, areas or ("north", "south"), Cursor(time=NOON, settled=True))


def ready(store: Store, *sightings: Sighting, catalog: str = "catalog") -> None:
    """Record scenes and close their window, so that they may be claimed."""
    store.record_page(catalog, sightings)
    settle(store, catalog=catalog)


def claimed(store: Store, owner: str = "worker", lease_s: float = 60.0) -> Claim:
    """Claim a scene where there must be one."""
    claim = store.claim(owner, lease_s)
    assert claim is not None
    return claim


def end(store: Store, claim: Claim, *alerts: OutboxAlert) -> None:
    """End a claim with these alerts."""
    with store.finish(claim) as ending:
        for alert in alerts:
            ending.put_alert(alert)
        ending.done("scored")


def make_alert(alert_id: str, incident_key: str = "incident") -> OutboxAlert:
    return OutboxAlert(
        alert_id=alert_id,
        incident_key=incident_key,
        sensing_time=NOON,
        key=incident_key.encode(),
        headers=(("ce_id", alert_id.encode()), ("ce_bytes", b"\x00\xff"), ("ce_id", b"again")),
        value=b'{"type": "Feature"}\x00\xff',
    )
