"""Tile shards with their ground: what comes back, which tiles are paired, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine.errors import ShardInvalid
from engine.grid import Cell
from engine.shards import FORMAT_1, FORMAT_2, ShardFacts, ShardRow, read_shard, write_shard
from training.data.shards import ShardFolder, open_harvest, tile_pairs
from training.data.sources import SourceSettings, open_sources
from training.errors import TrainingDataInvalid

COARSE = ShardFacts(
    family="sentinel-2", bands=("red", "green"), gain=(1e-4, 2e-4), gsd_m=10.0, sensor="s2.l2a", within_days=3.0
)
FINE = ShardFacts(family="aerial", bands=("red", "green"), gain=(1 / 255,) * 2, gsd_m=5.0, sensor="flown")
CELL = Cell(epsg=32629, level=0, tile_px=16, col=3000, row=36000)
NOON = datetime(2021, 6, 1, 12, tzinfo=UTC)


def row(cell: Cell, days: float = 0.0, scene: str = "scene") -> ShardRow:
    return ShardRow(cell=cell, sensed=NOON + timedelta(days=days), scene=scene)


def ground(cell: Cell, kind: type = np.uint16) -> np.ndarray:
    """A tile that says where it is: metres east and south of the parent's corner, plus 1.  (2, H, W)"""
    west, _, _, north = cell.bounds
    left, _, _, top = CELL.bounds
    at = (np.arange(cell.tile_px) + 0.5) * cell.gsd_m
    east, south = np.meshgrid(west - left + at, top - north + at)
    return np.rint(np.stack([east, south]) + 1).astype(kind)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = (row(CELL, 0.25, "a"), row(replace(CELL, col=7), 1.5, "b"))
    tiles = np.stack([ground(CELL), ground(CELL)])
    write_shard(tmp_path / "x.safetensors", tiles, COARSE, rows=rows)
    shard = read_shard(tmp_path / "x.safetensors")
    assert (shard.facts, shard.rows) == (COARSE, rows)
    np.testing.assert_array_equal(shard.tiles, tiles)
    # A sensing time in another zone is the same instant.
    local = replace(rows[0], sensed=datetime.fromisoformat("2021-06-01T20:00:00+02:00"))
    write_shard(tmp_path / "x.safetensors", tiles[:1], COARSE, rows=[local])
    (back,) = read_shard(tmp_path / "x.safetensors").rows
    assert (back.sensed, back.sensed.tzinfo) == (datetime(2021, 6, 1, 18, tzinfo=UTC), UTC)


def test_without_rows_the_first_format_is_written_and_read(tmp_path: Path) -> None:
    plain = ShardFacts(family="aerial", bands=("red", "green"), gain=(0.1, 0.2), gsd_m=0.5)
    write_shard(tmp_path / "x.safetensors", np.ones((2, 2, 4, 4), np.uint8), plain)
    # The header of a safetensors file is JSON.
    assert FORMAT_1.encode() in (tmp_path / "x.safetensors").read_bytes()[:400]
    shard = read_shard(tmp_path / "x.safetensors")
    assert (shard.facts, shard.rows, shard.earlier) == (plain, (), None)
    folder = ShardFolder.open(tmp_path)
    assert folder.sensor == "aerial"
    assert folder.placed() == folder.pairs() == []


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, tiles = tmp_path / "x.safetensors", np.ones((1, 2, 16, 16), np.uint8)
    with pytest.raises(ShardInvalid, match=r"2 rows of sensor 's2\.l2a' are told for 1 tiles"):
        write_shard(path, tiles, COARSE, rows=[row(CELL)] * 2)
    with pytest.raises(ShardInvalid, match="1 rows of sensor ''"):
        write_shard(path, tiles, replace(COARSE, sensor=""), rows=[row(CELL)])
    with pytest.raises(ShardInvalid, match="is not of 16x16 px"):
        write_shard(path, tiles, COARSE, rows=[row(replace(CELL, tile_px=32))])
    with pytest.raises(ShardInvalid, match="names no zone"):
        write_shard(path, tiles, COARSE, rows=[replace(row(CELL), sensed=datetime(2021, 6, 1))])  # noqa: DTZ001
    write_shard(path, tiles, COARSE, rows=[row(CELL)])
    facts = {"format": FORMAT_2, "family": "x", "bands": '["a","b"]', "gain": "[1,1]", "gsd_m": "10.0", "sensor": "y"}
    for rows, fault in (
        ("[{}]", "cell"),
        ('[{"cell": "x", "sensed": "2021-06-01T00:00:00Z", "scene": ""}]', "cell id"),
    ):
        save_file(load_file(path), path, metadata={**facts, "rows": rows})
        with pytest.raises(ShardInvalid, match=fault):
            read_shard(path)


