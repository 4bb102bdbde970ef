"""The worker on a real SQLite store, with a scripted engine and scripted reading."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from daemon.backoff import Backoff
from daemon.clock import ManualClock
from daemon.operate.drift import DriftWatch
from daemon.operate.metrics import Metrics
from daemon.scenes import Area, Scene
from daemon.score.incidents import IncidentRules
from daemon.score.judging import ModelIdentity, judge
from daemon.score.worker import Worker, WorkerRules
from daemon.store import Store
from daemon.store.records import Cursor, Sighting
from engine.errors import BandMissing, DeviceLost, RasterCorrupt, RasterUnavailable
from engine.grid import Cell, union_lonlat
from engine.judge import DetectSettings
from engine.look import Look
from engine.read_plan import ReadReport
from engine.tiles import Float32Array, Tile, TileBatch

SIDE = 5
CELLS = [Cell(epsg=32632, level=0, tile_px=64, col=800 + i % SIDE, row=7800 + i // SIDE) for i in range(SIDE * SIDE)]
VALLEY = Area(name="valley", geometry=mapping(union_lonlat(tuple(CELLS)).buffer(-1e-4)), alerts_per_month=0.1)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MODEL = ModelIdentity(name="scripted", model_hash="ab" * 32, families=("aerial", "sentinel-2"))


def scene(number: int, *, sensor: str = "sentinel-2-l2a", item: Mapping[str, Any] | None = None) -> Scene:
    return Scene(
        identity=f"s2|{number}",
        version="0123456789abcdef",
        catalog="twin",
        collection=sensor,
        item_id=f"item-{number:02d}",
        sensor=sensor,
        platform="sentinel-2a",
        sensing_time=NOW - timedelta(days=300) + timedelta(days=20 * number),
        grid_code="MGRS-32TNQ",
        geometry=VALLEY.geometry,
        cloud_cover_percent=1.0,
        updated=None,
        item=item or {"id": f"item-{number:02d}"},
    )


@dataclass
class ScriptedReading:
    """All cells in two batches, or an error before the first."""

    error: Exception | None = None
    skipped: int = 0
    between: Callable[[], None] = lambda: None
    report: ReadReport = field(default_factory=ReadReport)

    def __iter__(self) -> Iterator[TileBatch]:
        if self.error is not None:
            raise self.error
        cells = CELLS[self.skipped :]
        self.report.total = len(CELLS)
        if self.skipped:
            self.report.skipped["cloud"] = self.skipped
        for part in (cells[: len(cells) // 2], cells[len(cells) // 2 :]):
            if part:
                self.between()
                self.report.read += len(part)
                yield batch_of(part)


def batch_of(cells: Sequence[Cell]) -> TileBatch:
    return TileBatch(
        tiles=tuple(
            Tile(
                cell_id=cell.id,
                row=cell.row,
                col=cell.col,
                crs=cell.crs,
                transform=cell.transform,
                size_px=64,
                valid_ratio=1.0,
            )
            for cell in cells
        ),
        pixels=np.zeros((len(cells), 3, 64, 64), np.float32),
        valid=np.ones((len(cells), 64, 64), np.bool_),
        bands=("swir16", "nir", "red"),
        gsd_m=10.0,
    )


class ScriptedEngine:
    """Normal looks with a little noise; the scene under work decides whether two cells are flooded."""

    model = MODEL

    def __init__(self) -> None:
        self.flooded = False
        self.strange = False
        self._rng = np.random.default_rng(0)

    def bands(self, family: str) -> tuple[str, ...]:
        return ("swir16", "nir", "red")

    def calibration(self, family: str) -> Mapping[str, Float32Array]:
        draw = self._rng.lognormal(-7, 0.3, 500).astype(np.float32)
        few = np.abs(self._rng.normal(0, 0.01, 500)).astype(np.float32)
        return {
            "odeed": draw,
            "pair_odeed_a": draw,
            "pair_odeed_b": draw,
            "pair_cls_distance": few,
            "pair_water_a": few,
            "pair_water_b": few,
        }

    def look(self, batch: TileBatch, family: str, seconds: Counter[str]) -> Look:
        n = len(batch)
        wet = {CELLS[0].id, CELLS[1].id} if self.flooded else set()
        ids = sorted(tile.cell_id for tile in batch.tiles)
        water = np.asarray([0.9 if cell in wet else 0.02 for cell in ids], np.float32)
        cls = np.ones((n, 4), np.float32) + self._rng.normal(0, 0.02, (n, 4)).astype(np.float32)
        odeed = self._rng.lognormal(-7, 0.05, n).astype(np.float32)
        if self.strange:
            odeed[:4] *= 20.0
        return Look(
            cell_ids=tuple(ids),
            odeed=odeed,
            water=water + np.abs(self._rng.normal(0, 0.003, n)).astype(np.float32),
            cls=cls / np.linalg.norm(cls, axis=1, keepdims=True),
            valid_ratio=np.ones(n, np.float32),
        )


@dataclass
class House:
    """A store, a worker, and what they are made of."""

    store: Store
    engine: ScriptedEngine
    clock: ManualClock
    readings: dict[str, ScriptedReading | Exception] = field(default_factory=dict)
    areas: dict[str, Area] = field(default_factory=lambda: {"valley": VALLEY})
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    flood_items: set[str] = field(default_factory=set)
    strange_items: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.registry, self.clock)

    def sight(self, *scenes: Scene, fresh_from: int = 10) -> None:
        fresh = scene(fresh_from).sensing_time
        self.store.register_areas(list(self.areas.values()), {"twin": list(self.areas)})
        self.store.record_page(
            "twin",
            [
                Sighting(
                    scene=one,
                    areas=dict.fromkeys(self.areas, "fresh" if one.sensing_time >= fresh else "history"),
                )
                for one in scenes
            ],
        )
        self.store.close_window("twin", list(self.areas), Cursor(time=self.clock.now(), settled=True))

    def worker(self, name: str = "w") -> Worker:
        return Worker(
            name=name,
            store=self.store,
            areas=self.areas,
            open_scene=self.open_scene,
            scoring=self.engine,
            detect=DetectSettings(),
            incidents=IncidentRules(),
            rules=WorkerRules(lease_s=60.0, backoff=Backoff(base_s=10.0, cap_s=100.0)),
            metrics=self.metrics,
            drift=DriftWatch(),
            clock=self.clock,
            rng=random.Random(0),
        )

    def open_scene(self, one: Scene, areas: Sequence[BaseGeometry], bands: Sequence[str]) -> ScriptedReading:
        reading = self.readings.get(one.item_id, ScriptedReading())
        if isinstance(reading, Exception):
            raise reading
        self.engine.flooded = one.item_id in self.flood_items
        self.engine.strange = one.item_id in self.strange_items
        return reading

    def work(self, stop: threading.Event | None = None) -> int:
        """Step until nothing is left; waits of retries pass at once."""
        worker, steps, waits = self.worker(), 0, 0
        while waits < 12:
            if worker.step(stop or threading.Event()):
                steps += 1
            elif self.store.counts().scenes["pending"] == 0:
                break
            else:
                self.clock.advance(50.0)
                waits += 1
        return steps

    def outcome(self, one: Scene) -> tuple[str, str | None]:
        row = self.store.scene(one.scene_id)
        assert row is not None
        return row.outcome or row.state, row.reason


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock = ManualClock(NOW)
    with Store.open(f"sqlite:///{tmp_path}/v.db", clock=clock, max_attempts=3) as store:
        store.migrate()
        yield House(store=store, engine=ScriptedEngine(), clock=clock)


HISTORY = [scene(number) for number in range(8)]
FLOOD = scene(12)


def alerts(house: House) -> list[dict[str, Any]]:
    return [json.loads(row.alert.value) for row in house.store.alerts()]


def test_history_is_learnt_in_silence_and_new_water_is_an_alert(house: House) -> None:
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, scene(11), FLOOD)
    house.work()
    (alert,) = alerts(house)
    found = alert["properties"]
    assert (found["kind"], found["state"], found["sequence"]) == ("flood", "new", 1)
    assert found["tiles"] == sorted([CELLS[0].id, CELLS[1].id])
    assert found["calibration"]["level"] == "place"
    assert found["calibration"]["looks"] == 9
    assert found["scene"]["item_id"] == FLOOD.item_id
    assert house.outcome(scene(11)) == ("scored", None)


def test_operators_see_drift_of_scores_and_time_in_the_engine(house: House) -> None:
    house.sight(*HISTORY[:3])
    looked = house.engine.look

    def slow(batch: TileBatch, family: str, seconds: Counter[str]) -> Look:
        house.clock.advance(2.0)
        return looked(batch, family, seconds)

    house.engine.look = slow  # type: ignore[method-assign]
    house.work()
    busy = house.registry.get_sample_value("vigie_engine_busy_seconds_total")
    assert busy == 3 * 2 * 2.0, "three scenes of two batches"
    drift = {
        name: house.registry.get_sample_value(f"vigie_score_{name}", {"sensor": "sentinel-2-l2a"})
        for name in ("drift_tiles", "drift_ratio", "p_value_mean_ratio")
    }
    assert drift["drift_tiles"] == 3 * len(CELLS)
    # The scripted scores have the centre of the calibration and a sixth of its width.
    assert 0.3 < (drift["drift_ratio"] or 0) < 0.5
    assert (drift["p_value_mean_ratio"] or 0) == pytest.approx(0.5, abs=0.1)


def test_a_flagged_look_is_no_reference_for_the_next(house: House) -> None:
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, FLOOD, scene(13))
    house.work()
    pinned = house.store.pinned_reference(scene(13).scene_id, "valley", "sentinel-2", MODEL.model_hash)
    assert pinned is not None
    assert FLOOD.scene_id not in pinned.look_ids
    assert set(pinned.look_ids) == {one.scene_id for one in HISTORY}


def test_a_flood_in_the_history_is_no_reference_but_a_season_is(house: House) -> None:
    wet, winter = HISTORY[6], HISTORY[7]
    house.flood_items = {wet.item_id}
    house.strange_items = {winter.item_id}
    house.sight(*HISTORY, scene(11))
    house.work()
    assert alerts(house) == []
    assert [d.kind for d in house.store.detections(wet.scene_id)] == ["flood"]
    assert [d.kind for d in house.store.detections(winter.scene_id)] == ["anomaly"]
    pinned = house.store.pinned_reference(scene(11).scene_id, "valley", "sentinel-2", MODEL.model_hash)
    assert pinned is not None
    assert set(pinned.look_ids) == {one.scene_id for one in HISTORY} - {wet.scene_id}


def test_the_second_pass_over_a_flood_updates_its_incident(house: House) -> None:
    house.flood_items = {FLOOD.item_id, scene(13).item_id}
    house.sight(*HISTORY, FLOOD, scene(13))
    house.work()
    first, second = (alert["properties"] for alert in alerts(house))
    assert first["incident"] == second["incident"]
    assert (second["state"], second["sequence"]) == ("updated", 2)


def test_replaying_a_scene_sends_nothing_twice(house: House) -> None:
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, FLOOD)
    house.work()
    before = house.store.alerts()
    assert house.store.replay(scene_ids=[FLOOD.scene_id]) == 1
    house.work()
    assert house.store.alerts() == before
    (incident,) = house.store.incidents("valley")
    assert incident.sequence == 1


def test_a_scene_in_two_areas_is_read_once_and_judged_in_each(house: House) -> None:
    reads: list[str] = []
    house.areas["half"] = replace(VALLEY, name="half", geometry=mapping(union_lonlat(tuple(CELLS[:10])).buffer(-1e-4)))
    one = scene(11)
    house.readings[one.item_id] = ScriptedReading(between=lambda: reads.append("batch"))
    house.sight(one)
    house.work()
    assert len(reads) == 2
    rows = {
        area: house.store.looks_by_id(area, "sentinel-2", MODEL.model_hash, [one.scene_id])[0] for area in house.areas
    }
    assert {area: len(Look.from_bytes(row.blob)) for area, row in rows.items()} == {"valley": 25, "half": 10}


@pytest.mark.parametrize(
    ("reading", "outcome", "reason"),
    [
        (BandMissing("no band 'swir16'"), "skipped", "band missing"),
        (ScriptedReading(skipped=25), "skipped", "25 cloud of 25"),
        (RasterCorrupt("band.tif ends in the middle"), "failed", "ends in the middle"),
        (ScriptedReading(error=RasterUnavailable("503")), "failed", "503"),
        (ScriptedReading(error=ZeroDivisionError("a bug")), "failed", "a bug"),
    ],
)
def test_a_bad_scene_ends_with_its_reason_and_does_not_stop_the_next(
    house: House, reading: ScriptedReading | Exception, outcome: str, reason: str
) -> None:
    house.readings[HISTORY[1].item_id] = reading
    house.sight(*HISTORY[:3])
    house.work()
    ended, why = house.outcome(HISTORY[1])
    assert ended == outcome
    assert reason in (why or "")
    assert house.outcome(HISTORY[2]) == ("scored", None)


def test_a_stop_in_the_middle_hands_the_scene_back(house: House) -> None:
    stop = threading.Event()
    house.readings[HISTORY[0].item_id] = ScriptedReading(between=stop.set)
    house.sight(HISTORY[0])
    house.worker().step(stop)
    row = house.store.scene(HISTORY[0].scene_id)
    assert row is not None
    assert (row.state, row.attempts) == ("pending", 0)


def test_a_broken_device_ends_the_worker_and_hands_the_scene_back(house: House) -> None:
    """Fault test 19: the process must end, and its successor finish the scene."""
    house.sight(FLOOD)

    def breaks(*given: object) -> Look:
        raise DeviceLost("an illegal memory access was encountered")

    look = house.engine.look
    house.engine.look = breaks  # type: ignore[method-assign]
    with pytest.raises(DeviceLost):
        house.worker().step(threading.Event())
    row = house.store.scene(FLOOD.scene_id)
    assert row is not None
    assert (row.state, row.attempts) == ("pending", 1)
    house.engine.look = look  # type: ignore[method-assign]
    house.work()
    assert house.outcome(FLOOD)[0] == "scored"


def test_a_scene_that_breaks_the_device_each_time_ends_as_failed(house: House) -> None:
    house.sight(FLOOD)
    house.readings[FLOOD.item_id] = DeviceLost("an illegal memory access was encountered")  # type: ignore[assignment]
    for _ in range(3):
        house.clock.advance(1000.0)
        with pytest.raises(DeviceLost):
            house.worker().step(threading.Event())
    state, reason = house.outcome(FLOOD)
    assert state == "failed"
    assert reason is not None
    assert "illegal memory access" in reason


def test_a_worker_that_lost_its_lease_writes_nothing(house: House) -> None:
    house.sight(HISTORY[0])

    def overtaken() -> None:
        house.clock.advance(61.0)
        house.readings.clear()
        assert house.worker("other").step(threading.Event())

    house.readings[HISTORY[0].item_id] = ScriptedReading(between=overtaken)
    house.worker("slow").step(threading.Event())
    row = house.store.scene(HISTORY[0].scene_id)
    assert row is not None
    assert (row.outcome, row.fence) == ("scored", 2)


def test_a_silent_budget_is_a_pure_function_of_the_pinned_reference(house: House, tmp_path: Path) -> None:
    """The same scenes listed in another order give the same alert ids."""
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, FLOOD)
    house.work()
    clock = ManualClock(NOW)
    with Store.open(f"sqlite:///{tmp_path}/other.db", clock=clock, max_attempts=3) as store:
        store.migrate()
        other = House(store=store, engine=ScriptedEngine(), clock=clock, flood_items={FLOOD.item_id})
        other.sight(FLOOD, *reversed(HISTORY))
        other.work()
        assert {row.alert.alert_id for row in store.alerts()} == {row.alert.alert_id for row in house.store.alerts()}


def test_an_alert_lists_the_five_earlier_tiles_that_look_most_like_its_strangest(house: House) -> None:
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, FLOOD)
    house.work()
    (alert,) = alerts(house)
    evidence = alert["properties"]["evidence"]

    def look(one: Scene) -> Look:
        (row,) = house.store.looks_by_id("valley", "sentinel-2", MODEL.model_hash, [one.scene_id])
        return Look.from_bytes(row.blob)

    now = look(FLOOD)
    query = now.cls[now.cell_ids.index(evidence["peak_cell"])].astype(np.float64)
    expected = []
    for one in HISTORY:
        for cell, row in zip(look(one).cell_ids, look(one).cls.astype(np.float64), strict=True):
            cosine = query @ row / np.linalg.norm(query) / np.linalg.norm(row)
            expected.append((-round(cosine, 6), -one.sensing_time.timestamp(), cell, one))
    assert evidence["similar_tiles"] == [
        {
            "cell": cell,
            "sensing_time": one.sensing_time.isoformat().replace("+00:00", "Z"),
            "scene": one.identity,
            "cosine": -cosine,
        }
        for cosine, _, cell, one in sorted(expected, key=lambda each: each[:3])[:5]
    ]


def test_similar_tiles_are_of_the_pinned_reference_whatever_the_store_has_gained(house: House) -> None:
    """A crash after the pin, looks that arrive late, and a retry: the detection says the same to the byte."""
    house.flood_items = {FLOOD.item_id}
    house.sight(*HISTORY, FLOOD)
    house.work()
    before = house.store.detections(FLOOD.scene_id)
    (row,) = house.store.looks_by_id("valley", "sentinel-2", MODEL.model_hash, [FLOOD.scene_id])
    late = scene(9)
    house.sight(late)
    claim = house.store.claim("late", 60.0)
    assert claim is not None
    with house.store.finish(claim) as ending:
        # The flood's own look, unflagged and earlier: nothing could be more similar.
        ending.put_look(replace(row, scene_id=late.scene_id, sensing_time=late.sensing_time, flagged=False))
        ending.done("scored")
    pinned = house.store.pinned_reference(FLOOD.scene_id, "valley", "sentinel-2", MODEL.model_hash)
    assert pinned is not None
    verdict = judge(
        house.store,
        FLOOD,
        VALLEY,
        "fresh",
        pinned,
        Look.from_bytes(row.blob),
        MODEL,
        ScriptedEngine().calibration("sentinel-2"),
        DetectSettings(),
    )
    assert [found.evidence["similar_tiles"] for found in verdict.detections] == [
        found.evidence["similar_tiles"] for found in before
    ]
    assert all(tile["scene"] != late.identity for tile in before[0].evidence["similar_tiles"])
