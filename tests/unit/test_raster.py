"""Reading and writing rasters: exact copies where pixels fit the grid, right places where they are warped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.errors import BandMissing, RasterCorrupt, RasterRefused, RasterTimeout
from engine.grid import Cell, cells_over, to_lonlat
from engine.raster import RasterFile, ReadLimits, describe, plan_of_file, read_tiles, write_geotiff
from engine.raster.window import GridWindow
from engine.sensors import SENSORS, sensor_of_file
from tests.rasters import ORIGIN, aerial_plan, sentinel_plan, transform_at, write_plain

LIMITS = ReadLimits()


def dn(shape: tuple[int, int], seed: int = 0, low: int = 1, high: int = 6000) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


# Copying: Sentinel-2 on its own grid.


def test_ten_metre_pixels_are_copied_unchanged(tmp_path: Path) -> None:
    values = dn((192, 256))
    red = write_plain(tmp_path / "red.tif", values, nodata=0)
    reader = read_tiles(sentinel_plan({"red": red}, offset=-0.1), None)
    found = {tile.cell_id: batch.pixels[i, 0] for batch in reader for i, tile in enumerate(batch.tiles)}

    assert len(found) == 12
    for row in range(3):
        for col in range(4):
            cell = Cell(epsg=32629, level=0, tile_px=64, col=744 + col, row=9167 - row)
            own = values[64 * row : 64 * row + 64, 64 * col : 64 * col + 64].astype(np.float32)
            # The scene's outer pixels border on nothing and are not trusted.
            inner = np.s_[1:-1, 1:-1]
            expected = np.clip(own * np.float32(1e-4) - np.float32(0.1), 0, 1)
            np.testing.assert_array_equal(found[cell.id][inner], expected[inner])
    assert not reader.report.resampled
    assert (reader.report.epsg, reader.report.gsd_m, reader.report.total) == (32629, 10.0, 12)


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.sampled_from([1, 2, 6]),
    east=st.integers(-40, 40),
    north=st.integers(-40, 40),
    west=st.integers(-60, 120),
    south=st.integers(-140, 60),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
)
def test_a_window_is_the_pixels_that_lie_there(
    tmp_path_factory: pytest.TempPathFactory,
    ratio: int,
    east: int,
    north: int,
    west: int,
    south: int,
    width: int,
    height: int,
) -> None:
    """For each grid pixel, the file pixel that covers its centre; for none, NaN: by the definition, pixel by pixel."""
    values = dn((17, 13), seed=ratio)
    origin = (10.0 * east, 10.0 * north)
    path = write_plain(
        tmp_path_factory.mktemp("w") / "a.tif", values, transform=transform_at(10.0 * ratio, origin), crs="EPSG:32629"
    )
    window = GridWindow(epsg=32629, gsd_m=10.0, west=west, south=south, width=width, height=height)
    with RasterFile.open(str(path), LIMITS) as raster:
        assert raster.on_grid(32629, 10.0)
        read = raster.read([1], window, remaining_s=60)[0]

    x = (10.0 * (west + np.arange(width)) + 5.0 - origin[0]) // (10.0 * ratio)
    y = (origin[1] - (10.0 * (south + height - 1 - np.arange(height)) + 5.0)) // (10.0 * ratio)
    expected = np.full((height, width), np.nan, np.float32)
    for r, row in enumerate(y.astype(int)):
        for c, col in enumerate(x.astype(int)):
            if 0 <= row < 17 and 0 <= col < 13:
                expected[r, c] = values[row, col]
    np.testing.assert_array_equal(read, expected)


def test_twenty_metre_bands_and_classes_are_repeated_in_place(tmp_path: Path) -> None:
    red, swir = dn((128, 128)), dn((64, 64), seed=1)
    scl = np.full((64, 64), 4, np.uint8)
    scl[10, 20] = 9
    plan = sentinel_plan(
        {
            "swir16": write_plain(tmp_path / "swir.tif", swir, gsd_m=20.0, nodata=0),
            "red": write_plain(tmp_path / "red.tif", red, nodata=0),
        },
        scl=write_plain(tmp_path / "scl.tif", scl, gsd_m=20.0, nodata=0),
    )
    (batch,) = read_tiles(plan, None, tile_px=128, min_valid_ratio=0.1)
    assert batch.bands == ("swir16", "red")
    valid = batch.valid[0]
    np.testing.assert_array_equal(
        batch.pixels[0, 0][valid], (swir.repeat(2, 0).repeat(2, 1).astype(np.float32) * np.float32(1e-4))[valid]
    )
    np.testing.assert_array_equal(batch.pixels[0, 1][valid], (red.astype(np.float32) * np.float32(1e-4))[valid])
    # The cloud pixel of 20 m, 20 m further on each side, and the border of 10 m.
    expected = np.zeros((128, 128), bool)
    expected[1:-1, 1:-1] = True
    expected[18:24, 38:44] = False
    np.testing.assert_array_equal(valid, expected)
    assert not batch.pixels[0][:, ~valid].any()


@pytest.mark.parametrize(
    ("scl", "reason"),
    [
        *((0, "nodata"), (1, "saturated"), (3, "shadow"), (8, "cloud"), (9, "cloud"), (10, "cloud")),
        *((clear, None) for clear in (2, 4, 5, 6, 7, 11)),
    ],
)
def test_each_scene_class_is_ground_or_a_reason(tmp_path: Path, scl: int, reason: str | None) -> None:
    plan = sentinel_plan(
        {"red": write_plain(tmp_path / "red.tif", dn((64, 64)))},
        scl=write_plain(tmp_path / "scl.tif", np.full((32, 32), scl, np.uint8), gsd_m=20.0),
    )
    reader = read_tiles(plan, None)
    assert sum(len(batch) for batch in reader) == (reason is None)
    assert dict(reader.report.skipped) == ({} if reason is None else {reason: 1})


def test_cloud_in_the_next_block_reaches_over(tmp_path: Path) -> None:
    """Tiles are read in blocks of 1024 px: the mask does not change at their seams."""
    scl = np.full((64, 1088), 4, np.uint8)
    start = 1024 - 744 * 64 % 1024  # The column of the file where a new block of cells begins.
    scl[:, start] = 9
    plan = sentinel_plan(
        {"red": write_plain(tmp_path / "red.tif", dn((64, 1088)))}, scl=write_plain(tmp_path / "scl.tif", scl)
    )
    tiles = {tile.col: batch.valid[i] for batch in read_tiles(plan, None) for i, tile in enumerate(batch.tiles)}
    before = tiles[744 + start // 64 - 1]
    assert not before[:, -2:].any()
    assert before[1:-1, :-2][:, 1:].all()


def test_only_cells_of_the_areas_are_read_and_overlaps_once(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "red.tif", dn((640, 640)))
    first = Cell(epsg=32629, level=0, tile_px=64, col=746, row=9164)
    second = Cell(epsg=32629, level=0, tile_px=64, col=747, row=9164)
    inside = [to_lonlat(cell.polygon.buffer(-50), 32629) for cell in (first, second, first)]
    reader = read_tiles(sentinel_plan({"red": path}), inside, batch_size=1)
    assert [tile.cell_id for batch in reader for tile in batch.tiles] == [first.id, second.id]
    assert reader.report.total == 2


def test_an_area_beside_the_scene_reads_nothing(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "red.tif", dn((64, 64)))
    reader = read_tiles(sentinel_plan({"red": path}), [shapely.box(10.0, 50.0, 10.1, 50.1)])
    assert list(reader) == []
    assert reader.report.total == 0


def test_batches_are_full_but_the_last_and_every_cell_is_accounted_for(tmp_path: Path) -> None:
    values = dn((640, 640))
    values[:200, :200] = 0
    reader = read_tiles(sentinel_plan({"red": write_plain(tmp_path / "red.tif", values)}), None, batch_size=32)
    sizes = [len(batch) for batch in reader]
    report = reader.report
    assert sizes[:-1] == [32] * (len(sizes) - 1)
    assert report.read == sum(sizes)
    assert report.total == 100 == report.read + report.skipped.total()
    assert report.skipped["nodata"] >= 9


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    reader = read_tiles(sentinel_plan({"red": write_plain(tmp_path / "red.tif", dn((128, 128)))}), None)
    (first,), (second,) = list(reader), list(reader)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert reader.report.read == 4


# Warping: everything else.


def ramp(transform: Affine, shape: tuple[int, int], crs: str, epsg: int) -> np.ndarray:
    """A plane over the ground of a zone, sampled at the pixel centres of a file of any CRS."""
    cols, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x = transform.a * cols + transform.b * rows + transform.c
    y = transform.d * cols + transform.e * rows + transform.f
    east, north = Transformer.from_crs(crs, epsg, always_xy=True).transform(x, y)
    return plane(east, north)


def plane(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    return ((east - ORIGIN[0]) * 0.7 - (north - ORIGIN[1]) * 0.4 + 2000.0).astype(np.float32)


@pytest.mark.parametrize(
    ("crs", "transform", "shape"),
    [
        ("EPSG:4326", Affine(1.3e-4, 0, -9.36, 0, -0.9e-4, 52.96), (400, 400)),
        ("EPSG:32630", None, (400, 400)),
        ("EPSG:32629", transform_at(10.0, (ORIGIN[0] + 3.3, ORIGIN[1] + 4.1)), (300, 300)),
        ("EPSG:2157", None, (500, 500)),
        ("EPSG:32629", Affine(9.0, 2.0, ORIGIN[0], 2.0, -9.0, ORIGIN[1]), (300, 300)),
    ],
)
def test_warped_pixels_lie_where_they_belong(
    tmp_path: Path, crs: str, transform: Affine | None, shape: tuple[int, int]
) -> None:
    """Bilinear interpolation reproduces a plane: a shift of half a pixel would show as several units."""
    if transform is None:
        x, y = Transformer.from_crs(32629, crs, always_xy=True).transform(*ORIGIN)
        transform = Affine(10.0, 0, round(x) + 0.7, 0, -10.0, round(y) + 0.2)
    path = write_plain(tmp_path / "a.tif", ramp(transform, shape, crs, 32629), crs=crs, transform=transform)
    window = GridWindow(epsg=32629, gsd_m=10.0, west=47650, south=586600, width=100, height=80)
    with RasterFile.open(str(path), LIMITS) as raster:
        assert not raster.on_grid(32629, 10.0)
        read = raster.read([1], window, remaining_s=60)[0]
    east = 10.0 * (47650 + np.arange(100)) + 5.0
    north = 10.0 * (586600 + 79 - np.arange(80)) + 5.0
    expected = plane(*np.meshgrid(east, north))
    assert np.isfinite(read).mean() > 0.95
    assert np.nanmax(np.abs(read - expected)) < 1.5  # A grid pixel is 7 units wide and 4 high: a fifth of a pixel.


def test_much_finer_files_are_averaged_in_place(tmp_path: Path) -> None:
    transform = transform_at(1.0)
    path = write_plain(tmp_path / "a.tif", ramp(transform, (700, 700), "EPSG:32629", 32629), transform=transform)
    window = GridWindow(epsg=32629, gsd_m=5.0, west=95240, south=1173400, width=80, height=80)
    with RasterFile.open(str(path), LIMITS) as raster:
        coarse = raster.read([1], window, remaining_s=60)[0]
    east = 5.0 * (95240 + np.arange(80)) + 2.5
    north = 5.0 * (1173400 + 79 - np.arange(80)) + 2.5
    expected = plane(*np.meshgrid(east, north))
    assert np.nanmax(np.abs(coarse - expected)) < 0.5


def test_nodata_does_not_bleed_into_warped_ground(tmp_path: Path) -> None:
    values = np.full((200, 200), 3000, np.uint16)
    values[:, 100:] = 0
    transform = transform_at(10.0, (ORIGIN[0] + 3.0, ORIGIN[1] - 3.0))
    path = write_plain(tmp_path / "a.tif", values, transform=transform, nodata=0)
    (batch,) = read_tiles(sentinel_plan({"red": path}), None, batch_size=999, min_valid_ratio=0.05)
    np.testing.assert_allclose(batch.pixels[:, 0][batch.valid], 0.3, rtol=1e-6)


def test_an_aerial_image_of_another_crs_is_read_at_the_nearest_level(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 300, 300)).astype(np.uint8)
    path = write_plain(
        tmp_path / "a.tif", values, crs="EPSG:4326", transform=Affine(6e-6, 0, -94.4996, 0, -6e-6, 37.0751)
    )
    reader = read_tiles(aerial_plan(path), None)
    tiles = [tile for batch in reader for tile in batch.tiles]
    assert reader.report.resampled
    assert (reader.report.epsg, reader.report.gsd_m) == (32615, 0.625)
    assert {Cell.parse(tile.cell_id).level for tile in tiles} == {4}
    footprint = shapely.box(*describe(path).bounds_lonlat)
    assert {tile.cell_id for tile in tiles} <= {cell.id for cell in cells_over(footprint, 32615, 4)}


# Masks of aerial imagery.


def test_black_is_a_colour_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    values = np.full((3, 128, 128), 90, np.uint8)
    values[:, :64] = 0
    values[0, 64:] = 0  # Zero in one band alone is never nodata.
    plain = write_plain(tmp_path / "plain.tif", values, gsd_m=0.625)
    declared = write_plain(tmp_path / "declared.tif", values, gsd_m=0.625, nodata=0)

    (whole,) = read_tiles(aerial_plan(plain), None)
    assert whole.valid.all()
    reader = read_tiles(aerial_plan(declared), None)
    (half,) = reader
    assert half.valid.all()
    assert reader.report.read == 2
    assert reader.report.skipped == {"nodata": 2}


def test_an_alpha_band_and_an_internal_mask_are_obeyed(tmp_path: Path) -> None:
    values = np.full((4, 64, 64), 90, np.uint8)
    values[3] = 255
    values[3, :10] = 0
    with_alpha = write_plain(tmp_path / "alpha.tif", values, gsd_m=0.625, photometric="rgb", alpha="yes")
    info = describe(with_alpha)
    sensor = sensor_of_file(count=4, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha)
    assert (info.alpha, sensor.name) == (4, "aerial-rgb")
    (batch,) = read_tiles(plan_of_file(info, sensor), None)
    np.testing.assert_array_equal(batch.valid[0], values[3] == 255)

    masked = tmp_path / "masked.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            masked, "w", driver="GTiff", count=3, width=64, height=64, dtype="uint8", crs="EPSG:32629",
            transform=transform_at(0.625),
        ) as dataset,
    ):  # fmt: skip
        dataset.write(values[:3])
        dataset.write_mask(values[3])
    (batch,) = read_tiles(aerial_plan(masked), None)
    np.testing.assert_array_equal(batch.valid[0], values[3] == 255)


def test_near_infrared_that_calls_itself_alpha_is_data(tmp_path: Path) -> None:
    """As in NAIP files: the fourth band is tagged alpha, and holds brightness."""
    values = np.random.default_rng(1).integers(20, 200, (4, 64, 64)).astype(np.uint8)
    path = write_plain(tmp_path / "naip.tif", values, gsd_m=0.625, photometric="rgb", alpha="yes")
    info = describe(path)
    sensor = sensor_of_file(count=4, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha)
    assert (info.alpha, sensor.name) == (None, "aerial-rgbn")
    (batch,) = read_tiles(plan_of_file(info, sensor), None)
    np.testing.assert_allclose(batch.band("nir")[0], values[3] / 255, atol=1e-6)
    assert batch.valid.all()


# Doubts about the offset.


@pytest.mark.parametrize(
    ("stored_black", "offset", "warned"),
    [(1000, -0.1, None), (0, 0.0, None), (0, -0.1, "already applied"), (1000, 0.0, "not applied")],
)
def test_dark_pixels_contradict_a_wrong_offset(
    tmp_path: Path, stored_black: int, offset: float, warned: str | None
) -> None:
    ground = np.random.default_rng(3).gamma(2.0, 800.0, (256, 256))
    ground[:60] = np.abs(np.random.default_rng(4).normal(60, 30, (60, 256)))  # Water.
    values = np.clip(ground + stored_black, 1, 15000).astype(np.uint16)
    reader = read_tiles(sentinel_plan({"nir": write_plain(tmp_path / "nir.tif", values)}, offset=offset), None)
    assert sum(len(batch) for batch in reader) == 16
    assert [warned in text for text in reader.report.warnings] == ([True] if warned else [])


# Time and shape.


def test_a_read_that_takes_too_long_stops_between_blocks(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "red.tif", dn((64, 4096)))
    ticks = iter(range(0, 10_000, 10))
    reader = read_tiles(
        sentinel_plan({"red": path}), None, limits=ReadLimits(timeout_s=25), monotonic=lambda: float(next(ticks))
    )
    with pytest.raises(RasterTimeout, match=r"test scene took over 25 s \(\d+ of 64 tiles read\)"):
        list(reader)
    assert reader.report.read < 64


def test_the_callers_own_time_does_not_count(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "red.tif", dn((64, 640)))
    now = [0.0]
    reader = read_tiles(
        sentinel_plan({"red": path}), None, batch_size=1, limits=ReadLimits(timeout_s=5), monotonic=lambda: now[0]
    )
    for _ in reader:
        now[0] += 100.0
    assert reader.report.read == 10


def test_a_file_too_coarse_for_its_sensor_is_refused(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", np.ones((3, 64, 64), np.uint8), gsd_m=22.0)
    with pytest.raises(RasterRefused, match=r"pixels of 22 m; sensor aerial-rgb is read at 0\.3125 to 2\.5 m"):
        list(read_tiles(aerial_plan(path), None))


def test_a_band_beyond_the_file_is_named(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "a.tif", np.ones((2, 64, 64), np.uint8), gsd_m=0.625)
    with pytest.raises(RasterCorrupt, match=r"has 2 bands; band 3"):
        list(read_tiles(aerial_plan(path), None))


def test_a_bare_file_without_a_wanted_band_says_so(tmp_path: Path) -> None:
    info = describe(write_plain(tmp_path / "a.tif", np.ones((3, 64, 64), np.uint8), gsd_m=0.625))
    with pytest.raises(BandMissing, match="no band 'nir'"):
        plan_of_file(info, SENSORS["aerial-rgb"], ["red", "nir"])


# Writing.


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_written_comes_back(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(5).integers(1, 200, (2, 700, 600)).astype(dtype)
    path = write_geotiff(
        tmp_path / "a.tif",
        array,
        32629,
        transform_at(10.0)[:6],
        nodata=0,
        scales=(1e-4, 2e-4),
        offsets=(-0.1, 0.0),
        descriptions=("red", "nir"),
    )
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), array)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.block_shapes == [(256, 256)] * 2
        assert dataset.overviews(1)
        assert dataset.transform == transform_at(10.0)
    info = describe(path)
    assert (info.crs, info.shape, info.descriptions) == ("EPSG:32629", (700, 600), ("red", "nir"))
    assert (info.scales, info.offsets, info.nodata) == ((1e-4, 2e-4), (-0.1, 0.0), (0.0, 0.0))
    assert info.gsd_m == pytest.approx(10.0, rel=1e-9)


def test_a_fourth_colour_band_is_no_alpha(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.full((4, 64, 64), 255, np.uint8), 32629, transform_at(0.625)[:6])
    with rasterio.open(path) as dataset:
        assert [meaning.name for meaning in dataset.colorinterp][:3] == ["red", "green", "blue"]
        assert dataset.colorinterp[3].name != "alpha"


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    target.write_bytes(b"before")
    with pytest.raises(Exception, match=r"(?i)crs|epsg"):
        write_geotiff(target, np.ones((64, 64), np.uint8), "EPSG:1", transform_at(10.0)[:6])
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("array", [np.ones(5, np.uint8), np.ones((0, 4, 4), np.uint8), np.ones((4, 4), np.complex64)])
def test_what_is_no_image_is_not_written(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"bands, rows, columns|not written"):
        write_geotiff(tmp_path / "a.tif", array, 32629, transform_at(10.0)[:6])


# Real files.


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "sensor", "gsd_m", "total"),
    [
        ("naip/m_3211605_ne_11_060_20200415.tif", "aerial-rgbn", 0.625, 20),
        ("naip/m_4208701_ne_16_060_20200902.tif", "aerial-rgbn", 0.625, 12),
        ("lahinch/S2/2017-09-18.tif", "sentinel-2-l1c", 10.0, 12),
        ("sen1floods11/Spain_7370579_S2Hand.tif", "sentinel-2-l1c", 10.0, 63),
        ("joplin/pre/tile_337-9136.tif", "aerial-rgb", 0.625, 256),
        ("joplin/post/tile_32524-5137.tif", "aerial-rgb", 0.625, 267),
    ],
)
def test_real_files_are_read(data_dir: Path, name: str, sensor: str, gsd_m: float, total: int) -> None:
    info = describe(data_dir / name)
    found = sensor_of_file(count=info.count, dtypes=info.dtypes, descriptions=info.descriptions, alpha=info.alpha)
    reader = read_tiles(plan_of_file(info, found), None)
    pixels = np.concatenate([batch.pixels[batch.valid[:, None].repeat(len(batch.bands), 1)] for batch in reader])
    report = reader.report
    assert (found.name, report.gsd_m, report.total) == (sensor, gsd_m, total)
    assert report.total == report.read + report.skipped.total()
    assert 0.02 < pixels.mean() < 0.8


@pytest.mark.real_data
def test_a_cloudy_date_is_skipped_for_cloud_and_a_clear_one_is_not(data_dir: Path) -> None:
    outcomes = {}
    for day in ("2017-09-18", "2017-10-18"):
        info = describe(data_dir / f"lahinch/S2/{day}.tif")
        plan = plan_of_file(info, SENSORS["sentinel-2-l1c"], ["swir16", "nir", "red"])
        reader = read_tiles(plan, None)
        list(reader)
        outcomes[day] = (reader.report.read, reader.report.skipped["cloud"])
    assert outcomes == {"2017-09-18": (6, 0), "2017-10-18": (0, 9)}


@pytest.mark.real_data
def test_the_same_ground_agrees_before_and_after_in_two_crs(data_dir: Path) -> None:
    """Joplin before is UTM 15 N of NAD 83, after is EPSG:4326: a road junction must fall on the same pixels.

    Most of that ground was destroyed between the two, so only the best-correlated common tile is asked.
    """
    looks: list[dict[str, np.ndarray]] = []
    for folder in ("pre", "post"):
        tiles: dict[str, np.ndarray] = {}
        for path in sorted((data_dir / "joplin" / folder).glob("*.tif")):
            info = describe(path)
            for batch in read_tiles(plan_of_file(info, SENSORS["aerial-rgb"]), None, min_valid_ratio=1.0):
                tiles |= {tile.cell_id: batch.pixels[i].mean(axis=0) for i, tile in enumerate(batch.tiles)}
        looks.append(tiles)
    common = sorted(looks[0].keys() & looks[1].keys())
    assert len(common) > 50
    best = max(float(np.corrcoef(looks[0][cell].ravel(), looks[1][cell].ravel())[0, 1]) for cell in common)
    assert best > 0.6
