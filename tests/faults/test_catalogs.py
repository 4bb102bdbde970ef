"""Catalogs that fail: what each failure is turned into, and that it costs a poll at most."""

from __future__ import annotations

import inspect
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pystac.errors
import pystac_client.errors
import pystac_client.exceptions
import pystac_client.warnings
import pytest
import requests
import urllib3

from daemon.adapters.fetch import parse_retry_after, transport_error
from daemon.adapters.stac import StacApiCatalog, catalog_error
from daemon.adapters.static_stac import StaticCatalog
from daemon.clock import ManualClock
from daemon.errors import CatalogInvalid, CatalogUnavailable, WindowTooWide
from daemon.scenes import Area
from daemon.store import Store
from daemon.watch.catalogs import SceneQuery
from daemon.watch.poll import CatalogWatch
from daemon.watch.watcher import Watcher
from tests.servers import bad_stac as bad
from tests.servers.bad_stac import BadStac, Behaviour
from tests.stac_builder import item, square, write_static_catalog

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Serve = Callable[[list[dict[str, Any]]], BadStac]


def scenes(count: int) -> list[dict[str, Any]]:
    return [
        item(
            f"s-{index}",
            collection="sentinel-2-l2a",
            when=f"{NOW - timedelta(days=1, minutes=index):%Y-%m-%dT%H:%M:%SZ}",
            geometry=square(10.0, 50.0),
            assets={"red": {"href": "https://e.test/red.tif"}},
        )
        for index in range(count)
    ]


def query(**fields: Any) -> SceneQuery:
    return SceneQuery(
        collections=("sentinel-2-l2a",),
        start=NOW - timedelta(days=5),
        end=NOW,
        intersects=square(10.0, 50.0),
        page_size=2,
        **fields,
    )


@pytest.fixture
def server(bad_stac: Serve) -> BadStac:
    return bad_stac(scenes(5))


@pytest.fixture
def api(server: BadStac) -> Iterator[StacApiCatalog]:
    catalog = StacApiCatalog("bad", server.url, timeout_s=1.0, now=lambda: NOW)
    yield catalog
    catalog.close()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (bad.status(500), "answered 500"),
        (bad.status(502), "answered 502"),
        (bad.status(429), "answered 429"),
        (bad.html_200, "not JSON .* begins '<html>"),
        (bad.truncated_json, "not JSON"),
        (bad.cut_connection, "cannot be read"),
        (bad.wrong_types, "no FeatureCollection"),
        (bad.a_list, "a JSON list, not an object"),
        (bad.silence, "within 1 s|timed out|Timeout"),
        (bad.slow_loris, "no complete answer within 1 s"),
        (bad.slow_headers, "no complete answer within 1 s"),
    ],
)
def test_what_may_pass_is_unavailable_and_the_next_try_works(
    server: BadStac, api: StacApiCatalog, behaviour: Behaviour, message: str
) -> None:
    server.script = [behaviour]
    started = time.monotonic()
    with pytest.raises(CatalogUnavailable, match=message):
        list(api.pages(query()))
    assert time.monotonic() - started < 5.0
    assert [len(page.items) for page in api.pages(query())] == [2, 2, 1]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (bad.status(404), "answered 404; check the catalog's URL and the collection names"),
        (bad.status(401), "credentials"),
        (bad.status(400), "answered 400"),
        (bad.elsewhere, "leads to another host, http://169.254.169.254"),
        (bad.redirect_elsewhere, "leads to another host, http://169.254.169.254"),
    ],
)
def test_what_will_not_pass_is_invalid(
    server: BadStac, api: StacApiCatalog, behaviour: Behaviour, message: str
) -> None:
    server.script = [behaviour]
    with pytest.raises(CatalogInvalid, match=message):
        list(api.pages(query()))


@pytest.mark.parametrize("behaviour", [bad.self_loop, bad.page_repeats, bad.empty_for_ever])
def test_pages_that_lead_in_a_circle_end(server: BadStac, api: StacApiCatalog, behaviour: Behaviour) -> None:
    server.usual = behaviour
    with pytest.raises(CatalogInvalid, match="lead in a circle"):
        list(api.pages(query()))
    assert len(server.searches) <= 12


