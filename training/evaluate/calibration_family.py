"""The calibration of one sensor family under judgement: rows of ``vigie evaluate calibration``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.change import Change
from engine.judge import DetectSettings
from engine.reference import log_score
from engine.tracks import Kind
from training.evaluate.calibration_check import (
    Split,
    grouped,
    of_changes,
    of_values,
    random_halves,
    supported,
)
from training.evaluate.decisions import BASES, Basis, Decided, FloodModels, WhichLook, decide
from training.evaluate.record import RecordTable, rounded
from training.evaluate.scenes import Scenes
from training.running.serving import cosine_distance

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

RATES = (10.0, 1.0)
"""False tiles per 1,000."""
EITHER = "either"
"""Both tracks, each with half of the rate: what the daemon does."""
LOOKS = (5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True, kw_only=True)
class FamilyScenes:
    """What one sensor family is judged on."""

    family: str
    networks: Scenes
    """Measured by all networks."""
    colour: Scenes | None
    """More of them, or the same, with colour alone: what the flood track needs. None where a family has no such
    track."""
    models: FloodModels


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """How much is drawn."""

    splits: int = 200
    draws: int = 1000
    seed: int = 0


def halves_table(families: Sequence[FamilyScenes], how: CheckSettings) -> RecordTable:
    """(a): random halves, where the promise must hold."""
    rows: list[dict[str, Any]] = []
    for family in families:
        for basis in BASES:
            for kind, scenes in _tracks(family):
                split, tiles = _split(scenes, kind, basis, family.models)
                for rate in RATES:
                    found = random_halves(split, tiles, rate, splits=how.splits, seed=how.seed)
                    told = {name: _told(value) for name, value in asdict(found).items()}
                    rows.append({"family": family.family, "track": kind, "basis": basis, **told})
    return RecordTable(
        name="halves",
        title="Random halves of the same normal tiles",
        text="Calibrated on one half, tested on the other. Low and high are the beta-binomial interval of one split, "
        "calibration size included; *inside* is the share of splits within it, *promised* what it should be, but for "
        "the splits' being of the same tiles. Where a fitted tail set the threshold, nothing is promised.",
        rows=rows,
    )


def events_tables(families: Sequence[FamilyScenes], how: CheckSettings) -> tuple[RecordTable, RecordTable]:
    """(b): whole events left out, pooled and one by one, with the recall of flooded tiles."""
    pooled: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    for family in families:
        for basis in BASES:
            for look in _looks(basis, family.networks):
                for rate in RATES:
                    for track, scenes, flagged, decided in _decisions(family, basis, look, rate):
                        normal = scenes.dry if look == "after" else np.ones(len(scenes), dtype=np.bool_)
                        found = grouped(flagged[normal], scenes.group[normal], draws=how.draws, seed=how.seed)
                        key = {
                            "family": family.family,
                            "track": track,
                            "basis": basis,
                            "normal_tiles": "before" if look == "before" else "dry after",
                            "asked_per_1000": rate,
                        }
                        told = {name: _told(value) for name, value in asdict(found).items()}
                        calibrated_on = [int(part.calibrated_on.min()) for part in decided]
                        extrapolated = any(part.extrapolated for part in decided)
                        wet = flagged[scenes.flooded] if look == "after" else flagged[:0]
                        pooled.append(
                            {
                                **key,
                                "calibrated_on": min(calibrated_on),
                                "extrapolated": extrapolated,
                                **told,
                                "recall": rounded(float(wet.mean())) if len(wet) else None,
                                "flooded": len(wet),
                            }
                        )
                        each += [{**key, **row} for row in _per_event(scenes, flagged, normal, look)]
    return (
        RecordTable(
            name="events",
            title="Events, or classes, that nothing was calibrated on",
            text="Calibrated on all others, judged as the daemon judges, one look a scene. Low and high are "
            "bootstrapped over whole events. Lands are not exchangeable: where a rate exceeds what was asked, it is "
            "what a new place can cost. *Either* flags what one of the tracks flags at half the rate. Recall is of "
            "tiles flooded by 25 % or more, at that threshold.",
            rows=pooled,
        ),
        RecordTable(name="per_event", title="The same, event by event", text="Rates per 1,000.", rows=each),
    )


def support_table(families: Sequence[FamilyScenes], looks_per_month: float) -> RecordTable:
    """(c): what histories and calibrations of some size support."""
    asked = DetectSettings().alerts_per_month
    rows: list[dict[str, Any]] = []
    for family in families:
        tracks = len(_tracks(family))
        for looks in LOOKS:
            found = supported(looks, looks_per_month, asked, tracks)
            rows.append(
                {
                    "family": family.family,
                    "tracks": tracks,
                    "looks": looks,
                    "looks_per_month": looks_per_month,
                    "smallest_alerts_per_month": _told(found.alerts_per_month),
                    "asked": asked,
                    "asked_is_extrapolated": found.asked_is_extrapolated,
                }
            )
    return RecordTable(
        name="supported",
        title="Budgets that a place's history supports",
        text="The smallest number of alerts a month, all tracks together, that so many earlier looks can set a "
        "threshold for without a fitted tail.",
        rows=rows,
    )


def _tracks(family: FamilyScenes) -> list[tuple[Kind, Scenes]]:
    tracks: list[tuple[Kind, Scenes]] = [("anomaly", family.networks)]
    return tracks if family.colour is None else [*tracks, ("flood", family.colour)]


def _looks(basis: Basis, scenes: Scenes) -> tuple[WhichLook, ...]:
    # A simulated later look of an aerial tile is none that a place never seen before would give.
    return ("after",) if basis == "pair" else ("before", "after") if scenes.flooded.any() else ("before",)


def _split(scenes: Scenes, kind: Kind, basis: Basis, models: FloodModels) -> tuple[Split, int]:
    if kind == "flood":
        values = np.full(len(scenes), np.nan, dtype=np.float32)
        for group in np.unique(scenes.group):
            rows = scenes.group == group
            model = models(scenes.groups[int(group)])
            assert model is not None, "there is no flood track without a model"
            before, after = scenes.before.spectrum[rows], scenes.after.spectrum[rows]
            values[rows] = model.of_look(before) if basis == "single" else model.of_change(after, before)
        values = values if basis == "single" else values[scenes.dry]
        return of_values(values), len(values)
    if basis == "single":
        return of_values(log_score(scenes.before.odeed)), len(scenes)
    dry = scenes.dry
    before, after = scenes.before, scenes.after
    change = Change(
        odeed=(log_score(after.odeed) - log_score(before.odeed))[dry],
        xstars=cosine_distance(before.cls, after.cls)[dry],
        water=(after.water - before.water)[dry],
    )
    weights = DetectSettings().weights
    if models(scenes.groups[int(scenes.group[0])]) is not None:
        # As tracks_of has it: what a flood model judges is no anomaly's.
        weights = type(weights)(odeed=weights.odeed, xstars=weights.xstars, water=0.0)
    return of_changes(change, weights), int(dry.sum())


def _decisions(
    family: FamilyScenes, basis: Basis, look: WhichLook, rate: float
) -> list[tuple[str, Scenes, BoolArray, list[Decided]]]:
    found: list[tuple[str, Scenes, BoolArray, list[Decided]]] = []
    for kind, scenes in _tracks(family):
        (decided,) = decide(scenes, kind, basis, look, [rate], family.models)
        found.append((kind, scenes, decided.flagged, [decided]))
    if family.colour is not None:
        parts = [
            decide(family.networks, kind, basis, look, [rate / 2], family.models)[0] for kind, _ in _tracks(family)
        ]
        found.append((EITHER, family.networks, parts[0].flagged | parts[1].flagged, parts))
    return found


def _per_event(scenes: Scenes, flagged: BoolArray, normal: BoolArray, look: WhichLook) -> list[dict[str, Any]]:
    rows = []
    for group in np.unique(scenes.group):
        own = scenes.group == group
        quiet, wet = flagged[own & normal], flagged[own & scenes.flooded]
        judged = look == "after" and len(wet) > 0
        rows.append(
            {
                "event": scenes.groups[int(group)],
                "per_1000": rounded(float(1000 * quiet.mean())) if len(quiet) else None,
                "tiles": len(quiet),
                "recall": rounded(float(wet.mean())) if judged else None,
                "flooded": len(wet) if judged else 0,
            }
        )
    return rows


def _told(value: Any) -> Any:
    return rounded(value) if isinstance(value, float) else value
