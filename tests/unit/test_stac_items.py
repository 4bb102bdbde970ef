"""STAC Items to scenes: recorded answers of real catalogs, copies and versions, and Items that are wrong."""

from __future__ import annotations

import copy
import functools
import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from shapely.geometry import shape

from daemon.errors import SceneInvalid
from daemon.scenes import Scene
from daemon.watch.identity import grid_code, platform_name, processing_baseline
from daemon.watch.stac_items import scene_from_item, with_absolute_hrefs
from daemon.watch.stac_times import format_time, parse_time
from engine.errors import SensorUnknown
from engine.sensors import SENSORS, sensor_for
from tests.stac_builder import item, square

EARTH_SEARCH = "earth-search.aws.element84.com"
PLANETARY = "planetarycomputer.microsoft.com"


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def told_by_item(collection: str, properties: Any, assets: Any) -> str:
    return sensor_for(collection, properties, assets).name


def scene(given: object) -> Scene:
    return scene_from_item(given, catalog="test", sensor_of=told_by_item)


@functools.cache
def recorded(data_dir: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Every Item in the recorded answers, by (host, collection).

    The answer to a search that asked for Items without geometry and assets comes under the host ``"partial"``.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((data_dir / "stac/pystac_client_cassettes").rglob("*.yaml")):
        for exchange in yaml.load(path.read_text(), Loader=_LOADER)["interactions"]:
            body = exchange["response"]["body"]["string"]
            if isinstance(body, bytes):
                body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            document = json.loads(body)
            if not isinstance(document, dict):
                continue
            items = document.get("features", []) if document.get("type") == "FeatureCollection" else [document]
            for entry in items:
                if entry.get("type") == "Feature":
                    host = exchange["request"]["uri"].split("/")[2] if "assets" in entry else "partial"
                    found.setdefault((host, entry["collection"]), []).append(entry)
    return found


@pytest.mark.real_data
def test_every_recorded_item_of_a_known_sensor_becomes_a_scene(data_dir: Path) -> None:
    expected = {
        (EARTH_SEARCH, "sentinel-2-c1-l2a"): (6, "sentinel-2-l2a"),
        (EARTH_SEARCH, "sentinel-2-l2a"): (7, "sentinel-2-l2a"),
        (EARTH_SEARCH, "sentinel-2-l1c"): (5, "sentinel-2-l1c"),
        (EARTH_SEARCH, "sentinel-s2-l2a-cogs"): (1, "sentinel-2-l2a"),
        (PLANETARY, "sentinel-2-l2a"): (66, "sentinel-2-l2a"),
        (PLANETARY, "naip"): (673, "naip"),
    }
    all_items = recorded(data_dir)
    parsed = {}
    for key, (_, sensor) in expected.items():
        scenes = [scene(entry) for entry in all_items[key]]
        parsed[key] = (len(scenes), *{found.sensor for found in scenes})
        for found, entry in zip(scenes, all_items[key], strict=True):
            properties = entry["properties"]
            # The second reading shares no code with the first: a fixed-width cut of the recorded text.
            assert found.sensing_time.replace(tzinfo=None).isoformat()[:19] == properties["datetime"][:19]
            assert found.sensing_time.tzinfo is UTC
            assert found.cloud_cover_percent == properties.get("eo:cloud_cover")
            assert shape(found.geometry).is_valid
            assert shape(found.geometry).symmetric_difference(shape(entry["geometry"]).buffer(0)).area < 1e-9
            low, high = SENSORS[sensor].gsd_range_m
            gsd_m = properties.get("gsd", 10)
            assert low / 2**0.5 <= gsd_m <= high * 2**0.5
    assert parsed == expected


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("key", "count"),
    [((EARTH_SEARCH, "sentinel-1-grd"), 3), ((EARTH_SEARCH, "landsat-c2-l2"), 1), ((PLANETARY, "aster-l1t"), 1)],
)
def test_a_recorded_item_of_another_sensor_is_refused_by_name(data_dir: Path, key: tuple[str, str], count: int) -> None:
    entries = recorded(data_dir)[key]
    assert len(entries) == count
    for entry in entries:
        with pytest.raises(SensorUnknown, match=key[1]):
            scene(entry)


@pytest.mark.real_data
def test_recorded_items_without_assets_are_refused(data_dir: Path) -> None:
    entries = recorded(data_dir)["partial", "sentinel-2-c1-l2a"]
    assert len(entries) == 10
    for entry in entries:
        with pytest.raises(SceneInvalid, match="assets is None"):
            scene(entry)


@pytest.mark.real_data
def test_no_recorded_item_is_left_out(data_dir: Path) -> None:
    assert sum(len(items) for items in recorded(data_dir).values()) == 6 + 10 + 7 + 5 + 1 + 66 + 673 + 3 + 1 + 1


