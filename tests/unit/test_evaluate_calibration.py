"""False-tile rates: the law of exceedances against counting, halves against its promise, events against loops."""

from __future__ import annotations

import json
import math
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.calibrate import Calibration
from engine.change import Change, Scales, Weights
from engine.errors import InputMismatch
from engine.flood import FloodModel
from engine.look import Look
from engine.reference import log_score
from engine.spectrum import feature_names
from training.data.triples import TripleFolder, TripleImage
from training.errors import TrainingDataInvalid
from training.evaluate.calibration_check import (
    exceedances,
    grouped,
    of_changes,
    of_values,
    random_halves,
    supported,
)
from training.evaluate.calibration_family import (
    CheckSettings,
    FamilyScenes,
    events_tables,
    halves_table,
    support_table,
)
from training.evaluate.decisions import calibration_arrays, decide, refitted
from training.evaluate.record import Record, RecordTable
from training.evaluate.scenes import Scenes, images_of_each_event
from training.flood.fit import FloodFit

FEATURES = len(feature_names(("swir16", "nir", "red")))


def counted(n: int, m: int, k: int) -> np.ndarray:
    """P(j of m new values lie above the k-th largest of n), by counting the orders of n + m values."""
    return np.asarray([comb(j + k - 1, j) * comb(m - j + n - k, m - j) / comb(n + m, m) for j in range(m + 1)])


@pytest.mark.parametrize(("n", "m", "k"), [(9, 6, 1), (20, 30, 3), (5, 4, 5)])
def test_the_interval_is_that_of_counted_orders(n: int, m: int, k: int) -> None:
    total = np.cumsum(counted(n, m, k))
    found = exceedances(n, m, k)
    assert found.low == int(np.argmax(total >= 0.025 - 1e-12))
    assert found.high == int(np.argmax(total >= 0.975 - 1e-12))
    below = total[found.low - 1] if found.low else 0.0
    assert found.coverage == pytest.approx(total[found.high] - below)
    assert found.coverage >= 0.95


def test_a_rank_that_no_tile_has_is_refused() -> None:
    with pytest.raises(InputMismatch, match="no threshold"):
        exceedances(10, 10, 0)
    with pytest.raises(InputMismatch, match="no threshold"):
        exceedances(10, 10, 11)


def test_halves_of_one_set_keep_the_promise() -> None:
    values = np.random.default_rng(0).standard_exponential(2000).astype(np.float32)
    found = random_halves(of_values(values), 2000, 10.0, splits=300, seed=0)
    assert (found.calibrated_on, found.tested_on, found.rank) == (1000, 1000, 10)
    assert found.inside is not None
    assert found.promised is not None
    assert found.inside >= 0.9
    # The mean of BetaBinomial(m, k, n + 1 - k) is m k / (n + 1).
    assert found.mean_per_1000 == pytest.approx(1000 * 10 / 1001, rel=0.05)
    assert not found.extrapolated


def test_a_statistic_that_knows_its_half_breaks_the_promise() -> None:
    values = np.random.default_rng(0).standard_exponential(2000).astype(np.float32)
    found = random_halves(lambda a, b: (values[a], values[b] + 2), 2000, 10.0, splits=50, seed=0)
    assert found.inside is not None
    assert found.inside < 0.1


def test_too_few_tiles_promise_nothing() -> None:
    values = np.arange(600, dtype=np.float32)
    found = random_halves(of_values(values), 600, 1.0, splits=5, seed=0)
    assert found.extrapolated
    assert (found.rank, found.low_per_1000, found.inside, found.promised) == (0, None, None, None)
    with pytest.raises(InputMismatch, match="halved"):
        random_halves(of_values(values), 1, 1.0, splits=5, seed=0)


def test_changes_are_scaled_by_the_normal_rows_alone() -> None:
    rng = np.random.default_rng(1)
    odeed, xstars, water = rng.normal(size=(3, 40)).astype(np.float32)
    normal, new = np.arange(0, 40, 2), np.arange(1, 40, 2)
    split = of_changes(Change(odeed=odeed, xstars=xstars, water=water), Weights())
    a, b = split(normal, new)
    scales = Scales.of(Change(odeed=odeed[normal], xstars=xstars[normal], water=water[normal]))
    want = scales.joined(Change(odeed=odeed[new], xstars=xstars[new], water=water[new]), Weights())
    np.testing.assert_array_equal(b, want)
    assert len(a) == len(normal)


def test_grouped_rates_equal_a_loop() -> None:
    flagged = np.asarray([True, False, False, False, True, True, False, False, False, False])
    group = np.asarray([4, 4, 4, 4, 7, 7, 9, 9, 9, 9])
    found = grouped(flagged, group, draws=400, seed=0)
    assert found.per_1000 == 300
    assert (found.lowest_event, found.highest_event) == (0, 1000)
    assert (found.events, found.tiles) == (3, 10)
    assert found.low_per_1000 is not None
    assert found.high_per_1000 is not None
    # One event drawn three times is the least and the most that can be drawn.
    assert 0 <= found.low_per_1000 < 300 < found.high_per_1000 <= 1000
    one = grouped(flagged[:4], group[:4], draws=10, seed=0)
    assert (one.per_1000, one.low_per_1000) == (250, None)
    none = grouped(flagged[:0], group[:0], draws=10, seed=0)
    assert (none.per_1000, none.highest_event, none.events) == (None, None, 0)