def test_reading_goes_on_from_the_page_that_failed(server: BadStac, api: StacApiCatalog) -> None:
    server.script = [bad.good_page, bad.status(503)]
    pages = api.pages(query())
    first = next(pages)
    with pytest.raises(CatalogUnavailable):
        next(pages)
    rest = list(api.pages(query(), resume=first.next))
    assert [found["id"] for page in rest for found in page.items] == ["s-2", "s-3", "s-4"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-5", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("soon", None),
        ("nan", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("value", ["7", format_datetime(NOW + timedelta(seconds=7), usegmt=True)])
def test_retry_after_reaches_the_watcher(server: BadStac, api: StacApiCatalog, value: str) -> None:
    server.script = [bad.status(429, Retry_After=value)]
    with pytest.raises(CatalogUnavailable) as caught:
        list(api.pages(query()))
    assert caught.value.retry_after_s == 7.0


def test_an_api_that_fails_on_updated_is_searched_by_datetime_from_then_on(
    server: BadStac, api: StacApiCatalog
) -> None:
    server.conforms_to.append("https://api.stacspec.org/v1.0.0/item-search#query")
    assert api.axes() == {"datetime", "created", "updated"}
    server.script = [bad.status(500)]
    with pytest.raises(CatalogUnavailable, match="fails on searches by 'updated'"):
        list(api.pages(query(axis="updated")))
    assert api.axes() == {"datetime", "created"}
    assert "updated" in server.searches[-1]["query"]


def updated_items(*days: int) -> list[dict[str, Any]]:
    found = scenes(len(days))
    for entry, day in zip(found, days, strict=True):
        entry["properties"]["updated"] = f"{NOW - timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}"
    return found


@pytest.mark.parametrize("days", [(1, 9), (1, -1)])
def test_a_server_that_ignores_the_condition_on_updated_is_found_out(
    server: BadStac, api: StacApiCatalog, days: tuple[int, ...]
) -> None:
    server.conforms_to.append("https://api.stacspec.org/v1.0.0/item-search#query")
    server.items = updated_items(*days)
    with pytest.raises(CatalogUnavailable, match="ignores searches by 'updated': it lists 's-1'"):
        list(api.pages(query(axis="updated")))
    assert api.axes() == {"datetime", "created"}


def test_updated_is_searched_by_cql2_where_only_that_is_declared(server: BadStac, api: StacApiCatalog) -> None:
    server.conforms_to += [
        "https://api.stacspec.org/v1.0.0/item-search#filter",
        "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
    ]
    server.items = updated_items(1, 2)
    assert api.axes() == {"datetime", "created", "updated"}
    assert [len(page.items) for page in api.pages(query(axis="updated"))] == [2]
    asked = server.searches[-1]
    assert asked["filter-lang"] == "cql2-json"
    assert asked["filter"] == {
        "op": "and",
        "args": [
            {"op": ">=", "args": [{"property": "updated"}, {"timestamp": "2025-12-27T00:00:00Z"}]},
            {"op": "<=", "args": [{"property": "updated"}, {"timestamp": "2026-01-01T00:00:00Z"}]},
        ],
    }
    assert "datetime" not in asked


def test_the_filter_extension_without_basic_cql2_is_not_used(server: BadStac, api: StacApiCatalog) -> None:
    server.conforms_to.append("https://api.stacspec.org/v1.0.0/item-search#filter")
    assert api.axes() == {"datetime"}


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_page_beyond_the_cap_asks_for_a_narrower_window(server: BadStac, api: StacApiCatalog, code: int) -> None:
    server.script = [bad.good_page, bad.status(code)]
    with pytest.raises(WindowTooWide, match="does not list beyond this page"):
        list(api.pages(query()))


@pytest.mark.parametrize(
    ("fields", "matched"),
    [
        ({"numberMatched": 7}, 7),
        ({"context": {"matched": 8}}, 8),
        ({"numberMatched": "many"}, None),
        ({"numberMatched": None}, None),
        ({"context": 3}, None),
    ],
)
def test_how_many_matched_is_read_in_both_forms(
    server: BadStac, api: StacApiCatalog, fields: dict[str, Any], matched: int | None
) -> None:
    server.usual = lambda request: request.send_json({**request.server.owner.page(3), **fields})
    assert [page.matched for page in api.pages(query())] == [matched]


def test_a_landing_page_that_is_no_api_is_told(server: BadStac, api: StacApiCatalog) -> None:
    server.landing = lambda: {"type": "Catalog", "id": "x", "description": "", "stac_version": "1.0.0", "links": []}  # type: ignore[method-assign]
    with pytest.raises(CatalogInvalid, match=r"no search link.*type: static"):
        api.axes()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'vigie.db'}", clock=ManualClock(NOW)) as opened:
        opened.migrate()
        yield opened


@pytest.mark.parametrize(
    "script",
    [
        [bad.good_page, bad.status(500)],
        [bad.html_200, bad.truncated_json],
        [bad.status(429, Retry_After="5"), bad.good_page, bad.cut_connection],
    ],
)
def test_the_watcher_gets_over_it_and_loses_nothing(
    server: BadStac, api: StacApiCatalog, store: Store, script: list[Behaviour]
) -> None:
    area = Area(name="north", geometry=square(10.0, 50.0), alert_since=NOW - timedelta(days=3), history_days=10)
    clock = ManualClock(NOW)
    watch = CatalogWatch(catalog=api, areas=(area,), sensors={"sentinel-2-l2a": "auto"}, page_size=2)
    server.script = list(script)
    report = Watcher([watch], store, clock, rng=random.Random(1)).poll("bad")
    assert report.error is None
    assert {row.scene.item_id for row in store.scenes(state="pending")} == {f"s-{index}" for index in range(5)}


def test_a_server_whose_every_page_is_the_first_is_read_in_windows_of_one_page(
    server: BadStac, api: StacApiCatalog, store: Store
) -> None:
    """Complaint 14: each page is page 1, and a client that trusts it loops for ever."""
    area = Area(name="north", geometry=square(10.0, 50.0), alert_since=NOW - timedelta(days=3), history_days=10)
    watch = CatalogWatch(catalog=api, areas=(area,), sensors={"sentinel-2-l2a": "auto"}, page_size=2)
    server.usual = bad.one_page_only
    report = Watcher([watch], store, ManualClock(NOW), rng=random.Random(1)).poll("bad")
    assert (report.error, report.faults) == (None, ())
    assert {row.scene.item_id for row in store.scenes(state="pending")} == {f"s-{index}" for index in range(5)}
    assert len(server.searches) < 100


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    found = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.startswith(module.__name__.partition(".")[0])
    ]
    assert found
    return found


