"""The watcher on a real STAC API that behaves badly: ``rustac serve``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.stac import StacApiCatalog
from daemon.clock import ManualClock
from daemon.scenes import Area
from daemon.store import Store
from daemon.watch.notes import Note
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from tests.servers.rustac import RustacServe
from tests.stac_builder import item, square

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AREA = Area(name="north", geometry=square(10.0, 50.0), alert_since=NOW - timedelta(days=30), history_days=10)


class Boastful(StacApiCatalog):
    """Takes the server at its word, were it to declare what it does not do."""

    def axes(self) -> Any:
        return super().axes() | {"updated"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=ManualClock(NOW)) as opened:
        opened.migrate()
        yield opened


@pytest.mark.server
@pytest.mark.parametrize("kind", [StacApiCatalog, Boastful])
def test_every_scene_is_found_in_an_api_that_ignores_what_it_does_not_know(
    rustac: RustacServe, store: Store, kind: type[StacApiCatalog]
) -> None:
    items = [
        item(
            f"s-{index}",
            collection="sentinel-2-l2a",
            when=f"{NOW - timedelta(days=index % 20, minutes=index):%Y-%m-%dT%H:%M:%SZ}",
            geometry=square(10.0, 50.0),
            assets={"red": {"href": "https://e.test/red.tif"}},
            updated="2025-12-31T00:00:00Z",
        )
        for index in range(45)
    ]
    clock = ManualClock(NOW)
    catalog = kind("rustac", rustac(items), most_items=20, now=clock.now)
    watch = CatalogWatch(catalog=catalog, areas=(AREA,), sensors={"sentinel-2-l2a": "auto"}, page_size=7)
    try:
        watching = Watcher([watch], store, clock, rng=random.Random(1))
        report = watching.poll("rustac")
        assert report.error is None
        assert {row.scene.item_id for row in store.scenes(state="pending")} == {f"s-{index}" for index in range(45)}
        # It lists no more than 20 Items a search, as far as the catalog was told, so the window was cut.
        assert report.queries > 2
        cursor = store.cursor("rustac", "north")
        assert cursor is not None
        assert Note.read(cursor.token).axis == "datetime"
        clock.advance(300)
        assert (watching.poll("rustac").error, store.counts().scenes["pending"]) == (None, 45)
    finally:
        catalog.close()
