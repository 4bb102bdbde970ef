"""Cascades on scenes: the daemon's decision as the full one, colour as the cheap ones; rows and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.look import Look
from engine.tiles import TileBatch
from training.evaluate.cascade import Cascade, Costs, LeftOut, curve, left_out
from training.evaluate.decisions import Basis, FloodModels, decide
from training.evaluate.figures import figure_of, png_of
from training.evaluate.record import RecordTable, rounded
from training.evaluate.scenes import Measure, Scenes

Float64Array = npt.NDArray[np.float64]

Full = Literal["decision", "anomaly"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The full decision of every tile, and the scores that may go before it."""

    margin: Float64Array
    """Largest statistic less threshold of the tracks: above 0 the tile is flagged.  (T,)"""
    cheap: Mapping[str, Float64Array]
    """By name.  (T,) each"""
    extrapolated: bool
    """Whether a fitted tail set a threshold."""


class TimedMeasure:
    """A measure that knows how long it took."""

    def __init__(self, measure: Measure, monotonic: Callable[[], float]) -> None:
        self._measure = measure
        self._monotonic = monotonic
        self._seconds = 0.0
        self._tiles = 0

    def __call__(self, batch: TileBatch) -> Look:
        """See :class:`training.evaluate.scenes.Measure`."""
        began = self._monotonic()
        look = self._measure(batch)
        self._seconds += self._monotonic() - began
        self._tiles += len(batch)
        return look

    @property
    def ms_per_tile(self) -> float:
        """Of one look; 0 where nothing was measured."""
        return 1000 * self._seconds / self._tiles if self._tiles else 0.0


def decision_of(scenes: Scenes, full: Full, basis: Basis, per_1000: float, models: FloodModels) -> Decision:
    """Judge the later looks of all scenes, each by what the other events calibrate.

    ``decision`` is what the daemon does: both tracks, each with half of the rate. ``anomaly`` is the label-free track
    alone, with all of it. The flood model's log odds, and the controls, are the cheap scores.

    Raises:
        TrainingDataInvalid: there is but one event.
    """
    share = per_1000 / 2 if full == "decision" else per_1000
    (anomaly,) = decide(scenes, "anomaly", basis, "after", [share], models)
    (flood,) = decide(scenes, "flood", basis, "after", [share], models)
    parts = [anomaly, flood] if full == "decision" else [anomaly]
    # Log odds mean the same in every event, even by models that were fitted without it.
    cheap = {"flood-log-odds": flood.statistic.astype(np.float64)}
    return Decision(
        margin=np.max([part.margin for part in parts], axis=0),
        cheap=cheap | {name: values.astype(np.float64) for name, values in scenes.controls.items()},
        extrapolated=any(part.extrapolated for part in parts),
    )


def cascades_of(scenes: Scenes, decision: Decision, costs: Costs, keep: float) -> dict[str, LeftOut]:
    """The cascade of every cheap score, its limit chosen without the event that it is applied to."""
    events = [scenes.groups[i] for i in scenes.group]
    return {
        name: left_out(
            scores,
            decision.margin,
            scenes.flooded,
            events,
            threshold=0.0,
            costs=costs,
            keep=keep,
            normal=scenes.dry,
        )
        for name, scores in decision.cheap.items()
    }


def cascade_tables(cascades: Mapping[str, LeftOut]) -> tuple[RecordTable, RecordTable]:
    """All events together, and one by one."""
    pooled = [{"cheap": name, **_row(found.pooled)} for name, found in cascades.items()]
    each = [
        {"cheap": name, "event": event, "limit": rounded(found.limits[event]), **_row(part)}
        for name, found in cascades.items()
        for event, part in found.by_event.items()
    ]
    return (
        RecordTable(
            name="cascades",
            title="Cascades, all events together",
            text="The limit of the cheap score was chosen on all other events, to keep the asked share of the tiles "
            "that the full decision finds there. *Kept* is that share here. Cost is relative to the full decision on "
            "every tile; *normal* is of dry tiles alone, as nearly all are in service; so is *false*.",
            rows=pooled,
        ),
        RecordTable(
            name="per_event",
            title="The same, event by event",
            text="The limit is the one that the other events chose.",
            rows=each,
        ),
    )


def cascade_png(scenes: Scenes, decision: Decision, cascades: Mapping[str, LeftOut], keep: float) -> bytes | None:
    """Kept recall against the share of normal tiles that goes on; dots are the limits chosen on other events.

    None where the full decision finds nothing, or there is no normal tile.
    """
    flagged, wet = decision.margin > 0, scenes.flooded
    if not (flagged & wet).any() or not scenes.dry.any():
        return None
    figure = figure_of(7.0, 5.0)
    axis = figure.subplots()
    for name, scores in decision.cheap.items():
        passed, kept = curve(scores, flagged, wet, scenes.dry)
        (line,) = axis.plot(passed, kept, label=name, linewidth=1.6, drawstyle="steps-post")
        found = cascades[name].pooled
        if found.passed_normal is not None and found.kept is not None:
            axis.plot([found.passed_normal], [found.kept], "o", color=line.get_color())
    axis.axhline(keep, color="#bbbbbb", linewidth=1)
    axis.axvline(0.2, color="#bbbbbb", linewidth=1)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("share of normal tiles that goes on to the full decision")
    axis.set_ylabel("kept share of what the full decision finds")
    axis.legend(loc="lower right", frameon=False)
    axis.grid(color="#e5e5e5")
    return png_of(figure)


def notes_of(full: Full, keep: float, cheap: Sequence[str]) -> list[str]:
    """Sentences on how the limits were chosen."""
    told = "what either track flags at half of the rate" if full == "decision" else "what the anomaly track flags"
    return [
        f"The full decision is {told}, calibrated on all other events.",
        f"For each event, the limit is the highest at which {keep:.0%} of the flooded tiles that the full decision "
        "finds on all other events go on.",
        f"The cost of {', '.join(cheap)} is that of the whole colour pass, which is more than any of them needs.",
    ]


def _row(found: Cascade) -> dict[str, Any]:
    return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(found).items()}