@pytest.mark.real_data
def test_one_pass_is_one_scene_in_each_recorded_collection(data_dir: Path) -> None:
    """Earth Search lists the pass of 2025-07-31 over 20EPT in four collections; v0 names no datastrip."""
    everything = [
        entry
        for (host, _), entries in recorded(data_dir).items()
        for entry in entries
        if host == EARTH_SEARCH and "20EPT_20250731" in entry["id"] and entry["collection"].startswith("sentinel-2-")
    ]
    scenes = [scene(entry) for entry in everything]
    assert {found.collection for found in scenes} == {"sentinel-2-c1-l2a", "sentinel-2-l2a", "sentinel-2-l1c"}
    assert {found.identity for found in scenes} == {"sentinel-2b|20250731T131909|MGRS-20EPT|S20250731T131905"}
    assert len({found.version for found in scenes if found.sensor == "sentinel-2-l1c"}) == 1


@pytest.mark.real_data
def test_a_catalogs_scenes_are_told_apart(data_dir: Path) -> None:
    """Each recorded Item id is a scene of its own: nothing is merged that differs in place or time."""
    for (host, collection), entries in recorded(data_dir).items():
        if host == "partial" or collection in ("sentinel-1-grd", "landsat-c2-l2", "aster-l1t"):
            continue
        by_id = {entry["id"]: scene(entry).identity for entry in entries}
        twins = Counter(by_id.values())
        assert max(twins.values()) == 1, (host, collection, twins.most_common(2))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "identity", "sensor"),
    [
        (
            "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json",
            "sentinel-2b|20190629T212529|MGRS-06VVN|S20190629T212530",
            "sentinel-2-l2a",
        ),
        ("S2A_28QCH_20200714_0_L2A.json", "sentinel-2a|20200714T115221|MGRS-28QCH|", "sentinel-2-l2a"),
    ],
)
def test_single_recorded_items(data_dir: Path, name: str, identity: str, sensor: str) -> None:
    entry = json.loads((data_dir / "stac/odc_stac_items" / name).read_text())
    assert (scene(entry).identity, scene(entry).sensor) == (identity, sensor)


def sentinel(item_id: str = "S2B_T20EPT_20250731T131905_L2A", **changes: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "platform": "sentinel-2b",
        "grid__code": "MGRS-20EPT",
        "s2__datatake_id": "GS2B_20250731T131909_043879_N05.11",
        "s2__datastrip_id": "S2B_OPER_MSI_L2A_DS_2BPS_20250731T143919_S20250731T131905_N05.11",
        "s2__processing_baseline": "05.11",
        "eo__cloud_cover": 26.0,
        "updated": "2025-07-31T15:00:24.817Z",
        **changes,
    }
    band = {"nodata": 0, "scale": 0.0001, "offset": -0.1}
    assets = {
        "red": {"href": "https://e.test/B04.tif", "roles": ["data"], "file:checksum": "1220aa", "raster:bands": [band]},
        "scl": {"href": "https://e.test/SCL.tif", "roles": ["data"], "file:size": 100},
        "thumbnail": {"href": "https://e.test/t.jpg", "roles": ["thumbnail"], "file:size": 5},
    }
    return item(
        item_id,
        collection=properties.pop("collection", "sentinel-2-c1-l2a"),
        when=properties.pop("when", "2025-07-31T13:19:22.930000Z"),
        geometry=properties.pop("geometry", square(-61.0, -60.5)),
        assets=assets,
        **properties,
    )


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(sentinel("S2B_20EPT_20250731_1_L2A"), id="twin"),
        pytest.param(sentinel("S2B_20EPT_20250731_0_L2A", collection="sentinel-2-l2a"), id="other collection"),
        pytest.param(sentinel(when="2025-07-31T13:19:22Z"), id="time cut to the second"),
        pytest.param(
            sentinel(
                "S2B_MSIL2A_20250731T131909_N0511_R095_T20EPT_20250731T160000",
                when="2025-07-31T13:19:09.024000Z",
                platform="Sentinel-2B",
                grid__code=None,
                s2__mgrs_tile="20EPT",
                s2__datastrip_id="S2B_OPER_MSI_L2A_DS_ESRI_20260101T000000_S20250731T131905_N05.12",
            ),
            id="Planetary Computer's spelling",
        ),
    ],
)
def test_a_copy_is_the_same_scene(copied: dict[str, Any]) -> None:
    assert scene(copied).identity == scene(sentinel()).identity


