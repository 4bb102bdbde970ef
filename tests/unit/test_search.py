"""The search through stored looks, on the valley of the worker's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from daemon.clock import ManualClock
from daemon.errors import ConfigError
from daemon.score.search import Filters, query_by_cell, query_by_point, search
from daemon.store import LookKey, Store
from engine.look import Look
from tests.unit.test_worker import CELLS, HISTORY, MODEL, NOW, House, ScriptedEngine

HASH = MODEL.model_hash
MIDDLE = CELLS[12]


def test_a_search_finds_what_brute_force_finds_and_filters_hold(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with Store.open(f"sqlite:///{tmp_path}/v.db", clock=clock, max_attempts=3) as store:
        store.migrate()
        house = House(store=store, engine=ScriptedEngine(), clock=clock)
        house.sight(*HISTORY[:3])
        house.work()
        rows = [row for row in map(store.look, store.look_keys(HASH)) if row is not None]
        assert len(rows) == 3
        query = query_by_cell(store, HASH, MIDDLE, Filters())
        assert query.key is not None
        assert query.key.scene_id == HISTORY[2].scene_id
        centre = MIDDLE.lonlat.centroid
        at_point = query_by_point(store, HASH, centre.x, centre.y, Filters())
        assert (at_point.cell, at_point.key) == (query.cell, query.key)
        assert query_by_cell(store, HASH, MIDDLE, Filters(until=HISTORY[0].sensing_time)).key != query.key

        tiles = []
        for row in rows:
            look = Look.from_bytes(row.blob)
            for cell, cls in zip(look.cell_ids, look.cls.astype(np.float64), strict=True):
                cosine = cls @ query.cls / np.linalg.norm(cls) / np.linalg.norm(query.cls)
                tiles.append((-float(cosine), row.scene_id, cell))
        tiles = sorted(each for each in tiles if each[1:] != (query.key.scene_id, MIDDLE.id))

        def found(filters: Filters, limit: int = 6) -> list[tuple[str, str]]:
            hits = search(store, HASH, query, filters, limit).best()
            return [(hit.source.scene_id, hit.cell_id) for hit in hits if isinstance(hit.source, LookKey)]

        assert found(Filters()) == [each[1:] for each in tiles[:6]]
        near = {MIDDLE.id, *(cell.id for cell in MIDDLE.neighbours())}
        far = [each[1:] for each in tiles if each[2] not in near]
        assert len(near) == 9
        assert found(Filters(not_same_place=True)) == far[:6]
        assert len(found(Filters(not_same_place=True), 100)) == 3 * 16
        cells = [cell for _, cell in found(Filters(once_per_place=True), 100)]
        assert sorted(cells) == sorted(cell.id for cell in CELLS)
        assert found(Filters(family="aerial")) == found(Filters(areas=("elsewhere",))) == []
        assert {scene for scene, _ in found(Filters(since=HISTORY[1].sensing_time), 99)} == {
            HISTORY[1].scene_id,
            HISTORY[2].scene_id,
        }
        assert search(store, "another model", query, Filters(), 5).tiles == 0
        with pytest.raises(ConfigError, match="vigie reembed"):
            query_by_cell(store, "another model", MIDDLE, Filters())
        with pytest.raises(ConfigError, match="no look of this model shows cell"):
            query_by_cell(store, HASH, replace(MIDDLE, col=1), Filters())