def test_what_a_history_supports_is_its_share_of_the_looks() -> None:
    found = supported(29, 6.0, 0.2, 2)
    assert found.alerts_per_month == pytest.approx(2 * 6 / 30)
    assert found.asked_is_extrapolated
    assert not supported(59, 6.0, 0.2, 2).asked_is_extrapolated, "59 looks support 2 x 0.1 exactly"


def look(ids: list[str], odeed: np.ndarray, spectrum: np.ndarray, cls: np.ndarray) -> Look:
    return Look(
        cell_ids=tuple(ids),
        odeed=odeed.astype(np.float32),
        water=spectrum[:, 1].astype(np.float32),
        cls=(cls / np.linalg.norm(cls, axis=1, keepdims=True)).astype(np.float32),
        valid_ratio=np.ones(len(ids), dtype=np.float32),
        spectrum=spectrum.astype(np.float32),
    )


@pytest.fixture
def scenes() -> Scenes:
    """3 events of 40 tiles, 8 to a scene; the first 10 of each are flooded: more water and other scores."""
    rng = np.random.default_rng(5)
    n = 120
    ids = [f"{i:09}" for i in range(n)]
    flooded = np.arange(n) % 40 < 10
    before = rng.normal(0, 0.1, (n, FEATURES))
    after = before + rng.normal(0, 0.05, (n, FEATURES))
    after[flooded] += 1.0
    odeed = rng.uniform(0.5, 1.5, n)
    cls = rng.normal(size=(n, 6))
    return Scenes(
        groups=("a", "b", "c"),
        group=np.repeat([0, 1, 2], 40),
        scene=np.repeat(np.arange(15), 8),
        before=look(ids, odeed, before, cls),
        after=look(ids, odeed * np.where(flooded, 5, 1.05), after, cls + rng.normal(0, 0.05, (n, 6))),
        share=np.where(flooded, 0.5, 0).astype(np.float32),
        controls={"energy": rng.normal(size=n).astype(np.float32)},
    )


def model() -> FloodModel:
    weights = np.asarray([0, 2, 0, 0, 0, -1], dtype=np.float32)
    return FloodModel(now=weights, gain=weights)


def test_each_event_is_judged_by_what_the_others_calibrate(scenes: Scenes) -> None:
    (found,) = decide(scenes, "anomaly", "single", "after", [50.0], lambda _: None)
    for event in range(3):
        own = scenes.group == event
        want, _ = Calibration.of(log_score(scenes.before.odeed[~own])).threshold(0.05)
        assert np.unique(found.threshold[own]).tolist() == [want]
        np.testing.assert_array_equal(found.statistic[own], log_score(scenes.after.odeed[own]))
    np.testing.assert_array_equal(found.calibrated_on, np.full(120, 80))
    assert not found.extrapolated
    assert decide(scenes, "anomaly", "single", "after", [1.0], lambda _: None)[0].extrapolated


def test_the_flood_track_is_judged_by_its_model(scenes: Scenes) -> None:
    (single,) = decide(scenes, "flood", "single", "after", [10.0], lambda _: model())
    np.testing.assert_allclose(single.statistic, 2 * scenes.after.spectrum[:, 1] - 1, rtol=1e-6)
    (pair,) = decide(scenes, "flood", "pair", "after", [10.0], lambda _: model())
    np.testing.assert_array_equal(pair.statistic, model().of_change(scenes.after.spectrum, scenes.before.spectrum))
    dry = scenes.dry & (scenes.group != 0)
    normal = model().of_change(scenes.after.spectrum[dry], scenes.before.spectrum[dry])
    assert pair.threshold[0] == Calibration.of(normal).threshold(0.01)[0]
    with pytest.raises(TrainingDataInvalid, match="no flood model"):
        decide(scenes, "flood", "single", "after", [10.0], lambda _: None)


def test_what_cannot_be_left_out_or_paired_is_refused(scenes: Scenes) -> None:
    with pytest.raises(TrainingDataInvalid, match="two or more"):
        decide(scenes.take(scenes.group == 1), "anomaly", "single", "after", [10.0], lambda _: None)
    with pytest.raises(InputMismatch, match="none before it"):
        decide(scenes, "anomaly", "pair", "before", [10.0], lambda _: None)


def test_a_refitted_model_never_sees_its_event(scenes: Scenes) -> None:
    models = refitted(scenes, FloodFit())
    share = scenes.share.copy()
    share[scenes.group == 0] = share[scenes.group == 0][::-1]
    lied = Scenes(**{**vars(scenes), "share": share})
    again = refitted(lied, FloodFit())
    first, same = models("a"), again("a")
    assert first is not None
    assert same is not None
    np.testing.assert_array_equal(first.now, same.now)
    other, changed = models("b"), again("b")
    assert other is not None
    assert changed is not None
    assert not np.array_equal(other.now, changed.now), "the labels of event a do enter the model that judges b"


