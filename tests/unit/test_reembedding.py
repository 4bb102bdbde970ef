"""After a change of the model: what the daemon says and does, and how a place gets its past back."""

from __future__ import annotations

import random
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry.base import BaseGeometry

from daemon.backoff import Backoff
from daemon.clock import ManualClock
from daemon.errors import LeaseLost
from daemon.scenes import Scene
from daemon.score.judging import ModelIdentity
from daemon.score.model_change import StrangeArea, strange_areas
from daemon.score.reembedding import Reembedder, ReembeddingRules, lease_name
from daemon.score.renewal import Turn
from daemon.store import LookCount, LookRow, Store
from engine.errors import BandMissing, RasterUnavailable
from engine.look import Look
from engine.tiles import TileBatch
from tests.unit.test_worker import FLOOD, HISTORY, MODEL, NOW, House, ScriptedEngine, ScriptedReading, alerts, scene

OTHER = replace(MODEL, model_hash="cd" * 32)


class SteadyEngine(ScriptedEngine):
    """What it sees depends on the cell, the scene and the model, and on nothing else."""

    def __init__(self, model: ModelIdentity) -> None:
        super().__init__()
        self.model = model
        self.item = ""

    def look(self, batch: TileBatch, family: str, seconds: Counter[str]) -> Look:
        parts = []
        for tile in sorted(batch.tiles, key=lambda each: each.cell_id):
            seed = zlib.crc32(f"{tile.cell_id} {self.item} {self.model.model_hash}".encode())
            self._rng = np.random.default_rng(seed)
            parts.append(super().look(replace_tiles(batch, tile.cell_id), family, seconds))
        return Look.join(parts)


def replace_tiles(batch: TileBatch, cell_id: str) -> TileBatch:
    at = next(i for i, tile in enumerate(batch.tiles) if tile.cell_id == cell_id)
    return replace(
        batch,
        tiles=(batch.tiles[at],),
        pixels=batch.pixels[at : at + 1],
        valid=batch.valid[at : at + 1],
    )


@dataclass
class SteadyHouse(House):
    def open_scene(self, one: Scene, areas: Sequence[BaseGeometry], bands: Sequence[str]) -> ScriptedReading:
        assert isinstance(self.engine, SteadyEngine)
        reading = super().open_scene(one, areas, bands)
        self.engine.item = one.item_id
        return reading

    def looks(self, model: ModelIdentity) -> dict[str, LookRow]:
        rows = [self.store.look(key) for key in self.store.look_keys(model.model_hash)]
        return {row.scene_id: row for row in rows if row is not None}

    def reembedder(
        self,
        owner: str = "again",
        tell: Callable[[Turn], None] = lambda turn: None,
        clock: ManualClock | None = None,
    ) -> Reembedder:
        return Reembedder(
            owner=owner,
            store=self.store,
            areas=self.areas,
            open_scene=self.open_scene,
            scoring=self.engine,
            rules=ReembeddingRules(lease_s=60.0, backoff=Backoff(base_s=10.0, cap_s=100.0)),
            clock=clock or self.clock,
            rng=random.Random(0),
            tell=tell,
        )


WET = {HISTORY[2].item_id, FLOOD.item_id}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The valley's history, seen through the first model."""
    file, clock = tmp_path_factory.mktemp("history") / "v.db", ManualClock(NOW)
    with Store.open(f"sqlite:///{file}", clock=clock, max_attempts=3) as store:
        store.migrate()
        house = SteadyHouse(store=store, engine=SteadyEngine(MODEL), clock=clock, flood_items=WET)
        house.sight(*HISTORY)
        house.work()
        assert len(house.looks(MODEL)) == len(HISTORY)
    return file


@pytest.fixture
def house(history: Path, tmp_path: Path) -> Iterator[SteadyHouse]:
    """The same place, now with the second model."""
    clock = ManualClock(NOW)
    with Store.open(f"sqlite:///{shutil.copy(history, tmp_path)}", clock=clock, max_attempts=3) as store:
        yield SteadyHouse(store=store, engine=SteadyEngine(OTHER), clock=clock, flood_items=WET)


def go() -> threading.Event:
    return threading.Event()