def bare(kind: type[Exception]) -> Exception:
    """An instance, whatever its constructor asks for."""
    error = kind.__new__(kind, "made for", "this test")
    if isinstance(error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.InvalidChunkLength):
        error.partial, error.expected, error.length = 0, 1, b"z"  # type: ignore[attr-defined]
    return error


PERMANENT = {
    "ParametersError",
    "ClientTypeError",
    "InvalidURL",
    "InvalidProxyURL",
    "InvalidSchema",
    "MissingSchema",
    "InvalidHeader",
    "URLRequired",
    "UnrewindableBodyError",
    "InvalidJSONError",
    "PystacClientWarning",
    "NoConformsTo",
    "DoesNotConformTo",
    "MissingLink",
    "FallbackToPystac",
    "STACError",
    "STACTypeError",
    "DuplicateObjectKeyError",
    "ExtensionTypeError",
    "ExtensionAlreadyExistsError",
    "ExtensionNotImplemented",
    "RequiredPropertyMissing",
    "STACLocalValidationError",
    "STACValidationError",
    "TemplateError",
}
RETRYABLE = {
    "APIError",
    "RequestException",
    "HTTPError",
    "ConnectionError",
    "ProxyError",
    "SSLError",
    "Timeout",
    "ConnectTimeout",
    "ReadTimeout",
    "TooManyRedirects",
    "ChunkedEncodingError",
    "ContentDecodingError",
    "StreamConsumedError",
    "RetryError",
    "JSONDecodeError",
}
NEVER_RAISED = {
    "IgnoredResultWarning",
    "RequestsWarning",
    "FileModeWarning",
    "RequestsDependencyWarning",
    "DeprecatedWarning",
}


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for module in (
            pystac_client.exceptions,
            pystac_client.errors,
            pystac_client.warnings,
            pystac.errors,
            requests.exceptions,
        )
        for kind in exceptions_of(module)
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_exception_of_the_libraries_is_mapped_on_purpose(kind: type[Exception]) -> None:
    """A new release that brings a new exception fails here, until someone has decided what it means."""
    if kind.__name__ in NEVER_RAISED or (kind.__module__, kind.__name__) == ("urllib3.exceptions", "HTTPError"):
        return
    translated = catalog_error("https://c.test", bare(kind), NOW)
    if kind.__name__ in PERMANENT:
        assert type(translated) is CatalogInvalid
    else:
        assert kind.__name__ in RETRYABLE, f"{kind} is new: decide what it means and list it here"
        assert type(translated) is CatalogUnavailable


def test_every_exception_of_urllib3_may_pass() -> None:
    for kind in exceptions_of(urllib3.exceptions):
        if issubclass(kind, urllib3.exceptions.HTTPError):
            assert type(transport_error("https://c.test", bare(kind))) is CatalogUnavailable


