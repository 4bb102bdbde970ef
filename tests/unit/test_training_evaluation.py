"""Verdicts and controls against counted examples."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.heldout import FloodTiles
from training.evaluate.evaluation import ColourModel, controls, judge


def tiles_with(flooded: np.ndarray, events: tuple[str, ...]) -> FloodTiles:
    """Tiles of one pixel, of which nothing but flood and event matters."""
    pixels, known = np.zeros((len(flooded), 3, 1, 1), np.float32), np.ones((len(flooded), 1, 1), bool)
    return FloodTiles(
        before=pixels,
        after=pixels,
        flooded=flooded.astype(np.float32),
        mask=flooded[:, None, None] > 0,
        known=known,
        events=events,
    )


def test_a_verdict_judges_within_events() -> None:
    """Inside each event the score is perfect; between events its level jumps, which the pooled figure feels."""
    judged = tiles_with(np.array([1, 1, 0, 0, 1, 1, 0, 0]), ("A",) * 4 + ("B",) * 4)
    verdict = judge(np.array([2.0, 2, 1, 1, 12, 12, 11, 11]), judged, fewest=2)
    assert verdict.by_event == {"A": 1.0, "B": 1.0}
    assert verdict.mean_of_events == 1.0
    assert verdict.pooled == pytest.approx(0.75)
    assert judge(np.arange(8.0), judged, fewest=3).by_event == {}


def test_tiles_flooded_a_little_are_not_judged() -> None:
    judged = tiles_with(np.array([0.3, 0.1, 0.0]), ("A", "A", "A"))
    assert judge(np.array([1.0, -5.0, 0.0]), judged).pooled == 1.0


def test_colour_distance_is_mahalanobis() -> None:
    colours = np.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]])[:, :, None, None]
    model = ColourModel.of(colours)
    # Sample variances: 2/3 and 8/3.
    distance = model.distance(np.array([[1.0, 2.0]])[:, :, None, None])
    assert distance[0] == pytest.approx(1 / (2 / 3) + 4 / (8 / 3))


def test_controls_of_a_known_tile() -> None:
    tile = np.empty((1, 3, 2, 2), np.float32)
    tile[0, 0] = [[0.05, 0.05], [0.05, 0.3]]
    tile[0, 1], tile[0, 2] = 0.2, 0.1
    normal = np.random.default_rng(0).random((20, 3, 2, 2))
    scores = controls(tile, ColourModel.of(normal), dark_swir=0.1)
    assert scores["share of dark SWIR"][0] == pytest.approx(0.75)
    assert scores["mean NIR, negated"][0] == pytest.approx(-0.2)
    index = (3 * (0.1 - 0.05) / 0.15 + (0.1 - 0.3) / 0.4) / 4
    assert scores["water index (red - SWIR) / (red + SWIR)"][0] == pytest.approx(index, rel=1e-5)
    x = np.array([0.05, 0.05, 0.05, 0.3, *[0.2] * 4, *[0.1] * 4]) * 2 - 1
    assert scores["energy, mean of x²"][0] == pytest.approx((x**2).mean(), rel=1e-5)