def test_calibration_arrays_hold_dry_pairs_only(scenes: Scenes) -> None:
    arrays = calibration_arrays(scenes, model())
    assert len(arrays["odeed"]) == 120
    assert len(arrays["pair_odeed_a"]) == len(arrays["pair_cls_distance"]) == 90
    np.testing.assert_array_equal(arrays["pair_water_b"], scenes.after.water[scenes.dry])
    assert arrays["flood_now"].shape == (FEATURES + 1,)
    assert "flood_now" not in calibration_arrays(scenes, None)


def rows_of(table: Any, **keys: Any) -> list[Any]:
    return [row for row in table.rows if all(row[name] == value for name, value in keys.items())]


def test_the_tables_say_what_the_decisions_were(scenes: Scenes) -> None:
    family = FamilyScenes(family="sentinel-2", networks=scenes, colour=scenes, models=lambda _: model())
    how = CheckSettings(splits=5, draws=20)
    pooled, each = events_tables([family], how)
    (flood,) = rows_of(pooled, track="flood", basis="pair", asked_per_1000=10.0)
    assert flood["recall"] == 1.0
    assert (flood["flooded"], flood["tiles"], flood["events"]) == (30, 90, 3)
    (decided,) = decide(scenes, "flood", "pair", "after", [10.0], lambda _: model())
    assert flood["per_1000"] == pytest.approx(1000 * decided.flagged[scenes.dry].mean(), abs=1e-4)
    (either,) = rows_of(pooled, track="either", basis="single", asked_per_1000=10.0, normal_tiles="before")
    assert (either["recall"], either["flooded"], either["tiles"]) == (None, 0, 120)
    assert len(rows_of(each, track="flood", basis="pair", asked_per_1000=10.0)) == 3
    halves = halves_table([family], how)
    assert {(row["track"], row["basis"]) for row in halves.rows} == {
        (track, basis) for track in ("anomaly", "flood") for basis in ("single", "pair")
    }
    assert {row["tracks"] for row in support_table([family], 6.0).rows} == {2}


def test_a_family_without_floods_has_one_track(scenes: Scenes) -> None:
    dry = scenes.take(scenes.dry)
    family = FamilyScenes(family="aerial", networks=dry, colour=None, models=lambda _: None)
    pooled, each = events_tables([family], CheckSettings(splits=5, draws=20))
    assert {row["track"] for row in pooled.rows} == {"anomaly"}
    assert {row["recall"] for row in pooled.rows} == {None}
    assert {row["normal_tiles"] for row in pooled.rows} == {"before", "dry after"}
    assert {row["event"] for row in each.rows} == {"a", "b", "c"}


def triples(*events: str) -> TripleFolder:
    nowhere = Path("nowhere")
    images = tuple(
        TripleImage(id=f"{i}", event=event, before=nowhere, after=nowhere, mask=nowhere)
        for i, event in enumerate(events)
    )
    return TripleFolder(root=nowhere, images=images, notes=())


def test_images_are_taken_from_the_events_in_turn() -> None:
    folder = triples(*"aaaaaabbbc")
    # The turns are a b c, a b, a b, a, a, a.
    for count, want in ((3, "abc"), (4, "aabc"), (7, "aaabbbc"), (99, "aaaaaabbbc")):
        chosen = images_of_each_event(folder, count, np.random.default_rng(0)).images
        assert "".join(image.event for image in chosen) == want
        assert [image.id for image in chosen] == sorted(image.id for image in chosen)


def test_a_record_tells_undefined_values_as_null_and_dashes(tmp_path: Path) -> None:
    table = RecordTable(
        name="rows", title="Rows", text="All.", rows=[{"a_b": math.nan, "c": None}, {"a_b": 0.25, "c": True}]
    )
    empty = RecordTable(name="none", title="None", text="Nothing.", rows=[])
    record = Record(
        title="A record",
        command="vigie evaluate nothing",
        data={"digest": "d"},
        models={},
        machine={"cores": 2},
        date="2026-01-01T00:00:00+00:00",
        settings={"seed": 0, "levels": (1, 2)},
        notes=["A note."],
        tables=[table, empty],
    )
    written = record.write(tmp_path / "deep" / "out.json", {"curve": b"png"})
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out-curve.png", "out.json", "out.md"]
    assert written[-1].name == "out.json", "who waits for the JSON file finds the rest"
    found = json.loads(written[-1].read_text())
    assert found["rows"] == [{"a_b": None, "c": None}, {"a_b": 0.25, "c": True}]
    assert found["none"] == []
    assert found["settings"] == {"seed": 0, "levels": [1, 2]}
    text = (tmp_path / "deep" / "out.md").read_text()
    assert "| a b | c |\n|---|---|\n| – | – |\n| 0.25 | yes |" in text
    assert "There is no row." in text
    assert "![out-curve.png](out-curve.png)" in text