def test_a_new_model_is_never_compared_with_looks_of_the_old_one(house: SteadyHouse) -> None:
    (strange,) = strange_areas(house.store.look_counts(), house.engine.model, house.areas)
    assert strange == StrangeArea(area="valley", looks=0, looks_of_others=len(HISTORY))
    house.sight(scene(11))
    house.work()
    pinned = house.store.pinned_reference(scene(11).scene_id, "valley", "sentinel-2", OTHER.model_hash)
    assert pinned is not None
    assert pinned.look_ids == ()


def test_re_embedding_gives_the_place_its_past_back(house: SteadyHouse) -> None:
    renewal = house.reembedder().run("valley", None, go())
    assert (renewal.wanted, renewal.stored, renewal.left, renewal.left_out) == (8, 8, 0, ())
    house.sight(FLOOD)
    house.work()
    (alert,) = alerts(house)
    found = alert["properties"]
    assert found["calibration"]["level"] == "place"
    # The flood of the history stays out of the reference, as the old model had it.
    assert found["calibration"]["looks"] == len(HISTORY) - 1
    assert found["model"]["hash"] == OTHER.model_hash
    assert strange_areas(house.store.look_counts(), house.engine.model, house.areas) == ()


def test_renewed_looks_are_those_of_a_daemon_that_never_knew_another_model(house: SteadyHouse, tmp_path: Path) -> None:
    before = (house.store.scenes(), house.store.incidents(), house.store.alerts())
    house.reembedder().run("valley", None, go())
    assert (house.store.scenes(), house.store.incidents(), house.store.alerts()) == before
    with Store.open(f"sqlite:///{tmp_path}/other.db", clock=ManualClock(NOW), max_attempts=3) as store:
        store.migrate()
        other = SteadyHouse(store=store, engine=SteadyEngine(OTHER), clock=ManualClock(NOW), flood_items=WET)
        other.sight(*HISTORY)
        other.work()
        assert house.looks(OTHER) == other.looks(OTHER)
    assert set(house.looks(MODEL)) == {one.scene_id for one in HISTORY}


def test_a_second_run_finds_nothing_to_do(house: SteadyHouse) -> None:
    house.reembedder().run("valley", None, go())
    before = house.looks(OTHER)
    house.readings = {one.item_id: RasterUnavailable("nothing may be read") for one in HISTORY}
    renewal = house.reembedder().run("valley", None, go())
    assert (renewal.wanted, renewal.stored) == (0, 0)
    assert house.looks(OTHER) == before


def test_a_run_that_was_stopped_is_gone_on_with(house: SteadyHouse) -> None:
    stop = go()
    house.readings[HISTORY[5].item_id] = ScriptedReading(between=stop.set)
    first = house.reembedder().run("valley", None, stop)
    # The latest scene first; the one in hand is not stored.
    assert set(house.looks(OTHER)) == {HISTORY[7].scene_id, HISTORY[6].scene_id}
    assert (first.stored, first.left, first.left_out) == (2, 6, ())
    house.readings.clear()
    second = house.reembedder("another").run("valley", None, go())
    assert (second.wanted, second.stored, second.left) == (6, 6, 0)
    assert len(house.looks(OTHER)) == len(HISTORY)


def test_since_leaves_earlier_scenes_alone(house: SteadyHouse) -> None:
    since: datetime = HISTORY[6].sensing_time
    assert house.reembedder().run("valley", since, go()).stored == 2
    assert set(house.looks(OTHER)) == {HISTORY[6].scene_id, HISTORY[7].scene_id}


def test_scenes_that_cannot_be_read_are_listed_and_tried_again_only_where_that_may_help(house: SteadyHouse) -> None:
    opened: Counter[str] = Counter()
    real = house.open_scene

    def open_scene(one: Scene, areas: Sequence[BaseGeometry], bands: Sequence[str]) -> ScriptedReading:
        opened[one.item_id] += 1
        if one.item_id == HISTORY[4].item_id and opened[one.item_id] < 3:
            raise RasterUnavailable("503 for a moment")
        return real(one, areas, bands)

    house.open_scene = open_scene  # type: ignore[method-assign]
    house.readings[HISTORY[1].item_id] = RasterUnavailable("https://example.org/1.tif is not there (404)")
    house.readings[HISTORY[3].item_id] = BandMissing("no band 'swir16'")
    house.readings[HISTORY[5].item_id] = ScriptedReading(skipped=25)
    house.readings[HISTORY[6].item_id] = ScriptedReading(error=ZeroDivisionError("a bug"))
    renewal = house.reembedder().run("valley", None, go())
    assert (renewal.wanted, renewal.stored, renewal.left) == (8, 4, 0)
    assert {left.item_id: left.reason for left in renewal.left_out} == {
        HISTORY[1].item_id: "https://example.org/1.tif is not there (404)",
        HISTORY[3].item_id: "no band 'swir16'",
        HISTORY[5].item_id: "no tile of the area with enough clear ground",
        HISTORY[6].item_id: "ZeroDivisionError: a bug",
    }
    assert {HISTORY[i].item_id: opened[HISTORY[i].item_id] for i in (1, 3, 4, 5, 6, 7)} == {
        HISTORY[1].item_id: 3,
        HISTORY[3].item_id: 1,
        HISTORY[4].item_id: 3,
        HISTORY[5].item_id: 1,
        HISTORY[6].item_id: 1,
        HISTORY[7].item_id: 1,
    }


