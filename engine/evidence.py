"""What a detection can say for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.change import Change, nearest_look
from engine.grid import Cell
from engine.judge import Judgement
from engine.look import Look
from engine.reference import Reference
from engine.tiles import Float32Array
from engine.tracks import FloodTrack


def evidence_of(
    rows: Sequence[int],
    peak: int,
    judgement: Judgement,
    strange: Judgement,
    look: Look,
    reference: Reference,
    change: Change,
    flood: FloodTrack | None,
    cells: Sequence[Cell],
) -> dict[str, Any]:
    """Plain numbers for the alert: the strangest tile's scores and distances, the water of all tiles.

    Args:
        rows: the flagged rows of the look.
        peak: the strangest of them.
        judgement: the judgement that flagged ``peak``.
        strange: the judgement of ``peak`` as an anomaly, the same one or not: it has the learned changes.
        look: the new look.
        reference: its reference, over the same cells.
        change: the differences from the reference.
        flood: the flood question, where the sensor family has one.
        cells: the cells of the look's rows.
    """
    at = int(np.flatnonzero(strange.rows == peak)[0])
    return {
        "basis": judgement.basis,
        "looks": int(reference.looks_per_cell[peak]),
        "calibration_tiles": judgement.calibration_size,
        "peak_cell": look.cell_ids[peak],
        "odeed": {
            "score": _number(look.odeed[peak]),
            "log_change": _number(change.odeed[peak]),
            "z": _number(strange.z.odeed[at]) if strange.z else None,
        },
        "flood": _flood(peak, flood),
        "xstars": _xstars(peak, at, strange, look, reference),
        "water": _water(look.water[rows], change.water[rows], np.asarray([cells[i].area_m2 for i in rows])),
    }


def _flood(peak: int, flood: FloodTrack | None) -> dict[str, Any] | None:
    if flood is None:
        return None
    return {
        "log_odds": _number(flood.statistic()[peak]),
        "log_odds_now": _number(flood.model.of_look(flood.look.spectrum[peak])),
    }


def _xstars(peak: int, at: int, strange: Judgement, look: Look, reference: Reference) -> dict[str, Any] | None:
    distance, which = nearest_look(look.cls[peak], reference.cls[peak])
    if which < 0 or strange.z is None:
        return None
    nearest = reference.looks[which]
    return {
        "distance": _number(distance),
        "z": _number(strange.z.xstars[at]),
        "nearest_scene": nearest.scene_id,
        "nearest_sensing_time": nearest.sensing_time.isoformat().replace("+00:00", "Z"),
    }


def _water(now: Float32Array, gain: Float32Array, ground_m2: Float32Array) -> dict[str, Any] | None:
    known, compared = np.isfinite(now), np.isfinite(gain)
    if not known.any():
        return None
    water: dict[str, Any] = {
        "share_now": _number(now[known].mean()),
        "share_reference": None,
        "gain": None,
        "gain_peak": None,
        "new_water_m2": None,
    }
    if compared.any():
        water["share_reference"] = _number((now - gain)[compared].mean())
        water["gain"] = _number(gain[compared].mean())
        water["gain_peak"] = _number(gain[compared].max())
        water["new_water_m2"] = _number((np.maximum(gain, 0.0) * ground_m2)[compared].sum())
    return water


def _number(value: Any) -> float | None:
    """Six significant digits, or null: JSON has no NaN."""
    number = float(value)
    return float(f"{number:.6g}") if np.isfinite(number) else None
