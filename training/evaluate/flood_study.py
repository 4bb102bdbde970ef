"""The flood model judged by leaving out one event after the other: its variants, and in other light."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.flood import FloodModel
from engine.tiles import Float32Array
from training.data.heldout import FloodTiles
from training.evaluate.bootstrap import PairCounts, event_draws, interval
from training.evaluate.protocol import FLOODED_FROM
from training.flood.fit import FloodExamples, FloodFit, examples_of, features_of, fit_flood_model, relit
from training.flood.logistic import fit_logistic

Scores = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""Of the look after given the one before, and the other way round.  (n,), (n,)"""

Variant = Callable[[str, Float32Array, Float32Array], Float32Array]
"""An event, the features of a look and of the other look (n, K) to scores (n,)."""

LIGHTS: Mapping[str, tuple[float, float, bool]] = {
    "as it is": (1.0, 0.0, True),
    "both looks x 0.8": (0.8, 0.0, True),
    "both looks x 1.2": (1.2, 0.0, True),
    "both looks + 0.02": (1.0, 0.02, True),
    "both looks - 0.02": (1.0, -0.02, True),
    "new look x 0.8": (0.8, 0.0, False),
    "new look x 1.2": (1.2, 0.0, False),
    "new look + 0.02": (1.0, 0.02, False),
    "new look - 0.02": (1.0, -0.02, False),
}
"""Gain and offset in reflectance, and whether both looks are in that light."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One variant in one light, every event judged by a model that was fitted without it."""

    variant: str
    light: str
    flooded_vs_dry: float
    flooded_vs_dry_low: float | None
    flooded_vs_dry_high: float | None
    after_vs_before: float
    after_vs_before_low: float | None
    after_vs_before_high: float | None
    recall: float
    """Share of flooded tiles at log odds above 0."""
    false_rate: float
    """Share of dry after-tiles at log odds above 0."""


def study(
    tiles: FloodTiles, bands: Sequence[str], how: FloodFit, *, draws: int, seed: int, say: Callable[[str], None]
) -> list[StudyRow]:
    """Fit every variant without each event in turn, and judge it there: as it is, and the shipped ones in other light.

    Raises:
        TrainingDataInvalid: without some event, one kind of tiles is missing.
    """
    plain = examples_of(tiles, bands)
    varied = examples_of(tiles, bands, how, np.random.default_rng((seed, 0xF1D)))
    events = np.unique(plain.events)
    models: dict[str, FloodModel] = {}
    joints: dict[str, npt.NDArray[np.floating]] = {}
    for event in events:
        others = varied.of_events([event], but=True)
        models[event], joints[event] = fit_flood_model(others, how), _joint(others, how)
        say(f"fitted without event {event}")

    def by_event(
        of: Callable[[str, Float32Array, Float32Array], Float32Array], a: Float32Array, b: Float32Array
    ) -> Scores:
        now, earlier = np.zeros(len(a)), np.zeros(len(a))
        for event in events:
            rows = plain.events == event
            now[rows], earlier[rows] = of(event, a[rows], b[rows]), of(event, b[rows], a[rows])
        return now, earlier

    variants: dict[str, Variant] = {
        "water index (control)": lambda _, a, b: a[:, 0],
        "water index, difference (control)": lambda _, a, b: a[:, 0] - b[:, 0],
        "one look (shipped)": lambda event, a, _: models[event].of_look(a),
        "difference alone": lambda event, a, b: _linear(models[event].gain, a - b),
        "one logistic model of look and difference": lambda event, a, b: _linear(joints[event], np.hstack([a, a - b])),
        "smooth minimum of both (shipped-paired)": lambda event, a, b: models[event].of_change(a, b),
    }
    weights = event_draws(np.random.default_rng((seed, 0xB00)), len(events), draws)
    rows = []
    for light, (gain, offset, both) in LIGHTS.items():
        after = plain.after if light == "as it is" else features_of(relit(tiles.after, gain, offset), bands)
        changed = both and light != "as it is"
        before = features_of(relit(tiles.before, gain, offset), bands) if changed else plain.before
        for name, of in variants.items():
            if light == "as it is" or "shipped" in name:
                rows.append(_row(name, light, by_event(of, after, before), plain, weights))
        say(f"judged {light}")
    return rows


def _row(variant: str, light: str, scores: Scores, plain: FloodExamples, weights: npt.NDArray[np.float64]) -> StudyRow:
    now, earlier = scores
    much, none = plain.flooded >= FLOODED_FROM, plain.flooded == 0
    codes = np.unique(plain.events, return_inverse=True)[1]
    count = int(codes.max()) + 1
    dry = PairCounts.of(now[much], now[none], codes[much], codes[none], count)
    past = PairCounts.of(now[much], earlier[much], codes[much], codes[much], count)
    dry_range, past_range = (interval(each.drawn(weights), count) for each in (dry, past))
    return StudyRow(
        variant=variant,
        light=light,
        flooded_vs_dry=dry.auroc() or 0.0,
        flooded_vs_dry_low=dry_range.low,
        flooded_vs_dry_high=dry_range.high,
        after_vs_before=past.auroc() or 0.0,
        after_vs_before_low=past_range.low,
        after_vs_before_high=past_range.high,
        recall=float((now[much] > 0).mean()),
        false_rate=float((now[none] > 0).mean()),
    )


def _joint(examples: FloodExamples, how: FloodFit) -> npt.NDArray[np.floating]:
    """The variant that was not taken: one logistic model of look and difference together.  (2K + 1,)"""
    much, none = examples.flooded >= FLOODED_FROM, examples.flooded == 0
    forth = np.hstack([examples.after, examples.after - examples.before])
    back = np.hstack([examples.before, examples.before - examples.after])
    features = np.concatenate([forth[much], forth[none], back])
    events = np.concatenate([examples.events[much], examples.events[none], examples.events])
    positive = np.arange(len(features)) < much.sum()
    _, code, size = np.unique(events, return_inverse=True, return_counts=True)
    return fit_logistic(features, positive, 1 / np.sqrt(size[code]), penalty=how.penalty)


def _linear(weights: npt.NDArray[np.floating], features: Float32Array) -> Float32Array:
    return np.asarray(features @ weights[:-1] + weights[-1], dtype=np.float32)