class BusyClock(ManualClock):
    """While somebody waits, others work."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(NOW)
        self._meanwhile = meanwhile

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._meanwhile()
        return super().wait(event, seconds)


def test_a_fresh_scene_goes_first_even_in_the_middle_of_an_old_one(house: SteadyHouse) -> None:
    fresh, told = scene(11), list[tuple[str, str]]()

    def arrives() -> None:
        if house.store.scene(fresh.scene_id) is None:
            house.sight(fresh)

    house.readings[HISTORY[6].item_id] = ScriptedReading(between=arrives)
    worker = house.worker("daemon")

    def meanwhile() -> None:
        assert HISTORY[6].scene_id not in house.looks(OTHER)
        # It opens another scene, as its own process would.
        engine, house.engine = house.engine, SteadyEngine(OTHER)
        assert worker.step(go())
        house.engine = engine

    renewal = house.reembedder(
        tell=lambda turn: told.append((turn.doing, turn.item_id)), clock=BusyClock(meanwhile)
    ).run("valley", None, go())
    assert renewal.stored == len(HISTORY)
    assert told.count(("waiting", HISTORY[6].item_id)) == 1
    row = house.store.scene(fresh.scene_id)
    assert row is not None
    assert row.outcome == "scored"


def test_scenes_that_no_worker_takes_up_hold_it_for_a_minute_only(house: SteadyHouse) -> None:
    house.sight(scene(11))
    began = house.clock.monotonic()
    renewal = house.reembedder().run("valley", None, go())
    assert renewal.stored == len(HISTORY)
    assert house.clock.monotonic() - began == pytest.approx(60.0)
    assert house.store.counts().scenes["pending"] == 1


def test_an_area_is_renewed_by_one_process_at_a_time(house: SteadyHouse) -> None:
    lease = house.store.hold_lease(lease_name("valley", OTHER.model_hash), "another", 60.0)
    assert lease is not None
    busy = house.reembedder().run("valley", None, go())
    assert (busy.is_busy, busy.stored, busy.left) == (True, 0, 8)
    house.store.drop_lease(lease)
    assert house.reembedder().run("valley", None, go()).stored == 8


def test_who_was_silent_for_too_long_stores_nothing_more(house: SteadyHouse) -> None:
    def overtaken() -> None:
        house.clock.advance(61.0)
        house.readings.clear()
        assert house.reembedder("quick").run("valley", None, go()).stored == 7

    house.readings[HISTORY[6].item_id] = ScriptedReading(between=overtaken)
    with pytest.raises(LeaseLost, match="by now"):
        house.reembedder("slow").run("valley", None, go())
    assert len(house.looks(OTHER)) == len(HISTORY)


def test_what_a_change_of_the_model_means_is_said_by_area() -> None:
    counts = [
        LookCount(area="a", model_hash="old", looks=9),
        LookCount(area="a", model_hash=MODEL.model_hash, looks=3),
        LookCount(area="b", model_hash="old", looks=5),
        LookCount(area="c", model_hash="old", looks=2),
        LookCount(area="c", model_hash=MODEL.model_hash, looks=2),
        LookCount(area="no longer watched", model_hash="old", looks=2),
    ]
    first, second = strange_areas(counts, MODEL, ["c", "b", "a", "new"])
    assert (first.area, first.looks, first.looks_of_others) == ("a", 3, 9)
    assert "only 3 of this one's" in first.sentence
    assert "judged on their own" in second.sentence
    assert "vigie reembed --area 'b'" in second.sentence
