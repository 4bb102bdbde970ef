"""Statistics to a judgement: how rare each tile is on the best ground there is, and whether that is worth a word.

* ``place``: the cell has enough earlier looks; calibrated on the place's own history, threshold by alert budget;
* ``pair``: few earlier looks; the same statistic, calibrated on pairs of looks of the sensor family on which nothing
  had happened;
* ``single``: no earlier look; calibrated on normal tiles of the sensor family.

Each track (:mod:`engine.tracks`) is judged for itself, with an equal share of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.calibrate import Budget, Calibration, back_test
from engine.change import Change, Weights
from engine.look import Look
from engine.reference import Reference
from engine.tiles import BoolArray, Float32Array
from engine.tracks import Compared, Kind, Rows, Track

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
    """Alert budget of the area, all kinds together, on the place's own history."""
    single_false_tiles_per_1000: float = 1.0
    """At a place never seen before: share of normal tiles of the sensor that may be flagged, all kinds
    together."""
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
    """Cells judged by one track on one basis."""

    kind: Kind
    rows: Rows
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
    """The parts of an anomaly in robust standard deviations; None where there is no earlier look, and for floods."""
    calibration_size: int
    budget: Budget | None
    """What the alert budget meant on the place's history; None on the other bases."""


def judge_place(
    track: Track,
    rows: Rows,
    look: Look,
    reference: Reference,
    neighbours: Mapping[str, Sequence[str]],
    settings: DetectSettings,
    shares: int,
) -> Judgement:
    """Judge cells on their own history, for one of ``shares`` equal shares of the budget."""
    compared = track.place(rows)
    past = compared.normal  # (n, L)
    calibration = Calibration.of(past)
    ids = [look.cell_ids[i] for i in rows]
    inside = set(ids)
    budget = back_test(
        (dict(zip(ids, map(float, past[:, j]), strict=True)) for j in range(past.shape[1])),
        {cell: [other for other in neighbours[cell] if other in inside] for cell in ids},
        min_tiles=settings.min_tiles,
        alerts_per_month=settings.alerts_per_month / shares,
        looks_per_month=_looks_per_month(reference),
        calibration=calibration,
    )
    # One share supports so much; all of them together support so many times more.
    budget = replace(budget, supported_alerts_per_month=shares * budget.supported_alerts_per_month)
    return _judgement(track.kind, "place", rows, compared, calibration, (budget.threshold, budget.extrapolated), budget)


def judge_pair(track: Track, rows: Rows, settings: DetectSettings, shares: int) -> Judgement:
    """Judge cells with few earlier looks on normal pairs of the sensor family."""
    compared = track.pair(rows)
    calibration = Calibration.of(compared.normal)
    limit = calibration.threshold(settings.pair_false_tiles_per_1000 / 1000 / shares)
    return _judgement(track.kind, "pair", rows, compared, calibration, limit, None)


def judge_single(track: Track, rows: Rows, settings: DetectSettings, shares: int) -> Judgement:
    """Judge cells never seen before on normal tiles of the sensor family."""
    compared = track.single(rows)
    calibration = Calibration.of(compared.normal)
    limit = calibration.threshold(settings.single_false_tiles_per_1000 / 1000 / shares)
    return _judgement(track.kind, "single", rows, compared, calibration, limit, None)


def _judgement(
    kind: Kind,
    basis: Basis,
    rows: Rows,
    compared: Compared,
    calibration: Calibration,
    limit: tuple[float, bool],
    budget: Budget | None,
) -> Judgement:
    threshold, extrapolated = limit
    p_value, beyond = calibration.p_values(compared.now)
    return Judgement(
        kind=kind,
        rows=rows,
        basis=basis,
        statistic=compared.now,
        p_value=p_value,
        extrapolated=beyond | extrapolated,
        threshold=threshold,
        z=compared.z,
        calibration_size=len(calibration),
        budget=budget,
    )


def _looks_per_month(reference: Reference) -> float:
    """How often the place is seen, from the span of its looks; at least one month is taken as the span."""
    times = [earlier.sensing_time for earlier in reference.looks]
    months = max((max(times) - min(times)).total_seconds() / (30.44 * 86_400), 1.0)
    return max(len(times) - 1, 1) / months
