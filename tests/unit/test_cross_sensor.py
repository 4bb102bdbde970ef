from __future__ import annotations

import numpy as np
import pytest

from engine.cross_sensor import cross_sensor_distance
from engine.grid import Cell
from engine.look import Look

COARSE = Cell(epsg=32632, level=0, tile_px=64, col=800, row=7800)


def look(cells: list[Cell], cls: list[list[float]]) -> Look:
    order = sorted(range(len(cells)), key=lambda i: cells[i].id)
    nothing = np.zeros(len(cells), np.float32)
    return Look(
        cell_ids=tuple(cells[i].id for i in order),
        odeed=nothing,
        water=nothing,
        cls=np.asarray([cls[i] for i in order], np.float32),
        valid_ratio=nothing,
    )


def test_fine_cells_meet_the_coarse_cell_that_they_lie_in() -> None:
    fine = list(COARSE.children())
    aerial = look(fine, [[1, 0], [0, 1], [1, 0], [0, 1]])
    satellite = look([COARSE], [[1, 0]])
    expected = 1 - 1 / np.sqrt(2)
    assert cross_sensor_distance(aerial.cell_ids, aerial, satellite) == pytest.approx(expected, abs=1e-6)
    assert cross_sensor_distance(satellite.cell_ids, satellite, aerial) == pytest.approx(expected, abs=1e-6)


def test_equal_looks_have_no_distance() -> None:
    one = look([COARSE], [[0.6, 0.8]])
    assert cross_sensor_distance(one.cell_ids, one, one) == pytest.approx(0.0, abs=1e-6)


def test_other_ground_cannot_be_compared() -> None:
    far = Cell(epsg=32632, level=0, tile_px=64, col=900, row=7800)
    one, other = look([COARSE], [[1, 0]]), look([far], [[1, 0]])
    assert cross_sensor_distance(one.cell_ids, one, other) is None
    assert cross_sensor_distance(one.cell_ids, one, Look.empty()) is None