@pytest.mark.parametrize(
    ("status", "kind"), [(500, CatalogUnavailable), (404, CatalogInvalid), (None, CatalogUnavailable)]
)
def test_an_api_error_with_and_without_a_status(status: int | None, kind: type[Exception]) -> None:
    error = pystac_client.exceptions.APIError("it failed")
    if status is not None:
        error.status_code = status
    assert isinstance(catalog_error("https://c.test", error, NOW), kind)


def test_a_fault_within_the_libraries_costs_one_poll() -> None:
    assert type(catalog_error("https://c.test", KeyError("id"), NOW)) is CatalogUnavailable


@pytest.fixture
def static(tmp_path: Path) -> Path:
    root = tmp_path / "static"
    root.mkdir()
    write_static_catalog(root, scenes(4))
    return root


def read_static(root: Path) -> tuple[list[str], list[str]]:
    pages = list(StaticCatalog("s", str(root), now=lambda: NOW).pages(query()))
    return [found["id"] for page in pages for found in page.items], [fault for page in pages for fault in page.broken]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"type": "Feat', "not JSON"),
        ("", "not JSON"),
        ("[]", "a JSON list"),
        ('{"type": "Catalog"}', "not a STAC Item"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_item_is_set_aside_and_hides_no_other(static: Path, text: str | None, fault: str) -> None:
    path = static / "sentinel-2-l2a" / "s-1.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    found, broken = read_static(static)
    assert found == ["s-0", "s-2", "s-3"]
    assert len(broken) == 1
    assert fault in broken[0]
    assert "s-1.json" in broken[0]


def link(root: Path, href: str, rel: str = "item") -> None:
    path = root / "sentinel-2-l2a" / "collection.json"
    document = json.loads(path.read_text())
    document["links"].append({"rel": rel, "href": href})
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "href", ["/etc/passwd", "../../outside.json", "http://169.254.169.254/x.json", "file:///etc/passwd"]
)
def test_nothing_outside_of_the_folder_is_read(static: Path, href: str) -> None:
    (static.parent / "outside.json").write_text(json.dumps(scenes(9)[8]))
    link(static, href)
    found, broken = read_static(static)
    assert len(found) == 4
    assert len(broken) == 1
    assert "outside of the catalog's folder" in broken[0] or "cannot be read" in broken[0]


def test_a_symlink_out_of_the_folder_is_not_followed(static: Path) -> None:
    outside = static.parent / "outside.json"
    outside.write_text(json.dumps(scenes(9)[8]))
    (static / "sentinel-2-l2a" / "link.json").symlink_to(outside)
    link(static, "./link.json")
    found, broken = read_static(static)
    assert len(found) == 4
    assert "outside of the catalog's folder" in broken[0]


def test_a_catalog_that_links_to_itself_ends(static: Path) -> None:
    link(static, "../catalog.json", rel="child")
    link(static, "./collection.json", rel="child")
    assert len(read_static(static)[0]) == 4


def test_a_child_that_is_no_catalog_is_set_aside(static: Path) -> None:
    (static / "other.json").write_text('{"type": "Catalog"}')
    link(static, "../other.json", rel="child")
    found, broken = read_static(static)
    assert len(found) == 4
    assert "other.json is not a STAC catalog" in broken[0]


def test_an_item_whose_server_keeps_failing_does_not_block_the_rest(bad_stac: Serve) -> None:
    server = bad_stac(scenes(1))
    root = {"type": "Catalog", "id": "s", "description": "", "stac_version": "1.0.0"}
    links = [{"rel": "item", "href": f"{server.url}{name}"} for name in ("broken.json", "good.json")]
    answers: dict[str, Behaviour] = {
        "/catalog.json": lambda request: request.send_json({**root, "links": links}),
        "/broken.json": bad.status(500),
        "/good.json": lambda request: request.send_json(server.items[0]),
    }
    server.usual = lambda request: answers[request.path](request)
    catalog = StaticCatalog("s", server.url, now=lambda: NOW)
    for _ in range(2):
        with pytest.raises(CatalogUnavailable, match="answered 500"):
            list(catalog.pages(query()))
    (page,) = catalog.pages(query())
    catalog.close()
    assert [found["id"] for found in page.items] == ["s-0"]
    assert "answered 500" in page.broken[0]


def test_nothing_here_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(
            catalog_error("https://c.test", pystac_client.warnings.DoesNotConformTo("X"), NOW), CatalogInvalid
        )
