"""One contract for every catalog: in memory, static in a folder and over HTTP, and a real STAC API."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.adapters.memory import MemoryCatalog
from daemon.adapters.stac import StacApiCatalog
from daemon.adapters.static_stac import StaticCatalog
from daemon.errors import CatalogInvalid, CatalogUnavailable
from daemon.watch.catalogs import Catalog, SceneQuery
from tests.servers.pgstac import PgStac
from tests.stac_builder import item, square, write_static_catalog

NOW = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2025, 6, 1, 12, tzinfo=UTC)
Make = Callable[[Sequence[dict[str, Any]]], Catalog]


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    handler = functools.partial(_QuietFiles, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["memory", "folder", "http", pytest.param("pgstac", marks=pytest.mark.server)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a catalog of the Items given."""
    kind = request.param
    closers: list[Callable[[], None]] = []
    loaded: set[str] = set()

    def build(items: Sequence[dict[str, Any]]) -> Catalog:
        if kind == "memory":
            memory = MemoryCatalog("c", axes=frozenset({"datetime", "created", "updated"}))
            memory.add(*items)
            return memory
        if kind == "pgstac":
            server: PgStac = request.getfixturevalue("pgstac")
            loaded.update(str(entry["collection"]) for entry in items)
            server.load(items)
            api = StacApiCatalog("c", server.url, now=lambda: NOW)
            closers.append(api.close)
            return api
        folder, root = tmp_path, str(tmp_path)
        if kind == "http":
            folder, root = request.getfixturevalue("web_folder")
        write_static_catalog(folder, items)
        static = StaticCatalog("c", root, now=lambda: NOW)
        closers.append(static.close)
        return static

    yield build
    for close in closers:
        close()
    if kind == "pgstac":
        for name in loaded:
            request.getfixturevalue("pgstac").remove(name)


def scene(index: int, **fields: Any) -> dict[str, Any]:
    at = START + timedelta(days=index)
    stamp = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    return item(
        f"scene-{index:03}",
        collection=fields.pop("collection", "contract-a"),
        when=stamp,
        geometry=fields.pop("geometry", square(10.0, 50.0)),
        assets={"red": {"href": "https://example.test/red.tif", "type": "image/tiff"}},
        updated=fields.pop("updated", stamp),
        **fields,
    )


def query(**fields: Any) -> SceneQuery:
    defaults: dict[str, Any] = {
        "collections": ("contract-a",),
        "start": START,
        "end": START + timedelta(days=400),
        "intersects": square(10.0, 50.0, 0.02),
        "page_size": 3,
    }
    return SceneQuery(**{**defaults, **fields})


def ids(catalog: Catalog, wanted: SceneQuery, resume: str | None = None) -> list[str]:
    return [str(found["id"]) for page in catalog.pages(wanted, resume=resume) for found in page.items]


def test_every_page_is_read_and_no_item_twice(make: Make) -> None:
    catalog = make([scene(index) for index in range(10)])
    pages = list(catalog.pages(query()))
    assert sorted(str(found["id"]) for page in pages for found in page.items) == [f"scene-{i:03}" for i in range(10)]
    assert len(pages) >= 4
    assert all(page.next for page in pages[:-1])
    assert pages[-1].next is None


def test_an_empty_answer_is_one_last_page(make: Make) -> None:
    catalog = make([scene(0)])
    far = query(intersects=square(-60.0, -20.0))
    assert [(page.items, page.next) for page in catalog.pages(far)] == [((), None)]


def test_reading_goes_on_from_any_page(make: Make) -> None:
    catalog = make([scene(index) for index in range(10)])
    pages = list(catalog.pages(query()))
    for position, page in enumerate(pages[:-1]):
        rest = [str(found["id"]) for later in pages[position + 1 :] for found in later.items]
        assert ids(catalog, query(), resume=page.next) == rest


def test_the_window_includes_both_its_ends_and_nothing_beyond(make: Make) -> None:
    catalog = make([scene(index) for index in range(6)])
    wanted = query(start=START + timedelta(days=1), end=START + timedelta(days=3))
    assert sorted(ids(catalog, wanted)) == ["scene-001", "scene-002", "scene-003"]


def test_only_wanted_collections_and_ground_are_found(make: Make) -> None:
    touching = square(10.05, 50.0, 0.1)
    catalog = make(
        [
            scene(0),
            scene(1, collection="contract-b"),
            scene(2, geometry=square(20.0, 50.0)),
            scene(3, geometry=touching),
        ]
    )
    assert sorted(ids(catalog, query())) == ["scene-000", "scene-003"]
    both = query(collections=("contract-a", "contract-b"))
    assert sorted(ids(catalog, both)) == ["scene-000", "scene-001", "scene-003"]


def test_a_range_is_found_where_it_overlaps_the_window(make: Make) -> None:
    ranged = scene(0)
    ranged["properties"].update(
        datetime=None, start_datetime="2025-06-01T00:00:00Z", end_datetime="2025-06-11T00:00:00Z"
    )
    catalog = make([ranged])
    inside = query(start=START + timedelta(days=5), end=START + timedelta(days=6))
    after = query(start=START + timedelta(days=11), end=START + timedelta(days=12))
    assert ids(catalog, inside) == ["scene-000"]
    assert ids(catalog, after) == []


def test_items_are_found_by_when_they_were_updated(make: Make) -> None:
    late = "2025-09-01T08:00:00Z"
    catalog = make([scene(0), scene(1, updated=late), scene(2, updated=late), scene(3)])
    assert "updated" in catalog.axes()
    wanted = query(axis="updated", start=datetime(2025, 8, 31, tzinfo=UTC), end=datetime(2025, 9, 2, tzinfo=UTC))
    assert sorted(ids(catalog, wanted)) == ["scene-001", "scene-002"]


def test_items_come_back_as_they_were_given(make: Make) -> None:
    given = scene(0, eo__cloud_cover=12.5, platform="sentinel-2z")
    (found,) = [found for page in make([given]).pages(query()) for found in page.items]
    for key in ("id", "collection", "geometry", "properties", "type"):
        assert found[key] == given[key]
    assert found["assets"]["red"]["href"] == "https://example.test/red.tif"


def test_no_answer_is_an_error_of_the_catalog(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/"
    for catalog in (
        StacApiCatalog("gone", closed, timeout_s=2, now=lambda: NOW),
        StaticCatalog("gone", closed, timeout_s=2, now=lambda: NOW),
        StaticCatalog("gone", str(tmp_path / "nowhere"), now=lambda: NOW),
    ):
        with pytest.raises((CatalogUnavailable, CatalogInvalid)) as caught:
            list(catalog.pages(query()))
        assert "127.0.0.1:9" in str(caught.value) or "nowhere" in str(caught.value)
