"""The simulated place keeps to physics, to the cell grid and to its seed."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import ndimage
from shapely.geometry import mapping, shape

from daemon.demo.cover import Cover
from daemon.demo.passes import PASSES
from daemon.demo.pictures import FALSE_COLOUR_WHITE, DetectionPicture, draw_picture, write_picture
from daemon.demo.place import EPSG, Ground, Moment, SimulatedPlace, area_geometry, transform
from daemon.demo.sky import L2A_OFFSET, L2A_SCALE, block_mean, make_clouds, scene_classes, to_l2a, to_photo
from daemon.demo.spectra import BANDS, CROPS, SPECTRA, field_state, leaf_share
from daemon.demo.table import print_alerts
from daemon.demo.terrain import PIXEL_M, smooth_noise
from daemon.demo.words import area_in_words, odds_in_words, time_in_words
from daemon.settings import load_settings
from engine.grid import Cell, cells_over, union_lonlat

CONFIG = Path(__file__).parents[2] / "deploy" / "config"


@pytest.fixture(scope="module")
def place() -> SimulatedPlace:
    return SimulatedPlace.make(0)


def moment(stage_m: float, *, month: int = 5, seed: int = 0) -> Moment:
    time = datetime(2026, month, 20, 10, 10, tzinfo=UTC)
    return Moment(time=time, stage_m=stage_m, moisture=0.3, turbidity=0.2 if stage_m < 1 else 0.9, seed=seed)


@pytest.fixture(scope="module")
def dry(place: SimulatedPlace) -> Ground:
    return place.ground(moment(0.0), BANDS)


@pytest.fixture(scope="module")
def flooded(place: SimulatedPlace) -> Ground:
    return place.ground(moment(2.4), BANDS)


def test_area_is_eight_by_eight_cells() -> None:
    cells = cells_over(shape(dict(area_geometry())), EPSG, 0)
    assert {cell.col for cell in cells} == set(range(840, 848))
    assert {cell.row for cell in cells} == set(range(7782, 7790))
    assert len(cells) == 64


def test_local_configuration_watches_the_same_cells() -> None:
    (area,) = load_settings(CONFIG / "local.yaml", {}).watched_areas()
    assert cells_over(shape(dict(area.geometry)), EPSG, 0) == cells_over(shape(dict(area_geometry())), EPSG, 0)


def test_seed_decides(place: SimulatedPlace, dry: Ground) -> None:
    again = SimulatedPlace.make(0)
    np.testing.assert_array_equal(again.ground(moment(0.0), ["red"]).reflectance["red"], dry.reflectance["red"])
    assert not np.array_equal(SimulatedPlace.make(1).terrain.height_m, place.terrain.height_m)


def test_passes_move_with_the_flood() -> None:
    time = datetime(2024, 1, 3, 10, 0, 0, 5, tzinfo=UTC)
    assert PASSES[-1].time(time) == datetime(2024, 1, 4, 13, 36, tzinfo=UTC)
    assert [plan.days for plan in PASSES] == sorted(plan.days for plan in PASSES)


def test_water_rises_monotonically_and_from_the_river(place: SimulatedPlace) -> None:
    levels = [place.terrain.water_at(stage) for stage in (0.0, 0.5, 1.5, 2.4)]
    for lower, higher in pairwise(levels):
        assert not (lower & ~higher).any()
    flood = levels[-1]
    assert (place.terrain.height_m[flood] < 2.4).all()
    labels, count = ndimage.label(flood)
    river = set(np.unique(labels[place.terrain.river_m < PIXEL_M]).tolist())
    assert set(range(1, count + 1)) <= river
    # A low meadow behind a rise stays dry.
    assert ((place.terrain.height_m < 2.4) & ~flood).any()


def test_flood_is_large_and_reaches_the_village(place: SimulatedPlace, dry: Ground, flooded: Ground) -> None:
    new = (flooded.water & ~dry.water).astype(np.float32)
    share = block_mean(new, 256)
    assert 8 <= (share > 0.25).sum() <= 30
    assert (share == 0).sum() >= 24
    east, south = (int(at / PIXEL_M) for at in place.cover.village_m)
    assert new[south - 100 : south + 100, east - 100 : east + 100].mean() > 0.2


def test_water_is_dark_in_the_infrared_and_land_is_not(place: SimulatedPlace, dry: Ground, flooded: Ground) -> None:
    new = flooded.water & ~dry.water
    deep = new & (place.terrain.height_m < 1.8)
    assert np.median(flooded.reflectance["swir16"][deep]) < 0.03
    assert np.median(dry.reflectance["swir16"][deep]) > 0.12
    red, swir = flooded.reflectance["red"][deep], flooded.reflectance["swir16"][deep]
    assert ((red - swir) / (red + swir) > 0).mean() > 0.95
    red, swir = dry.reflectance["red"][~dry.water], dry.reflectance["swir16"][~dry.water]
    assert ((red - swir) / (red + swir) > 0).mean() < 0.01
    roofs = place.cover.is_any(Cover.RED_ROOF) & new
    assert np.median(flooded.reflectance["swir16"][place.cover.is_any(Cover.RED_ROOF)]) > 0.15
    assert roofs.sum() < 0.5 * (place.cover.is_any(Cover.RED_ROOF) & place.terrain.water_at(2.4)).sum()


def test_only_the_river_valley_changes_with_the_water(place: SimulatedPlace) -> None:
    low, high = (place.ground(moment(stage, seed=3), ["nir"]).reflectance["nir"] for stage in (0.0, 2.4))
    dry_land = ~place.terrain.water_at(2.4)
    np.testing.assert_array_equal(low[dry_land], high[dry_land])


def test_seasons(place: SimulatedPlace) -> None:
    def greenness(month: int) -> float:
        found = place.ground(moment(0.0, month=month), ["red", "nir"]).reflectance
        return float(((found["nir"] - found["red"]) / (found["nir"] + found["red"])).mean())

    assert greenness(6) > greenness(4) > greenness(1) > 0.2
    assert leaf_share(200) > 0.9
    assert leaf_share(20) < 0.2


@pytest.mark.parametrize("day", [1, 60, 120, 180, 240, 300, 366])
def test_shares_of_fields_are_shares(day: int) -> None:
    crop = np.arange(len(CROPS)).repeat(9)
    green, straw = field_state(crop, float(day), np.tile(np.linspace(-30, 30, 9), len(CROPS)))
    assert (green >= 0).all()
    assert (straw >= 0).all()
    assert (green + straw <= 1 + 1e-12).all()


def test_spectra_are_reflectances_of_all_bands() -> None:
    assert all(len(values) == len(BANDS) and min(values) > 0 and max(values) < 1 for values in SPECTRA.values())


def test_tiles_have_texture(dry: Ground) -> None:
    for band in BANDS:
        ten = block_mean(dry.reflectance[band], 4)
        spread = ten.reshape(8, 64, 8, 64).std(axis=(1, 3))
        assert spread.min() > 0.004, band


def test_noise_has_the_promised_moments() -> None:
    noise = smooth_noise(np.random.default_rng(0), scale_m=100, size_px=256)
    assert abs(float(noise.mean())) < 1e-5
    assert float(noise.std()) == pytest.approx(1, abs=1e-4)


def test_block_mean_is_the_mean_of_blocks() -> None:
    fine = np.arange(48, dtype=np.float32).reshape(6, 8)
    np.testing.assert_allclose(block_mean(fine, 2), fine.reshape(3, 2, 4, 2).mean(axis=(1, 3)))
    np.testing.assert_array_equal(block_mean(fine, 1), fine)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.94])
def test_clouds_cover_what_they_should_and_throw_shadows_north(share: float) -> None:
    sun = (0.6, np.pi)  # due south
    clouds = make_clouds(np.random.default_rng(1), share, sun)
    assert clouds.cloud.mean() == pytest.approx(share, abs=0.06)
    assert not (clouds.cloud & clouds.shaded).any()
    rows = round(1100 * np.tan(0.6) / 10)
    above = clouds.opacity[rows:]
    assert np.corrcoef(above.ravel(), clouds.shadow[:-rows].ravel())[0, 1] > 0.95


def test_no_clouds() -> None:
    clouds = make_clouds(np.random.default_rng(1), 0.0, (0.6, 2.6))
    assert not clouds.cloud.any()
    assert not clouds.shaded.any()


def test_sun_stands_high_in_june_and_south_east() -> None:
    (june, azimuth), (december, _) = moment(0, month=6).sun, moment(0, month=12).sun
    # At 45 degrees north, noon zenith is 21.6 degrees in June and 68.4 in December; 22 degrees of hour angle are added.
    assert np.degrees(june) == pytest.approx(28.3, abs=1.5)
    assert np.degrees(december) == pytest.approx(70.9, abs=1.5)
    assert 110 < np.degrees(azimuth) < 180


def test_digital_numbers_round_trip() -> None:
    values = np.array([[-0.2, 0.0, 0.1234], [0.9, 8.0, 0.5]], dtype=np.float32)
    valid = np.array([[True, True, True], [True, True, False]])
    numbers = to_l2a(values, valid)
    assert numbers.tolist() == [[1, 1000, 2234], [10000, 65535, 0]]
    assert numbers[0, 2] * L2A_SCALE + L2A_OFFSET == pytest.approx(0.1234, abs=1e-9)


def test_scene_classes_use_sen2cor_numbers() -> None:
    # vegetation, soil, water, shadow, thin cloud, thick cloud, outside
    cover = ["crop", "soil", "turbid_water", "crop", "crop", "crop", "crop"]
    reflectance = {
        band: np.array([[SPECTRA[name][index] for name in cover]], dtype=np.float32) for index, band in enumerate(BANDS)
    }
    cloud = np.array([[0, 0, 0, 0, 0.4, 0.9, 0]], dtype=np.float32)
    shadow = np.array([[0, 0, 0, 0.5, 0, 0, 0]], dtype=np.float32)
    valid = np.array([[True] * 6 + [False]])
    assert scene_classes(reflectance, cloud, shadow, valid).tolist() == [[4, 5, 6, 3, 8, 9, 0]]


def test_photographs_are_monotone_and_never_zero() -> None:
    ramp = np.linspace(0, 0.4, 400, dtype=np.float32)[np.newaxis].repeat(200, axis=0)
    photo = to_photo(ramp, gain=1.0, rng=np.random.default_rng(0))
    assert photo.min() >= 1
    means = photo.mean(axis=0)[::20]
    assert (np.diff(means) >= 0).all()
    assert means[-1] == 255


# What people see


def test_words() -> None:
    assert time_in_words(datetime(2026, 5, 6, 7, 8, tzinfo=UTC)) == "6 May 2026, 07:08 UTC"
    assert area_in_words(409_600) == "41 hectares"
    assert area_in_words(4_520_000) == "4.5 square km"
    assert odds_in_words(0.0029).endswith("about once in 340")
    assert odds_in_words(1 / 12345).endswith("about once in 12,000")
    assert odds_in_words(0.1).endswith("about once in 10")
    assert odds_in_words(0.5) == "Ordinary ground often looks this unusual"
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="p-value"):
            odds_in_words(wrong)


def picture(heat: np.ndarray) -> DetectionPicture:
    before = np.broadcast_to(np.array(FALSE_COLOUR_WHITE, np.float32)[:, None, None] / 2, (3, 512, 512)).copy()
    after = before.copy()
    after[:, 192:256, 128:256] = 0.0
    cells = tuple(Cell(epsg=EPSG, level=0, tile_px=64, col=842 + step, row=7786) for step in range(2))
    return DetectionPicture(
        area_name="somewhere",
        kind="flood",
        time=datetime(2026, 5, 26, tzinfo=UTC),
        before_time=datetime(2026, 5, 16, tzinfo=UTC),
        area_m2=2 * 409_600,
        p_value=0.01,
        calibration="place",
        before=before,
        after=after,
        heat=heat,
        outline=mapping(union_lonlat(cells)),
        epsg=EPSG,
        transform=transform(10.0),
    )


def test_picture_shows_the_detection_where_it_is(tmp_path: Path) -> None:
    heat = np.zeros((512, 512), dtype=np.float32)
    heat[192:256, 128:256] = 1.0
    heat[:64, :64] = np.nan
    path = write_picture(tmp_path / "pictures" / "a.png", picture(heat))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    top = 124
    before, after, hot = (pixels[top : top + 512, left : left + 512] for left in (36, 36 + 532, 36 + 1064))
    assert before[300, 100].tolist() == after[300, 100].tolist()
    assert after[224, 192].tolist() == [0, 0, 0]
    assert before[224, 192].min() > 100
    assert hot[224, 192].sum() > 500 > 200 > hot[400, 400].sum()
    # Rows 192..256 and columns 128..256 are cells (842..843, 7786): the outline is white there, on both panels.
    for panel in (after, hot):
        for row, column in ((192, 190), (255, 190), (224, 128), (224, 255)):
            near = panel[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
            assert near.sum(axis=1).max() > 700, (row, column)
    grey = hot[30, 30]
    assert grey[0] == grey[1] == grey[2]


def test_picture_without_any_score_and_with_other_shapes() -> None:
    unscored = picture(np.full((512, 512), np.nan, np.float32))
    assert draw_picture(unscored).size == (1648, 754)
    with pytest.raises(ValueError, match="different shapes"):
        draw_picture(picture(np.zeros((10, 10), np.float32)))


def test_alert_table_reads_messages_and_survives_what_is_missing() -> None:
    full = {
        "geometry": mapping(Cell(epsg=EPSG, level=0, tile_px=64, col=842, row=7786).lonlat),
        "properties": {
            "sensing_time": "2026-05-26T10:10:21Z",
            "kind": "flood",
            "state": "new",
            "area": "valley",
            "scene": {"sensor": "sentinel-2-l2a"},
            "tile_count": 18,
            "affected_area_m2": 7_372_800.0,
            "p_value": 0.0029,
            "calibration": {"level": "place", "looks": 11, "tiles": 700, "extrapolated": True},
            "evidence": {"water": {"gain": 0.58}},
            "incident": "abcdefgh-0123-4567-89ab-cdef01234567",
        },
    }
    console = Console(width=200, record=True, file=io.StringIO())
    print_alerts([full, {"properties": {"kind": "anomaly"}}], console, source="vigie.alerts.v1")
    print_alerts([], console, source="a.jsonl")
    text = console.export_text()
    assert "2 alerts read back from vigie.alerts.v1" in text
    assert "No alerts in a.jsonl." in text
    row = next(line for line in text.splitlines() if "flood" in line)
    for cell in ("2026-05-26 10:10", "new", "18", "737", "0.0029 *", "place, 11 looks", "+58 %", "abcdefgh-0123"):
        assert cell in row
    assert "45.0" in row
