"""From STAC Items to reading plans, on Items as the catalogs write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from daemon.errors import AccessRefused, SceneInvalid
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.score.reading import read_plan
from engine.errors import BandMissing, SensorUnknown
from engine.raster import read_tiles
from engine.sensors import sensor_for
from tests.rasters import write_plain

OPEN = AccessPolicy(hosts=("*.amazonaws.com", "*.blob.core.windows.net", "tiles.example.org"))
FLOOD_BANDS = ("swir16", "nir", "red")


def scene_of(item: dict[str, Any], sensor: str) -> Scene:
    return Scene(
        identity="test",
        version="0" * 16,
        catalog="test",
        collection=item.get("collection", "none"),
        item_id=item.get("id", "none"),
        sensor=sensor,
        platform=None,
        sensing_time=datetime(2024, 1, 1, tzinfo=UTC),
        grid_code=None,
        geometry={},
        cloud_cover_percent=None,
        updated=None,
        item=item,
    )


def item(assets: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"id": "i", "collection": "c", "properties": properties, "assets": assets}


def cog(name: str, **more: Any) -> dict[str, Any]:
    return {"href": f"https://tiles.example.org/{name}.tif", **more}


def test_one_file_per_band_by_common_name() -> None:
    assets = {name: cog(name) for name in ("red", "nir", "swir16", "scl", "visual", "red-jp2")}
    plan = read_plan(
        scene_of(item(assets, **{"s2:processing_baseline": "05.11"}), "sentinel-2-l2a"), OPEN, bands=FLOOD_BANDS
    )
    assert [(source.band, source.href[-10:], source.index) for source in plan.bands] == [
        ("swir16", "swir16.tif", 1),
        ("nir", "rg/nir.tif", 1),
        ("red", "rg/red.tif", 1),
    ]
    assert {(source.scale, source.offset, source.nodata) for source in plan.bands} == {(1e-4, -0.1, 0.0)}
    assert plan.mask is not None
    assert (plan.mask.href, plan.mask.spec.kind) == ("https://tiles.example.org/scl.tif", "scl")
    assert plan.name == "c/i"


def test_one_file_per_band_by_its_number() -> None:
    assets = {name: cog(name) for name in ("B04", "B08", "B11", "SCL")}
    plan = read_plan(scene_of(item(assets), "sentinel-2-l2a"), OPEN, bands=FLOOD_BANDS)
    assert [source.href[-7:-4] for source in plan.bands] == ["B11", "B08", "B04"]
    assert plan.mask is not None


def test_a_picture_never_stands_in_for_reflectance() -> None:
    named = [{"common_name": name} for name in ("red", "green", "blue")]
    assets = {"visual": cog("TCI", **{"eo:bands": named}), "other": cog("x", roles=["visual"], **{"eo:bands": named})}
    with pytest.raises(BandMissing, match=r"no band 'red'.*assets are other, visual"):
        read_plan(scene_of(item(assets), "sentinel-2-l2a"), OPEN, bands=["red"])


def test_bands_of_one_file_are_found_by_their_list() -> None:
    names = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12", "QA60", "probability")
    assets = {"stack": cog("stack", **{"eo:bands": [{"name": name} for name in names]})}
    plan = read_plan(scene_of(item(assets), "sentinel-2-l1c"), OPEN, bands=FLOOD_BANDS)
    assert [source.index for source in plan.bands] == [12, 8, 4]
    assert plan.mask is not None
    assert (plan.mask.index, plan.mask.spec.kind) == (15, "cloud-probability")


def test_aerial_bands_of_one_image_with_or_without_a_list() -> None:
    listed = {"image": cog("a", **{"eo:bands": [{"name": name} for name in ("NIR", "Red", "Green", "Blue")]})}
    for assets, indexes in ((listed, [2, 3, 4, 1]), ({"image": cog("a")}, [1, 2, 3, 4])):
        plan = read_plan(scene_of(item(assets), "naip"), OPEN, bands=("red", "green", "blue"), optional=("nir",))
        assert [source.index for source in plan.bands] == indexes
        assert {source.scale for source in plan.bands} == {1 / 255}


def test_an_optional_band_may_be_absent() -> None:
    plan = read_plan(scene_of(item({"red": cog("r")}), "sentinel-2-l2a"), OPEN, bands=["red"], optional=["green"])
    assert [source.band for source in plan.bands] == ["red"]


def test_a_refused_asset_refuses_the_scene() -> None:
    assets = {"red": {"href": "https://169.254.169.254/latest"}, "scl": cog("scl")}
    with pytest.raises(AccessRefused):
        read_plan(scene_of(item(assets), "sentinel-2-l2a"), OPEN, bands=["red"])


@pytest.mark.parametrize("broken", [{"assets": None}, {"assets": {"red": "x"}}, {"assets": {"red": {}}}, {}])
def test_an_item_that_is_none_is_invalid(broken: dict[str, Any]) -> None:
    with pytest.raises(SceneInvalid):
        read_plan(scene_of({"id": "i", **broken}, "sentinel-2-l2a"), OPEN, bands=["red"])


def test_a_local_item_is_read_to_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 5000, (64, 64)).astype(np.uint16)
    write_plain(tmp_path / "red.tif", values)
    described = item({"red": {"href": "./red.tif", "raster:bands": [{"scale": 1e-4, "offset": -0.05}]}})
    plan = read_plan(
        scene_of(described, "sentinel-2-l2a"), AccessPolicy(local_roots=(tmp_path,)), bands=["red"], base=str(tmp_path)
    )
    (batch,) = read_tiles(plan, None)
    expected = np.clip(values.astype(np.float32) * np.float32(1e-4) - np.float32(0.05), 0, 1)
    np.testing.assert_array_equal(batch.band("red")[0][1:-1, 1:-1], expected[1:-1, 1:-1])


# Every Item that the recorded catalogs sent.


def recorded_items(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.json")):
        yield from _items_in(json.loads(path.read_text()))
    for path in sorted(folder.rglob("*.yaml")):
        for exchange in yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))[
            "interactions"
        ]:
            body = exchange["response"]["body"]["string"]
            raw = body.encode() if isinstance(body, str) else body
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            try:
                answer = json.loads(raw)
            except ValueError:
                continue
            yield from _items_in(answer)


def _items_in(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "Feature" and "assets" in node:
            yield node
            return
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _items_in(child)


@pytest.mark.real_data
def test_every_recorded_item_has_a_plan_or_a_reason(data_dir: Path) -> None:
    plans: dict[str, int] = {}
    refusals: set[str] = set()
    offsets: dict[tuple[str, str], set[float]] = {}
    for found in recorded_items(data_dir / "stac"):
        collection, properties = found.get("collection") or "none", found["properties"]
        try:
            sensor = sensor_for(collection, properties, found["assets"])
            bands = FLOOD_BANDS if sensor.family == "sentinel-2" else ("red", "green", "blue")
            plan = read_plan(scene_of(found, sensor.name), OPEN, bands=bands)
        except SensorUnknown:
            plans[f"{collection}: sensor unknown"] = plans.get(f"{collection}: sensor unknown", 0) + 1
            continue
        except AccessRefused as error:
            refusals.add(str(error).partition("scheme")[2][:6])
            plans[f"{collection}: refused"] = plans.get(f"{collection}: refused", 0) + 1
            continue
        plans[collection] = plans.get(collection, 0) + 1
        assert (plan.mask is not None) == (sensor.level == "l2a")
        kind = "pc" if "B04" in found["assets"] else "es"
        offsets.setdefault((collection, kind), set()).update(source.offset for source in plan.bands)
    assert plans == {
        "naip": 673,
        "sentinel-2-l2a": 75,
        "sentinel-2-c1-l2a": 6,
        "sentinel-s2-l2a-cogs": 2,
        "sentinel-2-l1c: refused": 5,
        "sentinel-1-grd: sensor unknown": 3,
        "landsat-c2l2-sr: sensor unknown": 1,
        "landsat-c2-l2: sensor unknown": 1,
        "aster-l1t: sensor unknown": 1,
        "HLSL30.v1.5: sensor unknown": 10,
        "CS3: sensor unknown": 1,
    }
    assert refusals == {" 's3';"}, "Earth Search lists L1C in a requester-pays bucket"
    # Earth Search subtracts the offset in l2a and lists it all the same; in c1 it is still in the data; Planetary
    # Computer's are from 2019, before there was one.
    assert offsets == {
        ("naip", "es"): {0.0},
        ("sentinel-2-l2a", "es"): {0.0},
        ("sentinel-2-c1-l2a", "es"): {-0.1},
        ("sentinel-2-l2a", "pc"): {0.0},
        ("sentinel-s2-l2a-cogs", "pc"): {0.0},
    }
