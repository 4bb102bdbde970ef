"""Tiles put back together: every pixel where it came from, and NaN where no tile was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from engine.errors import InputMismatch
from engine.grid import Cell
from engine.mosaic import Mosaic
from engine.raster import read_tiles, write_geotiff
from engine.tiles import Float32Array, Tile
from tests.rasters import ORIGIN, aerial_plan, transform_at, write_plain

SIDE = 4


def tile(col: int, row: int, *, epsg: int = 32629, level: int = 0) -> Tile:
    cell = Cell(epsg=epsg, level=level, tile_px=SIDE, col=col, row=row)
    return Tile(
        cell_id=cell.id,
        row=row,
        col=col,
        crs=cell.crs,
        transform=cell.transform,
        size_px=SIDE,
        valid_ratio=1.0,
    )


def piece(value: float, channels: int = 1) -> Float32Array:
    return np.full((channels, SIDE, SIDE), value, np.float32)


def test_tiles_stand_north_up_and_west_left() -> None:
    mosaic = Mosaic()
    mosaic.add(tile(10, 20), piece(1))  # south-west
    mosaic.add(tile(11, 20), piece(2))  # south-east
    mosaic.add(tile(11, 21), piece(3))  # north-east
    whole = mosaic.array()
    assert whole.shape == (1, 2 * SIDE, 2 * SIDE)
    assert np.isnan(whole[0, :SIDE, :SIDE]).all()
    assert (whole[0, :SIDE, SIDE:] == 3).all()
    assert (whole[0, SIDE:, :SIDE] == 1).all()
    assert (whole[0, SIDE:, SIDE:] == 2).all()
    assert mosaic.crs == "EPSG:32629"
    # The north-west corner: west edge of column 10, north edge of row 21.
    assert mosaic.transform == (10.0, 0.0, 10 * SIDE * 10.0, 0.0, -10.0, 22 * SIDE * 10.0)
    assert len(mosaic) == 3


def test_order_does_not_matter() -> None:
    tiles = [(tile(c, r), piece(10 * c + r)) for c in range(3) for r in range(3)]
    first, second = Mosaic(), Mosaic()
    for one in tiles:
        first.add(*one)
    for one in reversed(tiles):
        second.add(*one)
    np.testing.assert_array_equal(first.array(), second.array())
    assert first.transform == second.transform


def test_a_scene_read_as_tiles_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (3, 128, 192), dtype=np.uint8)
    path = write_plain(tmp_path / "scene.tif", image, gsd_m=0.625)
    mosaic = Mosaic()
    for batch in read_tiles(aerial_plan(path), None, batch_size=2):
        for each, pixels in zip(batch.tiles, batch.pixels, strict=True):
            mosaic.add(each, pixels)
    back = np.rint(mosaic.array() * 255).astype(np.uint8)
    np.testing.assert_array_equal(back, image)
    assert mosaic.transform == tuple(transform_at(0.625, ORIGIN))[:6]

    out = write_geotiff(tmp_path / "back.tif", mosaic.array(), mosaic.crs, mosaic.transform, nodata=float("nan"))
    with rasterio.open(out) as dataset, rasterio.open(path) as original:
        assert dataset.bounds == original.bounds
        assert dataset.crs == original.crs
        np.testing.assert_array_equal(np.rint(dataset.read() * 255), original.read())


@pytest.mark.parametrize(
    ("other", "values"),
    [
        (tile(11, 20, epsg=32630), piece(1)),
        (tile(11, 20, level=1), piece(1)),
        (tile(11, 20), piece(1, channels=2)),
    ],
    ids=["another zone", "another pixel size", "another number of bands"],
)
def test_what_does_not_belong_together_is_refused(other: Tile, values: Float32Array) -> None:
    mosaic = Mosaic()
    mosaic.add(tile(10, 20), piece(0))
    with pytest.raises(InputMismatch, match="does not join"):
        mosaic.add(other, values)
    assert len(mosaic) == 1


def test_nothing_and_too_much_have_no_array() -> None:
    with pytest.raises(InputMismatch, match="no tiles"):
        Mosaic().array()
    mosaic = Mosaic()
    mosaic.add(tile(0, 0), piece(0))
    mosaic.add(tile(3_000, 3_000), piece(0))  # 12 004 x 12 004 pixels
    with pytest.raises(InputMismatch, match="choose a smaller area"):
        mosaic.array()
