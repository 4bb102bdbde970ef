"""Sensors as data, and the order of rules by which stored numbers become reflectance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import SensorUnknown
from engine.masks import CODES, REASONS, classify, grow, main_reason, pixels_of
from engine.scaling import OffsetEvidence, processing_baseline, reflectance_scale
from engine.sensors import SENSORS, MaskSpec, sensor_for, sensor_of_file

MSI = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def test_the_table_is_consistent() -> None:
    collections = [name for sensor in SENSORS.values() for name in sensor.collections]
    assert len(collections) == len(set(collections))
    for name, sensor in SENSORS.items():
        assert name == sensor.name
        assert len(set(sensor.band_names)) == len(sensor.bands)
        assert [band.index for band in sensor.bands] == list(range(1, len(sensor.bands) + 1))
        assert sensor.gsd_range_m[0] <= sensor.gsd_range_m[1]


@pytest.mark.parametrize(
    ("sensor", "position", "band"),
    [("sentinel-2-l1c", 12, "swir16"), ("sentinel-2-l1c", 9, "nir08"), ("sentinel-2-l2a", 11, "swir16")],
)
def test_msi_bands_stand_in_the_order_of_the_product(sensor: str, position: int, band: str) -> None:
    assert SENSORS[sensor].bands[position - 1].name == band


# Which sensor.


@pytest.mark.parametrize(
    ("collection", "name"),
    [
        ("sentinel-2-l2a", "sentinel-2-l2a"),
        ("sentinel-2-c1-l2a", "sentinel-2-l2a"),
        ("sentinel-s2-l2a-cogs", "sentinel-2-l2a"),
        ("sentinel-2-l1c", "sentinel-2-l1c"),
        ("naip", "naip"),
    ],
)
def test_a_collection_names_its_sensor(collection: str, name: str) -> None:
    assert sensor_for(collection, {}, {}).name == name


def test_a_satellite_nobody_has_heard_of_is_the_same_sensor() -> None:
    properties = {"platform": "sentinel-2z", "constellation": "Sentinel 2", "instruments": ["MSI"]}
    assert sensor_for("my-copy", properties, {"scl": {}, "red": {}}).name == "sentinel-2-l2a"
    assert sensor_for("my-copy", properties, {"red": {}}).name == "sentinel-2-l1c"


def test_an_unknown_collection_is_known_by_its_bands_and_pixel_size() -> None:
    rgb = {"image": {"eo:bands": [{"common_name": "red"}, {"common_name": "green"}, {"common_name": "blue"}]}}
    near = {"image": {"bands": [{"eo:common_name": name} for name in ("red", "green", "blue", "nir")]}}
    assert sensor_for("town-survey", {"gsd": 0.3}, rgb).name == "aerial-rgb"
    assert sensor_for("town-survey", {"gsd": 0.3}, near).name == "aerial-rgbn"
    with pytest.raises(SensorUnknown):
        sensor_for("town-survey", {"gsd": 30}, rgb)


def test_the_configuration_beats_the_item_and_the_item_beats_the_collection() -> None:
    item = {"vigie:sensor": "aerial-rgb"}
    assert sensor_for("naip", item, {}).name == "aerial-rgb"
    assert sensor_for("naip", item, {}, override="aerial-rgbn").name == "aerial-rgbn"
    with pytest.raises(SensorUnknown, match="there is no sensor 'hubble'"):
        sensor_for("naip", {}, {}, override="hubble")


def test_an_unknown_sensor_names_the_remedy() -> None:
    with pytest.raises(SensorUnknown, match=r"sentinel-1-grd.*vigie:sensor"):
        sensor_for("sentinel-1-grd", {"instruments": ["c-sar"]}, {"vv": {}})


@pytest.mark.parametrize(
    ("count", "dtype", "descriptions", "alpha", "name"),
    [
        (3, "uint8", (None,) * 3, None, "aerial-rgb"),
        (4, "uint8", (None,) * 4, None, "aerial-rgbn"),
        (4, "uint8", (None,) * 4, 4, "aerial-rgb"),
        (15, "float32", (*MSI, "QA60", "probability"), None, "sentinel-2-l1c"),
        (13, "int16", (None,) * 13, None, "sentinel-2-l1c"),
        (4, "uint16", ("swir16", "nir", "red", "SCL"), None, "sentinel-2-l2a"),
        (3, "uint16", ("B04", "B08", "B11"), None, "sentinel-2-l2a"),
    ],
)
def test_the_sensor_of_a_bare_file(
    count: int, dtype: str, descriptions: tuple[str | None, ...], alpha: int | None, name: str
) -> None:
    found = sensor_of_file(count=count, dtypes=(dtype,) * count, descriptions=descriptions, alpha=alpha)
    assert found.name == name


def test_a_bare_radar_file_is_no_known_sensor() -> None:
    with pytest.raises(SensorUnknown, match=r"a\.tif has 2 bands of float32.*--sensor"):
        sensor_of_file(count=2, dtypes=("float32",) * 2, descriptions=("VV", "VH"), alpha=None, path="a.tif")


# Scale and offset.

LISTED = {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}


@pytest.mark.parametrize(
    ("properties", "asset", "offset", "source"),
    [
        # 1. The catalog took the 1000 away itself, whatever it lists beside.
        (
            {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"},
            LISTED,
            0.0,
            "boa_offset_applied",
        ),
        ({"sentinel:boa_offset_applied": True}, {}, 0.0, "boa_offset_applied"),
        # 2. What the asset says.
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"}, LISTED, -0.1, "raster:bands"),
        ({"s2:processing_baseline": "05.11"}, LISTED, -0.1, "raster:bands"),
        ({"s2:processing_baseline": "05.11"}, {"raster:bands": [{"scale": 1e-4, "offset": 0}]}, 0.0, "raster:bands"),
        ({}, {"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]}, -0.1, "raster:bands"),
        ({}, {"raster:scale": 1e-4, "raster:offset": -0.1}, -0.1, "raster:bands"),
        # 3. The baseline.
        ({"s2:processing_baseline": "04.00"}, {}, -0.1, "04.00"),
        ({"s2:processing_baseline": "05.09"}, {"raster:bands": [{"scale": 1e-4}]}, -0.1, "05.09"),
        ({"processing:version": "05.11"}, {}, -0.1, "05.11"),
        ({"s2:processing_baseline": "03.01"}, {}, 0.0, "03.01"),
        ({"s2:processing_baseline": "02.12", "earthsearch:boa_offset_applied": False}, {}, 0.0, "02.12"),
        # 4. Nothing.
        ({}, {}, 0.0, "no offset given"),
        (
            {"s2:processing_baseline": "soon", "datetime": "2024-01-01T00:00:00Z"},
            {"raster:bands": ["?"]},
            0.0,
            "no offset",
        ),
    ],
)
def test_the_offset_rule(properties: dict[str, Any], asset: dict[str, Any], offset: float, source: str) -> None:
    scaling = reflectance_scale(properties, asset, level="l2a")
    assert (scaling.scale, scaling.offset) == (1e-4, offset)
    assert source in scaling.source


def test_each_band_of_a_file_has_its_own_entry() -> None:
    asset = {"raster:bands": [{"scale": 1e-4, "offset": 0.0}, {"scale": 2e-4, "offset": -0.2}]}
    second = reflectance_scale({}, asset, level="l1c", position=1)
    assert (second.scale, second.offset) == (2e-4, -0.2)


def test_eight_bits_are_brightness_whatever_is_listed() -> None:
    scaling = reflectance_scale({"s2:processing_baseline": "05.11"}, LISTED, level="dn8")
    assert (scaling.scale, scaling.offset) == (1 / 255, 0.0)


@pytest.mark.parametrize(
    ("text", "baseline"), [("05.11", (5, 11)), ("N05.09", (5, 9)), ("99.99", (99, 99)), ("", None), (None, None)]
)
def test_baselines_are_numbers_not_texts(text: str | None, baseline: tuple[int, int] | None) -> None:
    assert processing_baseline({"s2:processing_baseline": text}) == baseline


def evidence(dn: np.ndarray, offset: float) -> str:
    found = OffsetEvidence(offset=offset, scale=1e-4)
    for part in np.array_split(dn.astype(np.float32), 7):
        found.add(part)
    return found.verdict


def test_pixels_contradict_a_wrong_offset() -> None:
    rng = np.random.default_rng(0)
    water, land = np.abs(rng.normal(80, 40, 10_000)) + 1, rng.normal(2500, 600, 90_000).clip(300)
    scene = np.concatenate([water, land])
    assert evidence(scene, 0.0) == "agrees"
    assert evidence(scene + 1000, -0.1) == "agrees"
    assert evidence(scene, -0.1) == "already applied"
    assert evidence(scene + 1000, 0.0) == "not applied"


def test_pixels_without_dark_ground_or_too_few_say_nothing() -> None:
    desert = np.random.default_rng(0).normal(4000, 300, 100_000)
    assert evidence(desert, 0.0) == "unknown"
    assert evidence(np.full(100, 1000.0), 0.0) == "unknown"


# Masks.


def test_a_cloud_probability_over_the_threshold_is_cloud() -> None:
    spec = MaskSpec(kind="cloud-probability")
    codes = classify(np.array([[0.0, 40.0, 40.5, 100.0, np.nan]], np.float32), spec)
    assert codes.tolist() == [[0, 0, CODES["cloud"], CODES["cloud"], CODES["nodata"]]]


def test_qa60_bits_are_cloud() -> None:
    codes = classify(np.array([[0, 1024, 2048, 3072, 512]], np.float32), MaskSpec(kind="qa60"))
    assert codes.tolist() == [[0, CODES["cloud"], CODES["cloud"], CODES["cloud"], 0]]


def test_cloud_and_nodata_grow_over_clear_ground_only() -> None:
    codes = np.zeros((9, 9), np.uint8)
    codes[4, 4] = CODES["cloud"]
    codes[:, 0] = CODES["nodata"]
    grown = grow(codes, cloud_px=2, edge_px=1)
    assert (grown[2:7, 2:7] == CODES["cloud"]).all()
    assert (grown[:, :2] == CODES["nodata"]).all()
    assert np.count_nonzero(grown) == 25 + 18
    np.testing.assert_array_equal(grow(codes, cloud_px=0, edge_px=0), codes)


def test_the_main_reason_is_the_most_frequent() -> None:
    codes = np.array([[0] * 9 + [CODES["cloud"]] * 2 + [CODES["nodata"]]], np.uint8)
    assert main_reason(codes) == "cloud"
    assert set(CODES) == set(REASONS)


@pytest.mark.parametrize(("metres", "gsd_m", "pixels"), [(20, 10, 2), (20, 15, 2), (0, 10, 0), (10, 10.0, 1)])
def test_a_distance_in_pixels_is_rounded_up(metres: float, gsd_m: float, pixels: int) -> None:
    assert pixels_of(metres, gsd_m) == pixels
