"""The demo's files are what they claim to be: STAC that others read, COGs, tiles that hold the truth."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import stac_pydantic
from scipy import ndimage
from shapely.geometry import shape

from daemon.adapters.static_stac import StaticCatalog
from daemon.demo.passes import FLOOD_TIME, PASSES
from daemon.demo.scenes import DemoPass, DemoPlace, build_demo
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.score.reading import read_plan
from daemon.watch.catalogs import SceneQuery
from daemon.watch.stac_items import scene_from_item
from engine.raster import TileReader
from engine.sensors import sensor_for
from engine.tiles import TileBatch
from engine.water import water_mask

KINDS = ("clear", "cloudy", "flood", "aerial-before", "aerial-after")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPlace:
    seen: list[tuple[int, int]] = []
    place = build_demo(tmp_path_factory.mktemp("demo"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(PASSES)) for number in range(1, len(PASSES) + 1)]
    return place


def scenes_of(demo: DemoPlace) -> dict[str, Scene]:
    """As the watcher would list them."""
    catalog = StaticCatalog("simulated", str(demo.catalog.parent), now=lambda: FLOOD_TIME)
    query = SceneQuery(
        collections=(),
        start=FLOOD_TIME - timedelta(days=400),
        end=FLOOD_TIME + timedelta(days=10),
        intersects=demo.area,
    )
    items: list[Any] = []
    for page in catalog.pages(query):
        assert page.broken == ()
        items += page.items
    scenes = [
        scene_from_item(item, catalog="simulated", sensor_of=lambda *given: sensor_for(*given).name) for item in items
    ]
    return {scene.item_id: scene for scene in scenes}


def tiles_of(demo: DemoPlace, scene: Scene, *bands: str) -> tuple[list[TileBatch], Any]:
    policy = AccessPolicy(local_roots=(demo.folder,))
    plan = read_plan(scene, policy, bands=bands, base=str(demo.catalog))
    reader = TileReader(plan, [shape(dict(demo.area))])
    return list(reader), reader.report


def truth_of(demo_pass: DemoPass, batch: TileBatch, index: int, layer: np.ndarray) -> np.ndarray:
    """The part of a truth array that a tile covers."""
    tile = batch.tiles[index]
    gsd, _, west, _, _, north = demo_pass.transform
    column, row = round((tile.transform[2] - west) / gsd), round((north - tile.transform[5]) / gsd)
    return layer[row : row + tile.size_px, column : column + tile.size_px]


def test_timetable(demo: DemoPlace) -> None:
    counts = {kind: len(demo.of_kind(kind)) for kind in KINDS}  # type: ignore[arg-type]
    assert counts == {"clear": 12, "cloudy": 1, "flood": 1, "aerial-before": 1, "aerial-after": 1}
    times = [each.time for each in demo.passes]
    assert times == sorted(times)
    assert demo.of_kind("flood")[0].time == FLOOD_TIME
    assert demo.of_kind("aerial-after")[0].time > FLOOD_TIME > demo.of_kind("aerial-before")[0].time
    assert sum(each.time < demo.alert_since for each in demo.of_kind("clear")) == 11


def test_pystac_reads_the_catalog_and_every_link(demo: DemoPlace) -> None:
    catalog = pystac.Catalog.from_file(str(demo.catalog))
    items = list(catalog.get_items(recursive=True))
    assert {item.id for item in items} == {each.item_id for each in demo.passes}
    for item in items:
        assert item.get_collection() is not None
        assert item.properties["vigie:simulated"] is True
        assert item.datetime is not None
        assert item.datetime.tzinfo is not None
        for asset in item.assets.values():
            path = Path(asset.get_absolute_href() or "")
            content = path.read_bytes()
            assert asset.extra_fields["file:size"] == len(content)
            assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    interval = catalog.get_child("simulated-sentinel-2-l2a").extent.temporal.intervals[0]  # type: ignore[union-attr]
    assert interval == [FLOOD_TIME - timedelta(days=365), FLOOD_TIME]


def test_documents_are_stac_to_a_strict_reader(demo: DemoPlace) -> None:
    models = {"Feature": stac_pydantic.Item, "Catalog": stac_pydantic.Catalog, "Collection": stac_pydantic.Collection}
    counts = dict.fromkeys(models, 0)
    for path in demo.catalog.parent.rglob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        models[document["type"]].model_validate(document)
        counts[document["type"]] += 1
    assert counts == {"Feature": len(PASSES), "Catalog": 1, "Collection": 2}


def test_rasters_agree_with_their_items(demo: DemoPlace) -> None:
    for path in demo.catalog.parent.glob("*/*/*.json"):
        item = json.loads(path.read_text(encoding="utf-8"))
        for key, asset in item["assets"].items():
            with rasterio.open(path.parent / asset["href"]) as dataset:
                assert dataset.driver == "GTiff"
                assert dataset.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert list(dataset.shape) == asset["proj:shape"]
                assert list(dataset.transform)[:6] == asset["proj:transform"]
                assert set(dataset.dtypes) == {band["data_type"] for band in asset["raster:bands"]}
                assert dataset.nodata == asset["raster:bands"][0].get("nodata")
                assert dataset.count == len(asset["raster:bands"]), key
                assert dataset.block_shapes[0] == (256, 256)
                assert bool(dataset.overviews(1)) == (max(dataset.shape) > 256)


def test_every_pass_becomes_a_scene(demo: DemoPlace) -> None:
    scenes = scenes_of(demo)
    assert set(scenes) == {each.item_id for each in demo.passes}
    assert len({scene.identity for scene in scenes.values()}) == len({scene.version for scene in scenes.values()})
    for each in demo.passes:
        scene = scenes[each.item_id]
        assert scene.sensing_time == each.time
        assert scene.sensor == ("aerial-rgb" if each.kind.startswith("aerial") else "sentinel-2-l2a")
    cloudy = scenes[demo.of_kind("cloudy")[0].item_id]
    assert cloudy.cloud_cover_percent is not None
    assert cloudy.cloud_cover_percent > 90
    assert all((scenes[each.item_id].cloud_cover_percent or 0) < 15 for each in demo.of_kind("clear"))


def test_tiles_hold_the_reflectance_that_was_meant(demo: DemoPlace) -> None:
    scenes = scenes_of(demo)
    for kind, bands in (("flood", ("swir16", "nir", "red", "green")), ("aerial-after", ("red", "green", "blue"))):
        (each,) = demo.of_kind(kind)  # type: ignore[arg-type]
        batches, report = tiles_of(demo, scenes[each.item_id], *bands)
        assert report.total == (64 if kind == "flood" else 256)
        order = [each.bands.index(band) for band in bands]
        for batch in batches:
            for index in range(len(batch)):
                meant = np.stack([truth_of(each, batch, index, each.reflectance[band]) for band in order])
                valid = batch.valid[index]
                error = np.abs(batch.pixels[index] - meant)[:, valid]
                # 20 m pixels may be brought to 10 m by another rule than repetition: SWIR is compared loosely.
                ten_metres = slice(1, None) if kind == "flood" else slice(None)
                assert error[ten_metres].max() < 1e-4
                assert np.median(error) < 0.01


def test_flood_is_seen_by_the_water_index_and_nothing_else_is(demo: DemoPlace) -> None:
    scenes = scenes_of(demo)
    for each in (*demo.of_kind("flood"), *demo.of_kind("clear")):
        batches, _ = tiles_of(demo, scenes[each.item_id], "swir16", "nir", "red")
        found, meant = [], []
        for batch in batches:
            mask = water_mask(batch)
            assert mask is not None
            for index in range(len(batch)):
                valid = batch.valid[index]
                found.append(mask[index][valid].mean())
                meant.append(truth_of(each, batch, index, each.water)[valid].mean())
        assert np.abs(np.subtract(found, meant)).max() < 0.2, each.item_id
        assert np.mean(np.abs(np.subtract(found, meant))) < 0.03, each.item_id


def test_clouds_are_masked_where_they_are(demo: DemoPlace) -> None:
    scenes = scenes_of(demo)
    (cloudy,) = demo.of_kind("cloudy")
    batches, report = tiles_of(demo, scenes[cloudy.item_id], "red")
    assert batches == []
    assert report.skipped["cloud"] == 64
    (flood,) = demo.of_kind("flood")
    batches, _ = tiles_of(demo, scenes[flood.item_id], "red")
    for batch in batches:
        for index in range(len(batch)):
            # The mask is made at 20 m: a hidden pixel at a cloud's rim may pass for clear, a cloud may not.
            hidden = ~truth_of(flood, batch, index, flood.clear)
            assert (batch.valid[index] & hidden).sum() <= 0.02 * hidden.size
            assert not (batch.valid[index] & ndimage.binary_erosion(hidden, iterations=2)).any()


def test_swath_edge_is_nodata(demo: DemoPlace) -> None:
    edge = demo.of_kind("clear")[-2]
    batches, report = tiles_of(demo, scenes_of(demo)[edge.item_id], "red", "swir16")
    assert report.skipped["nodata"] >= 3
    assert sum(len(batch) for batch in batches) >= 48


def test_same_seed_same_bytes_and_only_what_was_asked_for(tmp_path: Path, demo: DemoPlace) -> None:
    again = build_demo(tmp_path, only=("flood", "aerial-before"))
    assert [each.kind for each in again.passes] == ["aerial-before", "flood"]
    for path in tmp_path.rglob("*"):
        twin = demo.folder / path.relative_to(tmp_path)
        if path.is_file() and path.name not in ("catalog.json", "collection.json"):
            assert path.read_bytes() == twin.read_bytes(), path


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="time zone"):
        build_demo(tmp_path, flood_time=datetime(2024, 1, 3))  # noqa: DTZ001
    with pytest.raises(ValueError, match="no pass"):
        build_demo(tmp_path, only=())
    assert list(tmp_path.iterdir()) == []
