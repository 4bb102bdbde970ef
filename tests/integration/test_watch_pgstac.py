"""The watcher on a real STAC API that lists the development imagery."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import box, mapping

from daemon.adapters.stac import StacApiCatalog
from daemon.adapters.static_stac import StaticCatalog
from daemon.clock import ManualClock
from daemon.scenes import Area
from daemon.store import Store
from daemon.watch.catalogs import Catalog, SceneQuery
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from tests.servers.pgstac import PgStac
from tests.stac_builder import development_items, item, write_static_catalog

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HREFS = "http://127.0.0.1:8123"
AREAS = (
    Area(
        name="lahinch",
        geometry=mapping(box(-9.40, 52.91, -9.30, 52.98)),
        history_looks=12,
        alert_since=datetime(2017, 10, 1, tzinfo=UTC),
    ),
    Area(
        name="joplin",
        geometry=mapping(box(-94.51, 37.05, -94.48, 37.08)),
        alert_since=datetime(2011, 5, 22, tzinfo=UTC),
    ),
    Area(name="world", geometry=mapping(box(-180, -80, 180, 80)), alert_since=datetime(2010, 1, 1, tzinfo=UTC)),
)
SENSORS = dict.fromkeys(("lahinch-l1c", "sen1floods11", "naip", "joplin"), "auto")


@pytest.fixture
def items(data_dir: Path) -> list[dict[str, Any]]:
    return development_items(data_dir, HREFS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=ManualClock(NOW)) as opened:
        opened.migrate()
        yield opened


def polled(catalog: Catalog, store: Store, clock: ManualClock) -> Watcher:
    watch = CatalogWatch(catalog=catalog, areas=AREAS, sensors=SENSORS)
    return Watcher([watch], store, clock, rng=random.Random(1))


def check(store: Store) -> None:
    rows = store.scenes()
    assert Counter(row.scene.sensor for row in rows) == {"sentinel-2-l1c": 6, "naip": 6, "aerial-rgb": 10}
    assert {row.state for row in rows} == {"pending"}
    roles = {row.scene.item_id: dict(row.areas) for row in rows}
    assert roles["lahinch-2017-09-18"] == {"lahinch": "history", "world": "fresh"}
    assert roles["lahinch-2017-10-18"] == {"lahinch": "fresh", "world": "fresh"}
    by_joplin = Counter(areas["joplin"] for areas in roles.values() if "joplin" in areas)
    assert by_joplin == {"history": 4, "fresh": 6}
    assert all(asset["href"].startswith(HREFS) for row in rows for asset in row.scene.item["assets"].values())


@pytest.mark.server
@pytest.mark.real_data
def test_every_real_scene_is_found_in_a_real_stac_api(
    pgstac: PgStac, items: list[dict[str, Any]], store: Store
) -> None:
    stamped = [{**item, "properties": {**item["properties"], "updated": "2025-12-01T00:00:00Z"}} for item in items]
    pgstac.load(stamped)
    clock = ManualClock(NOW)
    catalog = StacApiCatalog("pgstac", pgstac.url, now=clock.now)
    try:
        watcher = polled(catalog, store, clock)
        report = watcher.poll("pgstac")
        assert report.error is None
        assert report.faults == ()
        check(store)
        # Much later an old Item is republished with other pixels: only its `updated` tells.
        changed = dict(stamped[0])
        changed["properties"] = {**changed["properties"], "updated": "2026-01-01T00:04:00Z"}
        changed["assets"] = {"data": {**changed["assets"]["data"], "file:size": 1}}
        pgstac.load([changed])
        clock.advance(300)
        report = watcher.poll("pgstac")
        assert (report.error, report.changed, report.new, report.items) == (None, 1, 0, 2)
    finally:
        catalog.close()
        for name in SENSORS:
            pgstac.remove(name)


@pytest.mark.server
def test_a_real_stac_api_is_searched_by_cql2_where_it_has_no_query_extension(pgstac: PgStac) -> None:
    def entry(name: str, updated: str) -> dict[str, Any]:
        return item(
            name, collection="cql2", when="2025-06-01T00:00:00Z", geometry=mapping(box(0, 0, 1, 1)), updated=updated
        )

    pgstac.load([entry("old", "2025-07-01T00:00:00Z"), entry("new", "2025-12-01T00:00:00Z")])
    for method in ("POST", "GET"):
        catalog = StacApiCatalog("pgstac", pgstac.url, now=lambda: NOW)
        catalog._open().remove_conforms_to("QUERY")
        if method == "GET":
            for link in [link for link in catalog._open().links if link.rel == "search"]:
                link.extra_fields["method"] = "GET"
        try:
            assert "updated" in catalog.axes()
            query = SceneQuery(
                collections=("cql2",),
                start=datetime(2025, 11, 1, tzinfo=UTC),
                end=NOW,
                axis="updated",
                intersects=mapping(box(0, 0, 1, 1)),
            )
            found = [(found["id"], page.next) for page in catalog.pages(query) for found in page.items]
            assert found == [("new", None)]
        finally:
            catalog.close()
    pgstac.remove("cql2")


@pytest.mark.real_data
def test_every_real_scene_is_found_in_a_folder(items: list[dict[str, Any]], store: Store, tmp_path: Path) -> None:
    write_static_catalog(tmp_path / "catalog", items)
    clock = ManualClock(NOW)
    report = polled(StaticCatalog("folder", str(tmp_path / "catalog"), now=clock.now), store, clock).poll("folder")
    assert report.error is None
    assert report.faults == ()
    check(store)
