"""The experiments on SpaceNet 8: what is held against what, on a miniature of the layout with exact pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyproj import Transformer

from tests.rasters import transform_at, write_plain
from training.data.spacenet8 import SpaceNet8Folder, read_looks
from training.data.splits import held_out
from training.errors import TrainingDataInvalid
from training.evaluate.metrics import auroc
from training.evaluate.ood import Subject
from training.evaluate.spacenet8 import (
    JudgedTiles,
    cut_before,
    cut_looks,
    experiments_table,
    judge_places,
    normal_colours,
    some_of,
    split_places,
)

GAINS = (1 / 255,) * 3
GERMANY, LOUISIANA = "Germany_Training_Public", "Louisiana-East_Training_Public"


def quiet(*_: object) -> None:
    """No progress."""


BRIGHT = Subject(
    name="bright", kind="control", nfe=0, unpaired=lambda tiles: (tiles.mean(axis=(1, 2, 3)).astype(np.float32), None)
)


def area(root: Path, aoi: str, places: int, before: int) -> None:
    """Places of 32 m: before of 0.5 m, after of 1 m and 20 brighter; a flooded house north-west, a dry one south-east.

    Read at half resolution and cut into tiles of 16 px, a place is 2 x 2 tiles.
    """
    folder = root / aoi
    for part in ("PRE-event", "POST-event", "annotations"):
        (folder / part).mkdir(parents=True)
    rows = ["label,pre-event image,post-event image 1,post-event image 2"]
    for i in range(places):
        origin = (476_160.0 + 100 * i, 5_867_520.0)
        first = np.full((3, 64, 64), before + i, np.uint8)
        second = np.full((3, 32, 32), before + 20 + i, np.uint8)
        # Flood water is dark: the north-western quarter, but for its edge, where resampling might mix.
        second[:, :16, :16] = 10
        write_plain(folder / "PRE-event" / f"{i}.tif", first, transform=transform_at(0.5, origin))
        write_plain(folder / "POST-event" / f"{i}.tif", second, transform=transform_at(1.0, origin))
        (folder / "annotations" / f"{i}.geojson").write_text(json.dumps(houses(origin)))
        rows.append(f"{i}.geojson,{i}.tif,{i}.tif,")
    (folder / f"{aoi}_label_image_mapping.csv").write_text("\n".join(rows) + "\n")


def houses(origin: tuple[float, float]) -> dict[str, object]:
    to_degrees = Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True).transform

    def house(x: float, y: float, flooded: str | None) -> dict[str, object]:
        corners = [(x, y), (x + 6, y), (x + 6, y + 6), (x, y + 6), (x, y)]
        ring = [list(to_degrees(origin[0] + east, origin[1] - south)) for east, south in corners]
        properties = {"building": "yes", "flooded": flooded}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "properties": properties, "geometry": geometry}

    return {"type": "FeatureCollection", "features": [house(4, 4, "yes"), house(20, 20, None)]}


@pytest.fixture
def folder(tmp_path: Path) -> SpaceNet8Folder:
    area(tmp_path, GERMANY, 8, 100)
    area(tmp_path, LOUISIANA, 3, 150)
    return SpaceNet8Folder.open(tmp_path)


def test_places_are_split_as_training_splits_them(folder: SpaceNet8Folder) -> None:
    split = split_places(folder, [GERMANY], 0.5)
    germany = [tile for tile in folder.tiles if tile.aoi == GERMANY]
    assert [tile.id for tile in split.kept] == [tile.id for tile in germany if held_out(tile.id, 0.5)]
    assert {*split.shown, *split.kept} == set(germany)
    assert {tile.aoi for tile in split.elsewhere} == {LOUISIANA}
    assert split_places(folder, folder.aois, 0.5).elsewhere == ()
    with pytest.raises(TrainingDataInvalid, match="held out none"):
        split_places(folder, [GERMANY], 0.0)
    with pytest.raises(TrainingDataInvalid, match="'Spain'"):
        split_places(folder, ["Spain"], 0.5)


def test_some_places_keep_their_order(folder: SpaceNet8Folder) -> None:
    some = some_of(folder.tiles, 4, np.random.default_rng(0))
    assert [tile for tile in folder.tiles if tile in some] == list(some)
    assert len(some) == 4
    assert some_of(folder.tiles, 99, np.random.default_rng(0)) == folder.tiles


def test_a_place_is_cut_into_tiles_with_the_labels_of_the_image_after(folder: SpaceNet8Folder) -> None:
    before, (after,) = cut_looks(read_looks(folder.tiles[0]), 16, GAINS)
    assert before.pixels.shape == after.pixels.shape == (4, 3, 16, 16)
    np.testing.assert_allclose(before.pixels, 100 / 255, atol=1e-6)
    assert not before.flooded.any()
    assert not before.dry.any()
    assert after.flooded.tolist() == [True, False, False, False]
    assert after.dry.tolist() == [False, False, False, True]
    np.testing.assert_allclose(after.pixels[3], 120 / 255, atol=1e-6)
    np.testing.assert_array_equal(cut_before(folder.tiles[0], 16, GAINS).pixels, before.pixels)


def test_the_three_experiments_hold_the_right_tiles_against_one_another(folder: SpaceNet8Folder) -> None:
    split = split_places(folder, [GERMANY], 0.5)
    ticks = iter(np.arange(0.0, 1000.0, 1.0))
    judged = judge_places(split, [BRIGHT], 16, GAINS, lambda: float(next(ticks)), quiet)
    kept = len(split.kept)
    assert len(judged.place) == kept * 8 + 3 * 4
    rows = {row["experiment"]: row for row in experiments_table(judged, [BRIGHT], draws=50, seed=0).rows}
    shift, post, wet = rows["geographic shift"], rows["pre/post"], rows["flooded/non-flooded"]
    assert (shift["n_pos"], shift["n_neg"], shift["places"]) == (12, 4 * kept, 3 + kept)
    assert shift["auroc"] == 1.0, "Louisiana is brighter than all of Germany"
    assert (shift["auroc_low"], shift["auroc_high"]) == (1.0, 1.0)
    assert (post["n_pos"], post["n_neg"], post["places"]) == (4 * kept, 4 * kept, kept)
    assert post["auroc"] == 0.75, "three quarters of the tiles after are brighter than any before, one is darker"
    assert (wet["n_pos"], wet["n_neg"], wet["auroc"]) == (kept, kept, 0.0)
    # One second for each call, 2 looks a held-out place and 1 elsewhere.
    assert wet["ms_per_tile"] == pytest.approx(1000 * (2 * kept + 3) / len(judged.place), abs=1e-4)


def test_an_experiment_without_a_side_has_no_figure(folder: SpaceNet8Folder) -> None:
    split = split_places(folder, folder.aois, 0.5)
    judged = judge_places(split, [BRIGHT], 16, GAINS, lambda: 0.0, quiet)
    row = experiments_table(judged, [BRIGHT], draws=10, seed=0).rows[0]
    assert (row["experiment"], row["auroc"], row["auroc_low"], row["n_pos"]) == ("geographic shift", None, None, 0)
    with pytest.raises(TrainingDataInvalid, match="no complete tile of 64 px"):
        judge_places(split, [BRIGHT], 64, GAINS, lambda: 0.0, quiet)


def test_tiles_without_a_house_say_nothing_of_floods() -> None:
    score = np.asarray([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], dtype=np.float32)
    judged = JudgedTiles(
        places=("a", "b"),
        place=np.asarray([0, 0, 0, 1, 1, 1]),
        elsewhere=np.zeros(6, bool),
        after=np.asarray([False, True, True, True, True, True]),
        flooded=np.asarray([False, True, False, False, True, False]),
        dry=np.asarray([False, False, True, True, False, False]),
        scores={"bright": score},
        ms_per_tile={"bright": 1.0},
    )
    row = experiments_table(judged, [BRIGHT], draws=10, seed=0).rows[2]
    assert row["auroc"] == auroc(score[[1, 4]], score[[2, 3]]) == 0.5
    assert (row["n_pos"], row["n_neg"]) == (2, 2)


def test_the_colours_are_those_of_the_first_tiles(folder: SpaceNet8Folder) -> None:
    colours = normal_colours(folder.tiles[:3], 16, GAINS, 6)
    want = np.repeat([2 * 100 / 255 - 1, 2 * 101 / 255 - 1], [4, 2])[:, None]
    np.testing.assert_allclose(colours, np.broadcast_to(want, (6, 3)), atol=1e-6)
    assert normal_colours([], 16, GAINS, 6).shape == (0, 3)
