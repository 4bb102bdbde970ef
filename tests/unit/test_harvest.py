"""What a harvest chooses, and what of a tile is kept."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import box, mapping

from daemon.adapters.memory import MemoryCatalog
from daemon.errors import CatalogUnavailable, HarvestInvalid
from daemon.harvest.choice import choose, middles, squares
from daemon.harvest.harvest import stem_of
from daemon.harvest.listing import Field, list_scenes
from daemon.harvest.order import Order
from daemon.harvest.reading import stored
from daemon.scenes import Scene
from engine.grid import Cell, cells_over, union_lonlat
from engine.sensors import SENSORS
from engine.tiles import Tile, TileBatch
from tests.stac_builder import item

START = datetime(2021, 6, 1, tzinfo=UTC)
CELLS = tuple(Cell(epsg=32629, level=0, tile_px=64, col=744 + i, row=9160 + j) for i in range(6) for j in range(5))
"""Thirty squares of 640 m, six from west to east."""
AREA = union_lonlat(CELLS)
ORDER = Order(collections=("a", "b"), area=mapping(AREA), start=START, end=START + timedelta(days=90))


def scene(collection: str, day: float, cells: tuple[Cell, ...] = CELLS) -> Scene:
    name = f"{collection}{day:g}"
    return Scene(
        identity=name,
        version="0" * 16,
        catalog="test",
        collection=collection,
        item_id=name,
        sensor="aerial-rgb",
        platform=None,
        sensing_time=START + timedelta(days=day),
        grid_code=None,
        geometry=mapping(union_lonlat(cells)),
        cloud_cover_percent=None,
        updated=None,
        item={},
    )


def names(scenes: tuple[Scene, ...]) -> list[str]:
    return [each.item_id for each in scenes]


def test_scenes_are_chosen_that_have_a_partner_in_time_and_place() -> None:
    west, east = CELLS[:10], CELLS[20:]
    scenes = [scene("a", 0, west), scene("b", 4, west), scene("b", 5.5, west), scene("a", 30), scene("b", 31, east)]
    scenes += [scene("a", 60, west), scene("b", 60, east)]
    choice = choose(scenes, ORDER)
    assert names(choice.scenes) == ["a0", "b4", "a30", "b31"]
    # The ground is what two scenes show together: not the west of a30 alone.
    both = union_lonlat(west).union(union_lonlat(east))
    assert choice.ground.symmetric_difference(both).area < 1e-6 * both.area


def test_no_collection_gets_more_scenes_than_are_wanted_and_the_list_order_is_of_no_account() -> None:
    scenes = [scene("a", day) for day in range(20)] + [scene("b", day + 0.5) for day in range(20)]
    order = replace(ORDER, scenes=3, within_days=1.0)
    choice = choose(scenes, order)
    counts = {name: sum(each.collection == name for each in choice.scenes) for name in ("a", "b")}
    assert 1 <= min(counts.values()) <= max(counts.values()) == 3
    for each in choice.scenes:
        assert any(
            other.collection != each.collection and abs(other.sensing_time - each.sensing_time) <= order.within
            for other in choice.scenes
        )
    random.Random(0).shuffle(scenes)
    assert names(choose(scenes, order).scenes) == names(choice.scenes)
    assert len({tuple(names(choose(scenes, replace(order, seed=seed)).scenes)) for seed in range(5)}) > 1


def test_one_collection_needs_no_partner() -> None:
    choice = choose([scene("a", day) for day in range(4)], replace(ORDER, collections=("a",), scenes=2))
    assert len(choice.scenes) == 2


def test_nothing_to_choose_says_why() -> None:
    with pytest.raises(HarvestInvalid, match="no scene of b shows the area between 2021-06-01 and 2021-08-30"):
        choose([scene("a", 0)], ORDER)
    with pytest.raises(HarvestInvalid, match="within 5 days; allow more with --within"):
        choose([scene("a", 0), scene("b", 6)], ORDER)
    with pytest.raises(HarvestInvalid, match="multiple of 10 m"):
        replace(ORDER, side_m=635.0)
    with pytest.raises(HarvestInvalid, match="before it begins"):
        replace(ORDER, end=START)
    with pytest.raises(HarvestInvalid, match="name each once"):
        replace(ORDER, collections=("a", "a"))
    with pytest.raises(HarvestInvalid, match="bands are named for c"):
        replace(ORDER, bands={"c": ("red",)})


def test_squares_lie_in_the_ground_and_are_the_same_for_more_of_them() -> None:
    assert set(squares(AREA, 32629, ORDER)) == set(CELLS)
    few, more = (set(squares(AREA, 32629, replace(ORDER, tiles=tiles))) for tiles in (5, 12))
    assert len(few) == 5
    assert few < more < set(CELLS)
    # Half a square of ground less: its column of squares is not taken.
    west, south, east, north = AREA.bounds
    cut = AREA.intersection(box(west + 0.005, south, east, north))
    assert set(squares(cut, 32629, ORDER)) == {cell for cell in CELLS if cell.col > 744}


def test_the_middles_of_squares_meet_just_these_squares_at_every_level() -> None:
    chosen = CELLS[3:7]
    for level in (0, 3):
        met = {cell for area in middles(chosen) for cell in cells_over(area, 32629, level, 64 * 2**level)}
        assert sorted(cell.bounds for cell in met) == sorted(cell.bounds for cell in chosen)


def batch(pixels: Any, valid: Any) -> TileBatch:
    pixels = np.asarray(pixels, dtype=np.float32)
    tile = Tile(cell_id="x", row=0, col=0, crs="EPSG:32629", transform=(10, 0, 0, 0, -10, 0), size_px=2, valid_ratio=1)
    return TileBatch(tiles=(tile,), pixels=pixels, valid=np.asarray(valid), bands=("red", "nir"), gsd_m=10.0)


def test_reflectance_is_kept_to_a_ten_thousandth_and_brightness_as_it_was() -> None:
    valid = [[[True, True], [True, False]]]
    pixels = [[[[0.12344, 0.0], [1.0, 0.5]], [[0.0, 0.0], [0.5, 0.5]]]]
    numbers = stored(batch(pixels, valid), SENSORS["sentinel-2-l2a"])
    assert numbers.dtype == np.uint16
    # Black ground is ground; what is not clear is none.
    assert numbers.tolist() == [[[[1234, 1], [10000, 0]], [[0, 1], [5000, 0]]]]
    eight = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16).repeat(2, axis=1) / np.float32(255)
    tile = replace(batch(pixels, valid).tiles[0], size_px=16)
    whole = TileBatch(tiles=(tile,), pixels=eight, valid=np.ones((1, 16, 16), bool), bands=("red", "nir"), gsd_m=1.0)
    kept = stored(whole, SENSORS["aerial-rgb"])
    assert kept.dtype == np.uint8
    assert kept[0, 0].ravel().tolist() == [1, *range(1, 256)]


def test_scenes_are_listed_as_the_watcher_lists_them() -> None:
    catalog = MemoryCatalog("memory")
    common: dict[str, Any] = {"geometry": mapping(AREA), "vigie__sensor": "aerial-rgb"}
    catalog.add(
        item("late", collection="a", when="2021-07-02T00:00:00Z", **common),
        item("early", collection="b", when="2021-06-02T00:00:00Z", **common),
        item("cloudy", collection="a", when="2021-06-02T00:00:00Z", eo__cloud_cover=41, **common),
        item("other", collection="c", when="2021-06-02T00:00:00Z", **common),
        item("before", collection="a", when="2021-05-02T00:00:00Z", **common),
        item("broken", collection="a", when="2021-06-02T00:00:00Z", **{**common, "geometry": None}),
    )
    catalog.fail(CatalogUnavailable("down"))
    waits: list[int] = []
    found = list_scenes(
        [Field(catalog=catalog, collections=("a", "b"))], ORDER, pause=lambda failures, error: waits.append(failures)
    )
    assert names(found.scenes) == ["early", "late"]
    assert found.passed_over == {"clouded": 1, "invalid": 1}
    assert "geometry" in found.faults[0]
    assert waits == [1]


def test_names_of_files_hold_nothing_that_leads_elsewhere() -> None:
    stem = stem_of(("c", "../../etc/passwd"))
    assert Path(stem).name == stem
    assert not stem.startswith(".")
    assert stem != stem_of(("c", "..-..-etc-passwd"))
    assert stem_of(("c", "a/b")) != stem_of(("c", "a_b"))
