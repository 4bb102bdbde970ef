"""The daemon's own decisions on scenes of an event (or class) that nothing was calibrated or fitted on.

Each scene is one look, judged by :func:`engine.judge.judge_single` or :func:`engine.judge.judge_pair` with calibration
arrays measured on the scenes of all other events. So the rates found here include all that the daemon does to a look,
such as taking off the median of a scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from engine.flood import ARRAYS, FloodModel
from engine.judge import DetectSettings, Judgement, judge_pair, judge_single
from engine.reference import EarlierLook, Reference
from engine.tiles import Float32Array
from engine.tracks import Kind, Track, tracks_of
from training.errors import TrainingDataInvalid
from training.evaluate.scenes import Scenes
from training.flood.fit import FloodExamples, FloodFit, fit_flood_model
from training.running.serving import cosine_distance

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

Basis = Literal["single", "pair"]
BASES: tuple[Basis, ...] = ("single", "pair")
WhichLook = Literal["before", "after"]
FloodModels = Callable[[str], FloodModel | None]
"""The flood model that judges an event; None: there is none, and no flood track."""

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What one track said of the tiles of all scenes, each judged by what the others' events calibrate."""

    kind: Kind
    basis: Basis
    look: WhichLook
    per_1000: float
    """Normal tiles that this track may flag."""
    statistic: Float32Array
    """(T,)"""
    threshold: npt.NDArray[np.float64]
    """Of the tile's own event.  (T,)"""
    calibrated_on: IntArray
    """Normal tiles of the other events.  (T,)"""

    @property
    def margin(self) -> npt.NDArray[np.float64]:
        """Statistic less threshold; −inf where the statistic is unknown.  (T,)"""
        return np.where(np.isfinite(self.statistic), self.statistic - self.threshold, -np.inf)

    @property
    def flagged(self) -> BoolArray:
        """(T,)"""
        return np.asarray(self.margin > 0)

    @property
    def extrapolated(self) -> bool:
        """Whether some event's calibration was too small for the rate, so that a fitted tail set the threshold."""
        return bool((np.floor(self.per_1000 / 1000 * (self.calibrated_on + 1)) < 1).any())


def calibration_arrays(scenes: Scenes, model: FloodModel | None) -> dict[str, Float32Array]:
    """What a bundle's calibration file would hold of some scenes: all earlier looks, and all pairs that stayed dry."""
    before, after = scenes.before, scenes.after
    dry = scenes.dry
    arrays = {
        "odeed": before.odeed,
        "spectrum": before.spectrum,
        "pair_odeed_a": before.odeed[dry],
        "pair_odeed_b": after.odeed[dry],
        "pair_cls_distance": cosine_distance(before.cls[dry], after.cls[dry]),
        "pair_spectrum_a": before.spectrum[dry],
        "pair_spectrum_b": after.spectrum[dry],
    }
    if np.isfinite(before.water).any():
        arrays |= {"pair_water_a": before.water[dry], "pair_water_b": after.water[dry]}
    if model is not None:
        arrays |= dict(zip(ARRAYS, (model.now, model.gain), strict=True))
    return arrays


def decide(
    scenes: Scenes, kind: Kind, basis: Basis, look: WhichLook, per_1000: Sequence[float], models: FloodModels
) -> list[Decided]:
    """Judge all scenes by one track, event by event, for several rates.

    Args:
        scenes: of two events or more.
        kind: the track.
        basis: ``single``: nothing is known from before; ``pair``: one earlier look.
        look: which look is new; ``before`` on the basis ``single`` only.
        per_1000: normal tiles that the track may flag.
        models: the flood models; they decide which parts the anomaly track has, too.

    Raises:
        InputMismatch: the earlier look is to be judged as a pair.
        TrainingDataInvalid: there is but one event, or there is no flood model for the flood track.
    """
    if look == "before" and basis == "pair":
        raise InputMismatch("the earlier look has none before it; judge it on the basis 'single'")
    present = np.unique(scenes.group)
    if len(present) < 2:
        raise TrainingDataInvalid(
            f"the scenes are all of {scenes.groups[int(present[0])]!r}; to leave one event out, two or more are needed"
        )
    total = len(scenes)
    statistic = np.full(total, np.nan, dtype=np.float32)
    thresholds = np.full((len(per_1000), total), np.inf)
    size = np.zeros(total, dtype=np.int64)
    for group in present:
        own = np.flatnonzero(scenes.group == group)
        arrays = calibration_arrays(scenes.take(scenes.group != group), models(scenes.groups[int(group)]))
        for scene in np.unique(scenes.scene[own]):
            rows = own[scenes.scene[own] == scene]
            here = scenes.take(rows)
            track = _track(here, kind, basis, look, arrays)
            for i, rate in enumerate(per_1000):
                judged = _judged(track, basis, len(rows), rate)
                statistic[rows], thresholds[i, rows] = judged.statistic, judged.threshold
                size[rows] = judged.calibration_size
    return [
        Decided(
            kind=kind,
            basis=basis,
            look=look,
            per_1000=rate,
            statistic=statistic,
            threshold=threshold,
            calibrated_on=size,
        )
        for rate, threshold in zip(per_1000, thresholds, strict=True)
    ]


def refitted(scenes: Scenes, how: FloodFit) -> FloodModels:
    """For each event a flood model fitted on the maps of all others, in their own light; fitted once each."""
    known: dict[str, FloodModel] = {}
    examples = FloodExamples(
        before=scenes.before.spectrum,
        after=scenes.after.spectrum,
        flooded=scenes.share,
        events=np.asarray([scenes.groups[i] for i in scenes.group]),
    )

    def model(event: str) -> FloodModel:
        if event not in known:
            known[event] = fit_flood_model(examples.of_events([event], but=True), how)
        return known[event]

    return model


def _track(scenes: Scenes, kind: Kind, basis: Basis, which: WhichLook, arrays: Mapping[str, Float32Array]) -> Track:
    look = scenes.before if which == "before" else scenes.after
    earlier = (
        [EarlierLook(scene_id="before", sensing_time=_ANY_TIME, look=scenes.before)]
        if basis == "pair"
        else list[EarlierLook]()
    )
    reference = Reference.over(look.cell_ids, earlier, reference_id="judged")
    anomaly, flood = tracks_of(look, reference, arrays, DetectSettings().weights)
    if kind == "anomaly":
        return anomaly
    if flood is None:
        raise TrainingDataInvalid("there is no flood model to judge by; give a bundle with one, or masks to fit one on")
    return flood


def _judged(track: Track, basis: Basis, tiles: int, per_1000: float) -> Judgement:
    settings = replace(DetectSettings(), single_false_tiles_per_1000=per_1000, pair_false_tiles_per_1000=per_1000)
    judge = judge_single if basis == "single" else judge_pair
    return judge(track, np.arange(tiles), settings, 1)
