"""Tile statistics to a judgement: how strange each tile is, on the best ground there is.

* ``place``: the cell has enough earlier looks; calibrated on the place's own history, threshold by alert budget;
* ``pair``: few earlier looks; the same change statistic, calibrated on pairs of looks of the sensor family on which
  nothing had happened;
* ``single``: no earlier look; the ODEED score against the scene's own level, calibrated on normal tiles of the sensor
  family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.calibrate import Budget, Calibration, back_test
from engine.change import DETREND_MIN_TILES, Change, Scales, Weights, changes_within
from engine.look import Look
from engine.reference import Reference, log_score
from engine.tiles import BoolArray, Float32Array

Basis = Literal["place", "pair", "single"]


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """What a detection asks for."""

    min_looks: int = 5
    """Earlier looks of a cell from which its place's own history calibrates it."""
    min_tiles: int = 2
    """Flagged tiles that must touch."""
    reach_m: float = 640.0
    """Groups of flagged tiles nearer to one another than this are one detection: one Sentinel-2 cell."""
    alerts_per_month: float = 0.2
    """Alert budget of the area, on the place's own history."""
    single_false_tiles_per_1000: float = 1.0
    """At a place never seen before: share of normal tiles of the sensor that may be flagged."""
    pair_false_tiles_per_1000: float = 10.0
    """At a place with few earlier looks: share of normal pairs of the sensor that may be flagged.

    Larger, because a pair says more than a look, and because normal pairs are not all normal: the strangest hundredth
    of the shipped ones, dry by their maps, show new water over a third of the tile and more.
    """
    flood_water_share: float = 0.15
    """New open water, as a share of the tile, from which an anomalous tile is a flood."""
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Cells judged on one basis."""

    rows: npt.NDArray[np.int64]
    """Which rows of the look.  (n,)"""
    basis: Basis
    statistic: Float32Array
    """(n,)"""
    p_value: Float32Array
    """(n,)"""
    extrapolated: BoolArray
    """Whether a fitted tail gave the p-value or the threshold.  (n,)"""
    threshold: float
    z: Change | None
    """The parts of the statistic in robust standard deviations; None where there is no earlier look."""
    calibration_size: int


def judge_place(
    rows: npt.NDArray[np.int64],
    change: Change,
    look: Look,
    reference: Reference,
    neighbours: Mapping[str, Sequence[str]],
    settings: DetectSettings,
) -> tuple[Judgement, Budget]:
    """Judge cells on their own history."""
    history = changes_within(reference)
    normal = Change(odeed=history.odeed[rows], xstars=history.xstars[rows], water=history.water[rows])
    scales = Scales.of(normal)
    past = scales.joined(normal, settings.weights)  # (n, L)
    calibration = Calibration.of(past)
    ids = [look.cell_ids[i] for i in rows]
    inside = set(ids)
    budget = back_test(
        (dict(zip(ids, map(float, past[:, j]), strict=True)) for j in range(past.shape[1])),
        {cell: [other for other in neighbours[cell] if other in inside] for cell in ids},
        min_tiles=settings.min_tiles,
        alerts_per_month=settings.alerts_per_month,
        looks_per_month=_looks_per_month(reference),
        calibration=calibration,
    )
    now = _take(change, rows)
    statistic = scales.joined(now, settings.weights)
    p_value, beyond = calibration.p_values(statistic)
    part = Judgement(
        rows=rows,
        basis="place",
        statistic=statistic,
        p_value=p_value,
        extrapolated=beyond | budget.extrapolated,
        threshold=budget.threshold,
        z=scales.z(now),
        calibration_size=len(calibration),
    )
    return part, budget


def judge_pair(
    rows: npt.NDArray[np.int64],
    change: Change,
    arrays: Mapping[str, Float32Array],
    settings: DetectSettings,
) -> Judgement:
    """Judge cells with few earlier looks on normal pairs of the sensor family."""
    unknown = np.full(len(arrays["pair_odeed_a"]), np.nan, np.float32)
    normal = Change(
        odeed=log_score(arrays["pair_odeed_b"]) - log_score(arrays["pair_odeed_a"]),
        xstars=arrays["pair_cls_distance"],
        water=arrays["pair_water_b"] - arrays["pair_water_a"] if "pair_water_a" in arrays else unknown,
    )
    scales = Scales.of(normal)
    calibration = Calibration.of(scales.joined(normal, settings.weights))
    threshold, extrapolated = calibration.threshold(settings.pair_false_tiles_per_1000 / 1000)
    now = _take(change, rows)
    statistic = scales.joined(now, settings.weights)
    p_value, beyond = calibration.p_values(statistic)
    return Judgement(
        rows=rows,
        basis="pair",
        statistic=statistic,
        p_value=p_value,
        extrapolated=beyond | extrapolated,
        threshold=threshold,
        z=scales.z(now),
        calibration_size=len(calibration),
    )


def judge_single(
    rows: npt.NDArray[np.int64],
    look: Look,
    arrays: Mapping[str, Float32Array],
    settings: DetectSettings,
) -> Judgement:
    """Judge cells never seen before on normal tiles of the sensor family.

    A place may be harder to reconstruct than the calibration's places as a whole: another land, another camera. That
    is no event. So where the scene shows tiles enough, what its median lies above the calibration's is taken off;
    what stands out then is strange both for the sensor and for its own surroundings.
    """
    normal = log_score(arrays["odeed"])
    calibration = Calibration.of(normal)
    threshold, extrapolated = calibration.threshold(settings.single_false_tiles_per_1000 / 1000)
    scores = log_score(look.odeed)
    shift = float(np.median(scores) - np.median(normal)) if len(scores) >= DETREND_MIN_TILES else 0.0
    statistic = scores[rows] - np.float32(max(shift, 0.0))
    p_value, beyond = calibration.p_values(statistic)
    return Judgement(
        rows=rows,
        basis="single",
        statistic=statistic,
        p_value=p_value,
        extrapolated=beyond | extrapolated,
        threshold=threshold,
        z=None,
        calibration_size=len(calibration),
    )


def _take(change: Change, rows: npt.NDArray[np.int64]) -> Change:
    return Change(odeed=change.odeed[rows], xstars=change.xstars[rows], water=change.water[rows])


def _looks_per_month(reference: Reference) -> float:
    """How often the place is seen, from the span of its looks; at least one month is taken as the span."""
    times = [earlier.sensing_time for earlier in reference.looks]
    months = max((max(times) - min(times)).total_seconds() / (30.44 * 86_400), 1.0)
    return max(len(times) - 1, 1) / months