@pytest.mark.parametrize(
    "change",
    [
        {"platform": "sentinel-2c"},
        {"grid__code": "MGRS-20EPU"},
        {"s2__datatake_id": "GS2B_20250731T131959_043879_N05.11"},
        {"s2__datastrip_id": "S2B_OPER_MSI_L2A_DS_2BPS_20250731T143919_S20250731T132005_N05.11"},
    ],
)
def test_another_pass_square_or_datastrip_is_another_scene(change: dict[str, Any]) -> None:
    assert scene(sentinel(**change)).identity != scene(sentinel()).identity


def test_a_platform_nobody_has_heard_of_is_taken() -> None:
    assert scene(sentinel(platform="Sentinel-2F")).identity.startswith("sentinel-2f|20250731T131909|MGRS-20EPT|")


def test_without_platform_or_grid_the_listing_is_the_identity() -> None:
    assert scene(sentinel("a", platform=None)).identity == "sentinel-2-c1-l2a/a"
    assert scene(sentinel("a", grid__code=None)).identity == "sentinel-2-c1-l2a/a"


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    given = sentinel()
    target = given
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return given


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("properties", "s2:processing_baseline"), "05.12"),
        (("properties", "earthsearch:boa_offset_applied"), True),
        (("assets", "red", "file:checksum"), "1220bb"),
        (("assets", "scl", "file:size"), 101),
        (("assets", "red", "raster:bands"), [{"nodata": 0, "scale": 0.0001, "offset": 0.0}]),
    ],
)
def test_what_decides_pixels_changes_the_version(path: tuple[str, ...], value: Any) -> None:
    assert scene(changed(path, value)).version != scene(sentinel()).version
    assert scene(changed(path, value)).identity == scene(sentinel()).identity


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("properties", "updated"), "2025-08-01T00:00:00Z"),
        (("properties", "eo:cloud_cover"), 27.0),
        (("assets", "red", "href"), "https://elsewhere.test/B04.tif?sig=abc"),
        (("assets", "thumbnail", "file:size"), 6),
        (("assets", "red", "title"), "Red"),
        (("links",), [{"rel": "self", "href": "https://e.test/x"}]),
    ],
)
def test_what_leaves_pixels_alone_leaves_the_version_alone(path: tuple[str, ...], value: Any) -> None:
    assert scene(changed(path, value)).version == scene(sentinel()).version


def test_the_version_does_not_hang_on_the_order_of_keys() -> None:
    turned = json.loads(json.dumps(sentinel()))
    turned["assets"] = dict(reversed(turned["assets"].items()))
    turned["properties"] = dict(reversed(turned["properties"].items()))
    assert scene(turned).version == scene(sentinel()).version


def test_l1c_and_l2a_of_one_pass_are_versions_that_never_meet() -> None:
    surface, top = scene(sentinel()), scene(sentinel(vigie__sensor="sentinel-2-l1c"))
    assert surface.identity == top.identity
    assert surface.scene_id != top.scene_id


def test_a_checksum_is_read_under_its_old_name_too() -> None:
    old = sentinel()
    old["assets"]["red"]["checksum:multihash"] = old["assets"]["red"].pop("file:checksum")
    assert scene(old).version == scene(sentinel()).version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-07-31T13:19:22Z", datetime(2025, 7, 31, 13, 19, 22, tzinfo=UTC)),
        ("2025-07-31T13:19:22.93Z", datetime(2025, 7, 31, 13, 19, 22, 930000, tzinfo=UTC)),
        ("2025-07-31T13:19:22.123456789Z", datetime(2025, 7, 31, 13, 19, 22, 123456, tzinfo=UTC)),
        ("2025-07-31T15:19:22+02:00", datetime(2025, 7, 31, 13, 19, 22, tzinfo=UTC)),
        ("2025-07-31t23:19:22.5-0130", datetime(2025, 8, 1, 0, 49, 22, 500000, tzinfo=UTC)),
        ("2025-07-31 13:19:22", datetime(2025, 7, 31, 13, 19, 22, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_become_utc(text: str, expected: datetime) -> None:
    assert parse_time(text) == expected
    assert parse_time(text).tzinfo is UTC
    assert parse_time(format_time(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2025-07-31", "2025-13-01T00:00:00Z", "2025-07-31T25:00:00Z", 1753967962, None, "2025-W31"],
)
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse_time(text)


def test_the_start_of_a_range_is_the_sensing_time() -> None:
    ranged = sentinel(when=None, start_datetime="2025-07-31T13:00:00Z", end_datetime="2025-07-31T14:00:00Z")
    assert scene(ranged).sensing_time == datetime(2025, 7, 31, 13, tzinfo=UTC)


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    given = copy.deepcopy(sentinel())
    edit(given)
    return given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1], "not a STAC Item"),
        ({"type": "Feature"}, "id is None"),
        (edited(lambda entry: entry.pop("collection")), "collection is None"),
        (edited(lambda entry: entry.update(assets=[])), r"assets is \[\]"),
        (edited(lambda entry: entry.update(properties="none")), "properties is 'none'"),
        (edited(lambda entry: entry["assets"].update(nir={"title": "x"})), "'nir' has no href"),
        (sentinel(when=None), "neither datetime nor start_datetime"),
        (sentinel(when="garbage"), "'garbage' is not an RFC 3339 time"),
        (sentinel(eo__cloud_cover="cloudy"), "eo:cloud_cover is 'cloudy'"),
        (sentinel(eo__cloud_cover=float("nan")), "eo:cloud_cover is nan"),
        (edited(lambda entry: entry.update(geometry=None)), "no geometry"),
        (sentinel(geometry={"type": "Point", "coordinates": [1.0, 2.0]}), "Point without area"),
        (edited(lambda entry: entry.update(geometry={"type": "Polygon"})), "not GeoJSON"),
        (edited(lambda entry: entry.update(geometry={"type": "Polygon", "coordinates": [["a"]]})), "not GeoJSON"),
        (sentinel(geometry=square(500000.0, 4000000.0, 1000.0)), "not in lon/lat"),
        (edited(lambda entry: entry.update(geometry={"type": "Polygon", "coordinates": []})), "empty"),
    ],
)
def test_what_makes_no_scene_is_refused_with_its_reason(wrong: object, message: str) -> None:
    with pytest.raises(SceneInvalid, match=message):
        scene(wrong)


