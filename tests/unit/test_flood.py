from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from engine.detect import Verdict, detect
from engine.errors import BundleError
from engine.flood import SHARPNESS, FloodModel
from engine.grid import Cell
from engine.judge import DetectSettings
from engine.look import Look
from engine.reference import EarlierLook, Reference
from engine.spectrum import FLOOR, feature_names, spectrum_of
from engine.tiles import Float32Array, Tile, TileBatch
from engine.tracks import usual_spectrum

BANDS = ("swir16", "nir", "red")
# index, water, log swir, log nir, log red
MODEL = FloodModel(
    now=np.asarray([4, 4, -1, 0, 0, -5], dtype=np.float32), gain=np.asarray([6, 4, -1, 0, 0, -3], dtype=np.float32)
)
DRY = np.asarray([-0.4, 0.0, -1.5, -1.3, -2.3], dtype=np.float32)
WET = np.asarray([0.4, 0.9, -3.6, -3.0, -2.6], dtype=np.float32)
SIDE = 6
CELLS = tuple(
    sorted(
        Cell(epsg=32632, level=0, tile_px=64, col=800 + i % SIDE, row=7800 + i // SIDE).id for i in range(SIDE * SIDE)
    )
)
FLOODED = (CELLS[7], CELLS[8], CELLS[13])
LAKE = (CELLS[21], CELLS[22])


def batch(pixels: Float32Array, valid: np.ndarray, bands: tuple[str, ...] = BANDS) -> TileBatch:
    n, _, side, _ = pixels.shape
    tile = Tile(
        cell_id="", row=0, col=0, crs="EPSG:32631", transform=(10, 0, 0, 0, -10, 0), size_px=side, valid_ratio=1
    )
    return TileBatch(tiles=(tile,) * n, pixels=pixels, valid=valid, bands=bands, gsd_m=10)


def test_features_are_means_over_valid_pixels() -> None:
    pixels = np.zeros((1, 3, 2, 2), dtype=np.float32)
    pixels[0, :, 0, 0] = (0.02, 0.05, 0.1)  # water: red above SWIR
    pixels[0, :, 0, 1] = (0.3, 0.35, 0.1)
    pixels[0, :, 1, :] = 0.9  # cloud
    valid = np.asarray([[[True, True], [False, False]]])
    ((index, water, swir, nir, red),) = spectrum_of(batch(pixels, valid), BANDS)
    ratios = [(0.1 - s) / (0.1 + s + 2 * FLOOR) for s in (0.02, 0.3)]
    assert index == pytest.approx(np.mean(ratios), abs=1e-6)
    assert water == 0.5
    assert swir == pytest.approx(np.log([0.02 + FLOOR, 0.3 + FLOOR]).mean(), abs=1e-6)
    assert nir == pytest.approx(np.log([0.05 + FLOOR, 0.35 + FLOOR]).mean(), abs=1e-6)
    assert red == pytest.approx(np.log(0.1 + FLOOR), abs=1e-6)


def test_a_tile_without_valid_pixels_has_no_features_and_no_log_odds() -> None:
    pixels = np.full((1, 3, 2, 2), 0.2, dtype=np.float32)
    features = spectrum_of(batch(pixels, np.zeros((1, 2, 2), np.bool_)), BANDS)
    assert np.isnan(features).all()
    assert np.isnan(MODEL.of_look(features)).all()


def test_bands_without_a_water_index_have_no_features() -> None:
    rgb = ("red", "green", "blue")
    assert feature_names(rgb) == ()
    pixels = np.full((2, 3, 2, 2), 0.2, dtype=np.float32)
    assert spectrum_of(batch(pixels, np.ones((2, 2, 2), np.bool_), rgb), rgb).shape == (2, 0)


def test_log_odds_are_the_weighted_sum() -> None:
    assert MODEL.of_look(WET) == pytest.approx(4 * 0.4 + 4 * 0.9 + 3.6 - 5, abs=1e-5)


def test_a_flood_looks_like_one_and_is_new() -> None:
    """Permanent water looks like a flood and has not changed; a burnt field has changed and looks like no flood."""
    burnt = DRY - np.asarray([0, 0, 1.5, 1.5, 1.5], dtype=np.float32)
    flood, lake, field, same = (
        float(MODEL.of_change(now, usual)) for now, usual in ((WET, DRY), (WET, WET), (burnt, DRY), (DRY, DRY))
    )
    assert flood > 2 > 0 > max(lake, field, same)
    now, gain = float(MODEL.of_look(WET)), float((WET - DRY) @ MODEL.gain[:-1] + MODEL.gain[-1])
    expected = -np.log(np.exp(-SHARPNESS * now) + np.exp(-SHARPNESS * gain)) / SHARPNESS
    assert flood == pytest.approx(expected, abs=1e-5)


def test_a_cell_without_an_earlier_look_has_no_log_odds_of_change() -> None:
    unknown = np.full((2, 5), np.nan, dtype=np.float32)
    unknown[1] = DRY
    odds = MODEL.of_change(np.stack([WET, WET]), unknown)
    assert np.isnan(odds[0])
    assert odds[1] > 2


def test_weights_that_do_not_fit_are_refused() -> None:
    arrays = {"flood_now": MODEL.now, "flood_gain": MODEL.gain}
    assert FloodModel.from_arrays(arrays, 5) is not None
    assert FloodModel.from_arrays({}, 5) is None
    with pytest.raises(BundleError, match="4 features"):
        FloodModel.from_arrays(arrays, 4)


def test_the_usual_spectrum_is_the_median_of_the_looks_that_show_the_cell() -> None:
    looks = np.asarray([[[1, 10], [3, 30], [2, np.nan]], [[np.nan] * 2] * 3], dtype=np.float32)
    usual = usual_spectrum(looks)
    np.testing.assert_array_equal(usual[0], [2, 20])
    assert np.isnan(usual[1]).all()


def arrays() -> dict[str, Float32Array]:
    rng = np.random.default_rng(3)
    a = rng.lognormal(-7, 0.2, 2000).astype(np.float32)
    spectrum = (DRY + 0.1 * rng.normal(size=(2000, 5))).astype(np.float32)
    return {
        "odeed": a,
        "pair_odeed_a": a,
        "pair_odeed_b": (a * rng.lognormal(0, 0.3, 2000)).astype(np.float32),
        "pair_cls_distance": rng.gamma(2.0, 0.02, 2000).astype(np.float32),
        "flood_now": MODEL.now,
        "flood_gain": MODEL.gain,
        "spectrum": spectrum,
        "pair_spectrum_a": spectrum,
        "pair_spectrum_b": (spectrum + 0.1 * rng.normal(size=(2000, 5))).astype(np.float32),
    }


def look(seed: int, wet: tuple[str, ...] = ()) -> Look:
    rng = np.random.default_rng(seed)
    place = np.random.default_rng(0)
    n = len(CELLS)
    base = place.normal(size=(n, 8))
    score = place.lognormal(-7, 0.5, n)
    spectrum = DRY + 0.05 * rng.normal(size=(n, 5))
    for cell in (*LAKE, *wet):
        spectrum[CELLS.index(cell)] = WET + 0.05 * rng.normal(size=5)
    cls = base + 0.05 * rng.normal(size=base.shape)
    return Look(
        cell_ids=CELLS,
        odeed=(score * rng.lognormal(0, 0.05, n)).astype(np.float32),
        water=np.clip(spectrum[:, 1], 0, 1).astype(np.float32),
        cls=(cls / np.linalg.norm(cls, axis=1, keepdims=True)).astype(np.float32),
        valid_ratio=np.ones(n, np.float32),
        spectrum=spectrum.astype(np.float32),
    )


def judge(new: Look, looks: int) -> Verdict:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    earlier = [
        EarlierLook(scene_id=f"scene-{k}", sensing_time=start + timedelta(days=30 * k), look=look(100 + k))
        for k in range(looks)
    ]
    return detect(new, Reference.over(CELLS, earlier, reference_id="r"), arrays(), DetectSettings())


@pytest.mark.parametrize("looks", [12, 2])
def test_a_known_place_raises_its_flood_and_not_its_lake(looks: int) -> None:
    (found,) = judge(look(1, FLOODED), looks).detections
    assert found.kind == "flood"
    assert found.cell_ids == tuple(sorted(FLOODED))
    assert found.evidence["flood"]["log_odds"] > 2
    assert (found.budget is None) == (looks == 2)
    # What flagged it was its colour; the learned changes are told all the same.
    assert np.isfinite(found.evidence["odeed"]["z"])
    assert found.evidence["xstars"]["nearest_scene"].startswith("scene-")
    assert judge(look(2), looks).detections == ()


def test_a_new_place_raises_flood_water_wherever_it_stands() -> None:
    """One look cannot tell a lake from a flood; the alert says that nothing earlier was known."""
    verdict = judge(look(1, FLOODED), 0)
    cells = {cell for found in verdict.detections for cell in found.cell_ids}
    assert cells == {*FLOODED, *LAKE}
    assert {found.kind for found in verdict.detections} == {"flood"}
    assert all(found.evidence["flood"]["log_odds"] is None for found in verdict.detections)


def test_features_survive_the_bytes_of_a_look() -> None:
    original = look(5)
    np.testing.assert_array_equal(Look.from_bytes(original.to_bytes()).spectrum, original.spectrum)