def harvest(root: Path) -> Path:
    """Two collections: coarse tiles of a cell on days 0 and 9; fine ones of the same square and of a quarter."""
    square, quarter = (
        Cell(epsg=32629, level=1, tile_px=32, col=3000, row=36000),
        replace(CELL, level=1, col=6001, row=72000),
    )
    assert square.bounds == CELL.bounds
    away = replace(CELL, col=3001)
    for folder in ("coarse", "fine", "quarter"):
        (root / folder).mkdir(parents=True)
    rows = [row(CELL, 0, "a"), row(CELL, 9, "b"), row(away, 0, "a")]
    write_shard(root / "coarse" / "a.safetensors", np.stack([ground(one.cell) for one in rows]), COARSE, rows=rows)
    write_shard(root / "fine" / "a.safetensors", ground(square)[None], FINE, rows=[row(square, 1, "c")])
    facts = replace(FINE, sensor="quarters")
    write_shard(root / "quarter" / "a.safetensors", ground(quarter)[None], facts, rows=[row(quarter, 8, "d")])
    return root


def test_tiles_pair_by_ground_within_the_days_allowed(tmp_path: Path) -> None:
    coarse, fine, quarter = open_harvest(harvest(tmp_path))
    assert [folder.sensor for folder in (coarse, fine, quarter)] == ["s2-l2a", "flown", "quarters"]
    (pair,) = tile_pairs(coarse, fine)
    assert (pair.first.row.scene, pair.second.row.scene, pair.days) == ("a", "c", 1.0)
    assert pair.first.pixels.shape == (16, 16, 2)
    assert pair.second.pixels.shape == (32, 32, 2)
    # Whoever comes first: the pair is the same.
    (turned,) = tile_pairs(fine, coarse)
    assert (turned.first.row, turned.second.row) == (pair.second.row, pair.first.row)
    unlimited = replace(
        coarse, shards=tuple(replace(one, facts=replace(one.facts, within_days=None)) for one in coarse.shards)
    )
    assert [pair.days for pair in tile_pairs(unlimited, fine)] == [1.0, 8.0]


def test_a_tile_within_a_larger_one_is_paired_with_its_part(tmp_path: Path) -> None:
    coarse, _, quarter = open_harvest(harvest(tmp_path))
    for pairs in (
        tile_pairs(quarter, coarse),
        [replace(p, first=p.second, second=p.first) for p in tile_pairs(coarse, quarter)],
    ):
        (pair,) = pairs
        assert pair.second.row.scene == "b"
        # The fine tile and the part name the same metres, at the middle of their pixels.
        np.testing.assert_allclose(
            pair.first.pixels.reshape(8, 2, 8, 2, 2).mean(axis=(1, 3)), pair.second.pixels, atol=1
        )


def test_a_harvest_is_pools_and_pairs_to_train_on(tmp_path: Path) -> None:
    found = open_sources(SourceSettings(gains={}), [("shards", harvest(tmp_path))])
    assert [(pool.sensor, len(pool)) for pool in found.pools] == [("s2-l2a", 3), ("flown", 1), ("quarters", 1)]
    assert [source.sensors for source in found.pairs] == [
        ("s2-l2a", "s2-l2a-earlier"),
        ("s2-l2a", "flown"),
        ("s2-l2a", "quarters"),
        ("flown", "quarters"),
    ]
    assert list(found.digests) == ["shards:coarse", "shards:fine", "shards:quarter"]
    assert any("1 pairs of s2-l2a and flown, 1.0 to 1.0 days apart" in note for note in found.notes)
    a, b = found.pairs[1].pairs(np.random.default_rng(0), 3, 16)
    # Both name metres, by gains of 1e-4, 2e-4 and 1/255.
    np.testing.assert_allclose((a[:, 0] + 1) / 2 / 1e-4, (b[:, 0] + 1) / 2 * 255, atol=6)


def test_an_earlier_look_is_the_last_tile_of_the_cell_before(tmp_path: Path) -> None:
    for name, days in (("b", 5.0), ("a", 2.0), ("c", 9.0)):
        tile = np.full((1, 2, 16, 16), int(days), np.uint8)
        write_shard(tmp_path / f"{name}.safetensors", tile, FINE, rows=[row(CELL, days, name)])
    found = ShardFolder.open(tmp_path).pairs()
    assert [(int(now[0, 0, 0]), int(before[0, 0, 0])) for now, before in found] == [(5, 2), (9, 5)]


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(TrainingDataInvalid, match="or a folder below it"):
        open_harvest(tmp_path)
    with pytest.raises(TrainingDataInvalid, match="no tile shard"):
        open_harvest(tmp_path / "nowhere")
