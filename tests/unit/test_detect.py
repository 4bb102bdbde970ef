from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from shapely.geometry import shape

from engine.calibrate import Calibration
from engine.change import change_from, changes_within, nearest_look
from engine.detect import Verdict, detect
from engine.grid import Cell
from engine.judge import DetectSettings
from engine.look import Look
from engine.reference import EarlierLook, Reference, reference_id
from engine.tiles import Float32Array

SIDE = 6
DIM = 8
CELLS = tuple(
    sorted(
        Cell(epsg=32632, level=0, tile_px=64, col=800 + i % SIDE, row=7800 + i // SIDE).id for i in range(SIDE * SIDE)
    )
)
START = datetime(2024, 1, 1, tzinfo=UTC)


def sensor_arrays() -> dict[str, Float32Array]:
    rng = np.random.default_rng(9)
    a = rng.lognormal(-7, 0.2, 2000).astype(np.float32)
    return {
        "odeed": a,
        "pair_odeed_a": a,
        "pair_odeed_b": (a * rng.lognormal(0, 0.3, 2000)).astype(np.float32),
        "pair_cls_distance": rng.gamma(2.0, 0.02, 2000).astype(np.float32),
        "pair_water_a": rng.beta(1, 20, 2000).astype(np.float32),
        "pair_water_b": rng.beta(1, 20, 2000).astype(np.float32),
    }


def look(seed: int, *, wet: tuple[str, ...] = (), strange: tuple[str, ...] = (), gain: float = 1.0) -> Look:
    """A normal look; ``wet`` cells are under water, ``strange`` ones look like nothing seen before."""
    rng = np.random.default_rng(seed)
    place = np.random.default_rng(0)
    base = place.normal(size=(len(CELLS), DIM))
    score = place.lognormal(-7, 0.5, len(CELLS)) * gain
    water = place.beta(1, 10, len(CELLS))
    cls = base + 0.05 * rng.normal(size=base.shape)
    odeed = score * rng.lognormal(0, 0.05, len(CELLS))
    water = np.clip(water + 0.005 * rng.normal(size=len(CELLS)), 0, 1)
    for cell in wet:
        i = CELLS.index(cell)
        water[i], odeed[i] = 0.8, odeed[i] * 0.3
    for cell in strange:
        i = CELLS.index(cell)
        cls[i], odeed[i] = rng.normal(size=DIM) * 3, odeed[i] * 60
    return Look(
        cell_ids=CELLS,
        odeed=odeed.astype(np.float32),
        water=water.astype(np.float32),
        cls=(cls / np.linalg.norm(cls, axis=1, keepdims=True)).astype(np.float32),
        valid_ratio=np.ones(len(CELLS), np.float32),
    )


def reference(count: int) -> Reference:
    looks = [
        EarlierLook(scene_id=f"scene-{k}", sensing_time=START + timedelta(days=30 * k), look=look(100 + k))
        for k in range(count)
    ]
    return Reference.over(
        CELLS,
        looks,
        reference_id=reference_id(
            area="valley", family="sentinel-2", model_hash="m", scene_ids=[e.scene_id for e in looks]
        ),
    )


def judge(new: Look, looks: int, **settings: float) -> Verdict:
    return detect(new, reference(looks), sensor_arrays(), DetectSettings(**settings))  # type: ignore[arg-type]


FLOODED = (CELLS[7], CELLS[8], CELLS[13])


def test_a_normal_look_raises_nothing() -> None:
    for seed in range(5):
        assert judge(look(seed), 12).detections == ()


@pytest.mark.parametrize(("looks", "calibration"), [(12, "place"), (2, "sensor")])
def test_new_water_is_a_flood_over_its_cells(looks: int, calibration: str) -> None:
    (found,) = judge(look(1, wet=FLOODED), looks).detections
    assert found.kind == "flood"
    assert found.cell_ids == tuple(sorted(FLOODED))
    assert found.calibration == calibration
    assert found.p_value < 0.01
    assert found.evidence["water"]["gain"] > 0.5
    assert found.evidence["looks"] == looks


def test_a_change_without_water_is_an_anomaly() -> None:
    (found,) = judge(look(1, strange=FLOODED), 12).detections
    assert found.kind == "anomaly"
    assert found.evidence["xstars"]["distance"] > 0.1
    assert found.evidence["xstars"]["nearest_scene"].startswith("scene-")


def test_a_single_strange_tile_is_no_alert() -> None:
    verdict = judge(look(1, strange=(CELLS[0],)), 12)
    assert verdict.flagged.sum() == 1
    assert verdict.detections == ()


def test_tiles_far_apart_are_two_detections_and_near_ones_are_one() -> None:
    far = (CELLS[-1], CELLS[-2])
    found = judge(look(1, wet=FLOODED + far), 12).detections
    assert [set(d.cell_ids) for d in found] == [set(FLOODED), set(far)]
    (whole,) = judge(look(1, wet=FLOODED + far), 12, reach_m=3000.0).detections
    assert set(whole.cell_ids) == {*FLOODED, *far}


def test_a_never_seen_place_is_judged_on_the_sensor_and_says_so() -> None:
    normal = judge(look(1), 0)
    assert set(normal.basis) == {"single"}
    assert all(found.budget is None for found in normal.detections)
    (found,) = judge(look(1, strange=FLOODED, gain=20.0), 0).detections
    assert found.calibration == "sensor"
    assert found.kind == "anomaly"
    assert found.evidence["xstars"] is None
    assert set(found.cell_ids) == set(FLOODED)


def test_a_first_look_that_is_strange_as_a_whole_is_another_land_and_no_event() -> None:
    assert judge(look(1, gain=50.0), 0).detections == ()


def test_a_season_that_moves_the_whole_scene_is_not_an_event() -> None:
    assert judge(look(3, gain=3.0), 12).detections == ()


def test_no_p_value_is_smaller_than_the_data_can_bear() -> None:
    (found,) = judge(look(1, wet=FLOODED), 12).detections
    assert found.extrapolated
    assert found.p_value >= 1 / (1000 * (len(CELLS) * 12 + 1)) * 0.999


def test_the_outline_covers_the_cells_counter_clockwise() -> None:
    (found,) = judge(look(1, wet=FLOODED), 12).detections
    outline = shape(found.geometry)
    assert outline.is_valid
    assert outline.exterior.is_ccw
    for cell_id in FLOODED:
        assert outline.buffer(1e-9).contains(Cell.parse(cell_id).lonlat.centroid)
    assert found.area_m2 == pytest.approx(3 * 640**2)


def test_the_result_is_a_pure_function_of_its_inputs() -> None:
    new = look(1, wet=FLOODED).rounded()
    first, again = judge(new, 12), judge(new, 12)
    assert first.detections == again.detections


def test_leave_one_out_changes_equal_a_look_against_the_others() -> None:
    whole = reference(4)
    within = changes_within(whole)
    rest = Reference.over(CELLS, whole.looks[:3], reference_id="rest")
    last = change_from(whole.odeed[:, 3], whole.water[:, 3], whole.cls[:, 3], rest)
    np.testing.assert_allclose(within.odeed[:, 3], last.odeed)
    np.testing.assert_allclose(within.xstars[:, 3], last.xstars)
    np.testing.assert_allclose(within.water[:, 3], last.water)


def test_cells_that_a_look_does_not_show_are_unknown_not_zero() -> None:
    partial = EarlierLook(scene_id="s", sensing_time=START, look=look(1).restrict(CELLS[:3]))
    over = Reference.over(CELLS, [partial], reference_id="r")
    assert over.looks_per_cell.tolist() == [1] * 3 + [0] * (len(CELLS) - 3)
    change = change_from(over.odeed[:, 0], over.water[:, 0], over.cls[:, 0], over)
    assert np.isnan(change.water[3:]).all()


def test_a_look_survives_its_bytes() -> None:
    original = look(5)
    back = Look.from_bytes(original.to_bytes())
    assert back.cell_ids == original.cell_ids
    np.testing.assert_array_equal(back.odeed, original.odeed)
    np.testing.assert_allclose(back.cls, original.cls, atol=1e-3)
    assert Look.from_bytes(Look.empty().to_bytes()).cell_ids == ()


def test_calibration_pools_every_cell_and_look() -> None:
    verdict = judge(look(1, wet=FLOODED), 12)
    assert verdict.detections[0].evidence["calibration_tiles"] == len(CELLS) * 12
    assert verdict.detections[0].budget is not None
    assert len(Calibration.of(np.ones(3, np.float32))) == 3


def test_no_distance_is_negative_though_half_precision_makes_norms_larger_than_one() -> None:
    rng = np.random.default_rng(0)
    longer = 0
    for _ in range(200):
        vector = rng.normal(size=8).astype(np.float32)
        kept = (vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32)
        longer += bool(kept @ kept > 1.0)
        distance, which = nearest_look(kept, np.stack([np.full(8, np.nan, np.float32), kept]))
        assert 0.0 <= distance < 1e-3
        assert which == 1
    assert longer > 20