def test_a_cover_out_of_range_counts_as_unknown() -> None:
    assert scene(sentinel(eo__cloud_cover=-1)).cloud_cover_percent is None


def test_an_updated_that_cannot_be_read_does_not_cost_the_scene() -> None:
    assert scene(sentinel(updated="soon", created="2025-07-31T15:00:00Z")).updated == datetime(
        2025, 7, 31, 15, tzinfo=UTC
    )


def test_a_bow_tie_is_repaired() -> None:
    tie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    ground = shape(scene(sentinel(geometry=tie)).geometry)
    assert ground.is_valid
    assert ground.area == pytest.approx(2.0)


@pytest.mark.parametrize(
    "ring",
    [
        [[179.0, 10], [-179.0, 10], [-179.0, 11], [179.0, 11], [179.0, 10]],
        [[179.0, 10], [181.0, 10], [181.0, 11], [179.0, 11], [179.0, 10]],
    ],
)
def test_a_footprint_over_the_antimeridian_is_cut_there(ring: list[list[float]]) -> None:
    ground = shape(scene(sentinel(geometry={"type": "Polygon", "coordinates": [ring]})).geometry)
    assert ground.area == pytest.approx(2.0)
    assert ground.bounds == (-180.0, 10.0, 180.0, 11.0)
    assert not ground.intersects(shape(square(0.0, 10.5)))
    assert ground.intersects(shape(square(-179.5, 10.5)))


def test_links_are_dropped_and_hrefs_made_absolute() -> None:
    given = sentinel()
    given["links"] = [{"rel": "self", "href": "x"}]
    given["assets"]["red"]["href"] = "./B04.tif"
    assert "links" not in scene(given).item
    for base, expected in (
        ("https://e.test/c/items/a.json", "https://e.test/c/items/B04.tif"),
        ("/srv/stac/c/a.json", "/srv/stac/c/B04.tif"),
    ):
        assert with_absolute_hrefs(given, base)["assets"]["red"]["href"] == expected
        assert with_absolute_hrefs(given, base)["assets"]["scl"]["href"] == "https://e.test/SCL.tif"
    assert given["assets"]["red"]["href"] == "./B04.tif"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"grid:code": "MGRS-6VVN"}, "MGRS-06VVN"),
        ({"s2:mgrs_tile": "06VVN"}, "MGRS-06VVN"),
        ({"sentinel:utm_zone": 6, "sentinel:latitude_band": "V", "sentinel:grid_square": "VN"}, "MGRS-06VVN"),
        ({"grid:code": "WRS2-033032"}, "WRS2-033032"),
        ({}, None),
    ],
)
def test_grid_codes_have_one_spelling(properties: dict[str, Any], expected: str | None) -> None:
    assert grid_code(properties) == expected


def test_other_spellings_are_one() -> None:
    assert {platform_name({"platform": name}) for name in ("Sentinel-2B", "SENTINEL_2B", " sentinel 2b ")} == {
        "sentinel-2b"
    }
    assert processing_baseline({"processing:version": "0511"}) == processing_baseline(
        {"s2:processing_baseline": "05.11"}
    )
