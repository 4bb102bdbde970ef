"""Label-free anomalies: classes that a network was not shown, and ground before and after, by exact cases and loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from tests.rasters import write_plain
from training.data.classfolder import ClassFolder, ClassImage
from training.denoise.layouts import open_ground
from training.errors import TrainingDataInvalid
from training.evaluate.anomaly import ImageScores, class_tables, image_tiles, images_of_each_class, score_images
from training.evaluate.before_after import common_cells, files_of, judge_ground, read_ground, thinned
from training.evaluate.metrics import auroc
from training.evaluate.ood import Subject
from training.presets import denoiser_preset

BANDS = ("red", "green", "blue")
PX = 16
CORNER = (320 * 16 * 0.625, 6400 * 16 * 0.625)
"""Of cells of 16 px on level 4."""


def quiet(*_: object) -> None:
    """No progress."""


def mean_of(tiles: np.ndarray) -> tuple[np.ndarray, None]:
    return tiles.mean(axis=(1, 2, 3)), None


BRIGHT = Subject(name="bright", kind="control", unpaired=mean_of)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """beach: 200; field: 100; town: 50; 4 images each, the i-th of them brighter by i."""
    for label, level in (("beach", 200), ("field", 100), ("town", 50)):
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.fromarray(np.full((64, 64, 3), level + i, np.uint8)).save(tmp_path / label / f"{i}.png")
    return tmp_path


def test_a_held_out_class_is_not_trained_on(classes: Path) -> None:
    preset = replace(denoiser_preset("aerial"), held_out_classes=("beach",), sides_px=())
    ground = open_ground(preset, classes)
    assert sorted({int(image.max()) for image in ground.pool.images}) == [50, 52, 100, 102]
    with pytest.raises(TrainingDataInvalid, match="'sea'"):
        open_ground(replace(preset, held_out_classes=("sea",)), classes)
    with pytest.raises(TrainingDataInvalid, match="only held-out images"):
        open_ground(replace(preset, held_out_classes=("beach", "field", "town")), classes)


def test_an_image_is_cut_into_all_its_tiles(classes: Path) -> None:
    image = ClassImage(path=classes / "beach" / "1.png", label="beach")
    tiles = image_tiles(image, (1 / 255,) * 3, 16, 32)
    assert tiles.shape == (4, 3, 16, 16)
    np.testing.assert_allclose(tiles, 201 / 255, rtol=1e-6)
    with pytest.raises(TrainingDataInvalid, match="larger side"):
        image_tiles(image, (1 / 255,) * 3, 64, 32)


def test_an_image_scores_the_mean_of_its_tiles(classes: Path) -> None:
    images = images_of_each_class(ClassFolder.open(classes).images, 2, np.random.default_rng(0))
    assert [image.label for image in images] == ["beach", "beach", "field", "field", "town", "town"]
    ticks = iter(np.arange(0, 100, 0.5))
    scored = score_images(
        images, [BRIGHT], lambda image: image_tiles(image, (1 / 255,) * 3, 16, 32), lambda: float(next(ticks)), quiet
    )
    want = [np.asarray(Image.open(image.path).convert("RGB")).mean() / 255 for image in images]
    np.testing.assert_allclose(scored.scores["bright"], want, rtol=1e-6)
    assert scored.ms_per_tile["bright"] == pytest.approx(1000 * 0.5 * 6 / 24)


def scored(**scores: Any) -> ImageScores:
    labels = np.asarray(["a", "a", "b", "b", "c", "c", "d", "d"])
    return ImageScores(
        labels=labels,
        scores={name: np.asarray(values, dtype=np.float32) for name, values in scores.items()},
        kinds=dict.fromkeys(scores, "unpaired"),
        nfe=dict.fromkeys(scores, 3),
        ms_per_tile=dict.fromkeys(scores, 1.0),
    )


def test_held_out_classes_stand_against_the_shown_ones() -> None:
    given = scored(good=[9, 8, 1, 2, 3, 4, 7, 1], bad=[0, 0, 9, 9, 9, 9, 0, 0])
    pooled, each = class_tables("run", given, ["a", "d"], draws=200, seed=0)
    assert [row["scorer"] for row in pooled] == ["good", "bad"]
    good = pooled[0]
    values = given.scores["good"]
    new = np.isin(given.labels, ["a", "d"])
    assert good["auroc"] == pytest.approx(auroc(values[new], values[~new]), abs=1e-5)
    assert (good["n_pos"], good["n_neg"], good["nfe"]) == (4, 4, 3)
    # Drawing class a twice gives 1, class d twice 0.5625 of the pairs and more or less with the shown ones.
    assert good["auroc_low"] < good["auroc"] < good["auroc_high"] == 1.0
    by_class = {(row["scorer"], row["class"]): row["auroc"] for row in each}
    assert by_class["good", "a"] == 1.0
    assert by_class["good", "d"] == pytest.approx(auroc(values[6:], values[2:6]), abs=1e-5)
    assert (pooled[1]["auroc"], pooled[1]["auroc_high"]) == (0.0, 0.0)


def test_one_held_out_class_has_no_interval() -> None:
    pooled, _ = class_tables("run", scored(s=[9, 8, 1, 2, 3, 4, 7, 1]), ["a"], draws=20, seed=0)
    assert pooled[0]["auroc"] == 1.0
    assert pooled[0]["auroc_low"] is None
    for names in ([], ["a", "b", "c", "d"], ["z"]):
        with pytest.raises(TrainingDataInvalid, match="both are needed"):
            class_tables("run", scored(s=range(8)), names, draws=20, seed=0)


def aerial(path: Path, level: int, west_cells: int = 0) -> Path:
    """64 x 64 px of 0.625 m on the grid: 16 cells, brighter to the east."""
    path.parent.mkdir(exist_ok=True)
    pixels = np.full((3, 64, 64), level, dtype=np.uint8) + np.arange(64, dtype=np.uint8) // 16
    where = Affine(0.625, 0, CORNER[0] + west_cells * 10.0, 0, -0.625, CORNER[1])
    return write_plain(path, pixels, crs="EPSG:32615", transform=where)


def test_the_same_ground_is_found_on_the_common_grid(tmp_path: Path) -> None:
    aerial(tmp_path / "pre" / "a.tif", 50)
    aerial(tmp_path / "post" / "a.tif", 100, west_cells=2)
    aerial(tmp_path / "post" / "b.tif", 200, west_cells=2)
    pre = read_ground(files_of(tmp_path / "pre"), BANDS, PX, quiet)
    post = read_ground(files_of(tmp_path / "post"), BANDS, PX, quiet)
    assert len(pre.cell_ids) == len(post.cell_ids) == 16, "of a cell that two files show, one counts"
    common = common_cells(pre, post)
    assert len(common) == 8
    both = post.at(common)
    assert both.cell_ids == common
    # Its western half is the eastern half of the earlier one: columns 2 and 3 there, 0 and 1 here, of file a.
    gain = both.batch.pixels - pre.at(common).batch.pixels
    np.testing.assert_allclose(gain, (100 - 50 - 2) / 255, atol=1e-6)


def test_ground_is_judged_as_a_whole_and_where_both_show_it(tmp_path: Path) -> None:
    aerial(tmp_path / "pre" / "a.tif", 100)
    aerial(tmp_path / "post" / "a.tif", 101, west_cells=2)
    pre = read_ground(files_of(tmp_path / "pre"), BANDS, PX, quiet)
    post = read_ground(files_of(tmp_path / "post"), BANDS, PX, quiet)
    gain = Subject(
        name="gain", kind="paired", paired=lambda now, earlier: (mean_of(now)[0] - mean_of(earlier)[0], None)
    )
    size = Subject(
        name="size", kind="paired", symmetric=True, paired=lambda now, earlier: (mean_of(abs(now - earlier))[0], None)
    )
    table = judge_ground(pre, post, [BRIGHT, gain, size], draws=50, seed=0, show=quiet)
    rows = {(row["scorer"], row["ground"]): row for row in table.rows}
    assert set(rows) == {("bright", "all"), ("bright", "common"), ("gain", "common"), ("size", "common")}
    # Levels 101..104 against 100..103, 4 tiles each: pairs (4 + 3 + 2 + 1) / 16 won and 3 / 16 even.
    values = np.repeat(np.arange(4.0), 4)
    assert rows["bright", "all"]["auroc"] == pytest.approx(auroc(values + 1, values), abs=1e-5)
    # On common ground 101 and 102 stand against 102 and 103.
    assert rows["bright", "common"]["auroc"] == pytest.approx(1 / 8, abs=1e-5)
    assert (rows["bright", "all"]["n_pos"], rows["bright", "common"]["n_pos"]) == (16, 8)
    assert rows["gain", "common"]["auroc"] == 0.0, "the common ground has become darker by 1"
    assert rows["size", "common"]["auroc"] is None
    assert rows["size", "common"]["median_after"] == pytest.approx(1 / 255, abs=1e-6)


def test_thinning_keeps_the_common_ground_first(tmp_path: Path) -> None:
    pre = read_ground([aerial(tmp_path / "pre.tif", 50)], BANDS, PX, quiet)
    post = read_ground([aerial(tmp_path / "post.tif", 50, west_cells=2)], BANDS, PX, quiet)
    rng = np.random.default_rng(0)
    a, b = thinned(pre, post, 10, rng)
    assert common_cells(a, b) == common_cells(pre, post)
    assert len(a.cell_ids) == len(b.cell_ids) == 10
    a, b = thinned(pre, post, 5, rng)
    assert a.cell_ids == b.cell_ids
    assert len(a.cell_ids) == 5


def test_folders_without_ground_are_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="no GeoTIFF"):
        files_of(tmp_path)
    small = write_plain(tmp_path / "small.tif", np.full((3, 8, 8), 9, np.uint8), crs="EPSG:32615", gsd_m=0.625)
    with pytest.raises(TrainingDataInvalid, match="no complete tile"):
        read_ground([small], BANDS, PX, quiet)
