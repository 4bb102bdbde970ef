"""Judged tiles to detections: flagged neighbours joined, with kind, rarity and evidence.

Tiles that touch form a group; groups that are too small are dropped; those that lie near one another are one
detection. One flood along a river is one message, not one for each field that it covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from shapely import STRtree, orient_polygons, union_all
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from engine.calibrate import Budget
from engine.evidence import evidence_of
from engine.grid import Cell, union_lonlat
from engine.judge import Basis, DetectSettings, Judgement, judge_pair, judge_place, judge_single
from engine.look import Look
from engine.reference import Reference
from engine.tiles import BoolArray, Float32Array
from engine.tracks import Kind, Track, tracks_of


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Flagged tiles of one event, as one outline."""

    kind: Kind
    anchor_cell: str
    """The first of the cells in the order of their ids: a name for the place that rounding cannot change."""
    cell_ids: tuple[str, ...]
    geometry: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, EPSG:4326 lon/lat, exterior rings counter-clockwise."""
    area_m2: float
    """Ground covered by the flagged tiles."""
    score: float
    """Statistic of the strangest tile."""
    p_value: float
    """p-value of the strangest tile."""
    threshold: float
    """Statistic above which a tile was flagged."""
    calibration: Literal["place", "sensor"]
    """``place`` only where every tile was judged on the place's own history."""
    extrapolated: bool
    """Whether a fitted tail gave the threshold or the p-value."""
    budget: Budget | None = None
    """What the alert budget meant on the strangest tile's history; None where it had none."""
    evidence: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one look meant, tile by tile and joined."""

    cell_ids: tuple[str, ...]
    statistic: Float32Array
    p_value: Float32Array
    threshold: Float32Array
    flagged: BoolArray
    basis: tuple[Basis, ...]
    kind: tuple[Kind, ...]
    """Which track the statistic is of."""
    detections: tuple[Detection, ...]


def detect(
    look: Look,
    reference: Reference,
    sensor_calibration: Mapping[str, Float32Array],
    settings: DetectSettings,
) -> Verdict:
    """Judge every cell of a look.

    Args:
        look: the new look.
        reference: earlier looks over ``look.cell_ids``, in that order.
        sensor_calibration: the bundle's arrays of the sensor family: ``odeed`` (n,); ``pair_odeed_a``,
            ``pair_odeed_b``, ``pair_cls_distance`` and, where the family knows water, ``pair_water_a``,
            ``pair_water_b`` (m,); and with a flood model what :class:`~engine.tracks.FloodTrack` names.
        settings: budget, thresholds and weights.
    """
    cells = [Cell.parse(cell_id) for cell_id in look.cell_ids]
    neighbours = _neighbours(look.cell_ids, cells)
    anomaly, flood = tracks_of(look, reference, sensor_calibration, settings.weights)
    tracks: tuple[Track, ...] = (anomaly,) if flood is None else (anomaly, flood)
    judged = [
        judgement for track in tracks for judgement in _judge(track, look, reference, neighbours, settings, len(tracks))
    ]
    change = anomaly.change
    verdict, owner = _verdict(look, judged)
    strange = [judgement for judgement in judged if judgement.kind == "anomaly"]
    statistic, threshold, flagged = verdict.statistic, verdict.threshold, verdict.flagged
    rows_of = {cell_id: i for i, cell_id in enumerate(look.cell_ids)}
    groups = _groups([look.cell_ids[i] for i in np.flatnonzero(flagged)], neighbours)
    large = [[rows_of[cell] for cell in group] for group in groups if len(group) >= settings.min_tiles]
    large = _merged(large, [cell.polygon for cell in cells], settings.reach_m)
    detections: list[Detection] = []
    for rows in large:
        wet = [i for i in rows if owner[i].kind == "flood"]
        # How far above its own threshold: the one scale on which tiles of different bases can be compared.
        peak = max(wet or rows, key=lambda i: (float(statistic[i] - threshold[i]), look.cell_ids[i]))
        judgement = owner[peak]
        # Whichever question flagged the tile, the other one's numbers belong to the evidence too.
        parts = next(each for each in strange if peak in each.rows)
        evidence = evidence_of(rows, peak, judgement, parts, look, reference, change, flood, cells)
        new_water = bool(np.any(np.nan_to_num(change.water[rows], nan=0.0) >= settings.flood_water_share))
        detections.append(
            Detection(
                kind="flood" if wet or new_water else "anomaly",
                anchor_cell=min(look.cell_ids[i] for i in rows),
                cell_ids=tuple(sorted(look.cell_ids[i] for i in rows)),
                geometry=mapping(orient_polygons(union_lonlat(tuple(cells[i] for i in rows)))),
                area_m2=float(sum(cells[i].area_m2 for i in rows)),
                score=float(statistic[peak]),
                p_value=float(verdict.p_value[peak]),
                threshold=float(threshold[peak]),
                calibration="place" if all(verdict.basis[i] == "place" for i in rows) else "sensor",
                extrapolated=bool(judgement.extrapolated[np.flatnonzero(judgement.rows == peak)[0]]),
                budget=judgement.budget,
                evidence=evidence,
            )
        )
    return replace(verdict, detections=tuple(detections))


def _judge(
    track: Track,
    look: Look,
    reference: Reference,
    neighbours: Mapping[str, Sequence[str]],
    settings: DetectSettings,
    shares: int,
) -> list[Judgement]:
    """Every cell of a look by one track, each on the best basis that it has."""
    looks = reference.looks_per_cell
    place = np.flatnonzero(looks >= settings.min_looks)
    pair = np.flatnonzero((looks > 0) & (looks < settings.min_looks))
    single = np.flatnonzero(looks == 0)
    judged: list[Judgement] = []
    if len(place):
        judged.append(judge_place(track, place, look, reference, neighbours, settings, shares))
    if len(pair):
        judged.append(judge_pair(track, pair, settings, shares))
    if len(single):
        judged.append(judge_single(track, single, settings, shares))
    return judged


def _verdict(look: Look, judged: Sequence[Judgement]) -> tuple[Verdict, list[Judgement]]:
    """What is said of each cell, and the judgement that says it: a flood before an anomaly, else the rarer one."""
    n = len(look)
    statistic = np.full(n, np.nan, np.float32)
    p_value = np.ones(n, np.float32)
    threshold = np.full(n, np.inf, np.float32)
    flagged = np.zeros(n, np.bool_)
    owner: list[Judgement | None] = [None] * n
    for part in judged:
        above = np.nan_to_num(part.statistic, nan=-np.inf) > part.threshold
        for at, row in enumerate(part.rows):
            known = owner[row]
            # Anomalies come first in ``judged``, so a flood takes over from a flagged one.
            if known is None or above[at] or (not flagged[row] and part.p_value[at] < p_value[row]):
                owner[row] = part
                statistic[row], p_value[row] = part.statistic[at], part.p_value[at]
                threshold[row], flagged[row] = part.threshold, above[at]
    said = [part for part in owner if part is not None]
    assert len(said) == n, "every cell has a basis, and every track judges every cell"
    verdict = Verdict(
        cell_ids=look.cell_ids,
        statistic=statistic,
        p_value=p_value,
        threshold=threshold,
        flagged=flagged,
        basis=tuple(part.basis for part in said),
        kind=tuple(part.kind for part in said),
        detections=(),
    )
    return verdict, said


def _neighbours(cell_ids: Sequence[str], cells: Sequence[Cell]) -> dict[str, list[str]]:
    here = set(cell_ids)
    return {
        cell_id: [other.id for other in cell.neighbours() if other.id in here]
        for cell_id, cell in zip(cell_ids, cells, strict=True)
    }


def _groups(flagged: Sequence[str], neighbours: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Flagged cells that touch, each group sorted, groups in the order of their first cell."""
    left = set(flagged)
    groups: list[list[str]] = []
    for start in sorted(flagged):
        if start not in left:
            continue
        left.remove(start)
        group, frontier = [start], [start]
        while frontier:
            for other in neighbours[frontier.pop()]:
                if other in left:
                    left.remove(other)
                    group.append(other)
                    frontier.append(other)
        groups.append(sorted(group))
    return groups


def _merged(groups: Sequence[Sequence[int]], squares: Sequence[BaseGeometry], reach_m: float) -> list[list[int]]:
    """Groups nearer to one another than ``reach_m`` as one, rows ascending, in the order of their first row.

    ``squares``: the ground of every row, in metres.
    """
    if len(groups) < 2:
        return [list(group) for group in groups]
    outlines = [union_all([squares[i] for i in group]) for group in groups]
    tree = STRtree(outlines)
    first, second = tree.query(outlines, predicate="dwithin", distance=reach_m)
    parent = list(range(len(groups)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    merged: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        merged.setdefault(root(i), []).extend(group)
    return [sorted(rows) for rows in merged.values()]
