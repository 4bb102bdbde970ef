"""Does a correct MSAD help? Judges the ablation's runs alike, and draws seeds and queries for the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluate.bootstrap import event_draws, interval
from training.evaluate.encoders.class_table import ClassTiles
from training.evaluate.encoders.knn import vote
from training.evaluate.encoders.linear import probe
from training.evaluate.encoders.resampling import stratum_weights, unit_weights
from training.evaluate.encoders.retrieval import PairTiles
from training.evaluate.encoders.retrieval_table import ranks_of
from training.evaluate.encoders.subjects import Subject
from training.evaluate.record import rounded

Float64Array = npt.NDArray[np.float64]

RADAR = "S1→S2 recall@1"
COARSE = "coarse→fine recall@1"
KNN = "kNN accuracy"
LINEAR = "linear accuracy"
WAYS = ("cls", "tokens", "places")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure that is taken of every run: a mean of hits over queries."""

    name: str
    weights: Float64Array
    """Of the bootstrap: tiles of one image are drawn together, images within their class.  (draws, n)"""
    chance: float


Hits = Mapping[str, Float64Array]
"""By measure: 1 where a query is answered rightly.  (n,) each"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs are judged on."""

    radar: PairTiles | None
    """Sentinel-1 asks for Sentinel-2."""
    coarse: PairTiles
    """The simulated coarse sensor asks for aerial tiles."""
    classes: ClassTiles
    draws: int
    seed: int
    neighbours: int = 20

    def measures(self) -> dict[str, Measure]:
        """All that are taken, by name."""
        found: dict[str, Measure] = {}
        if self.radar is not None:
            drawn = unit_weights(np.random.default_rng((self.seed, 1)), self.radar.images, self.draws)
            for way in WAYS:
                name = f"{RADAR} ({way})"
                found[name] = Measure(name=name, weights=drawn, chance=1 / len(self.radar))
        drawn = stratum_weights(np.random.default_rng((self.seed, 2)), self.coarse.units, self.draws)
        for way in WAYS:
            name = f"{COARSE} ({way})"
            found[name] = Measure(name=name, weights=drawn, chance=1 / len(self.coarse))
        drawn = self.classes.weights(self.draws, self.seed)
        for name in (KNN, LINEAR):
            found[name] = Measure(name=name, weights=drawn, chance=1 / len(self.classes.labels))
        return found

    def judge(self, subject: Subject) -> Hits:
        """A subject's hits; a control has one way of embedding, which counts as each."""
        hits: dict[str, Float64Array] = {}
        for name, pairs in ((RADAR, self.radar), (COARSE, self.coarse)):
            if pairs is not None:
                there = {way: ranks for way, (ranks, _) in ranks_of(subject, pairs, WAYS).items()}
                for way in WAYS if there else ():
                    hits[f"{name} ({way})"] = (there.get(way, next(iter(there.values()))) == 1).astype(np.float64)
        if subject.kind == "heads" or not subject.takes("aerial"):
            return hits
        codes, wanted = self.classes.train_codes, self.classes.test_codes
        train, test = (
            next(iter(subject.embed(tiles, "aerial", ("cls",)).values()))
            for tiles in (self.classes.train, self.classes.test)
        )
        hits[KNN] = (vote(train, codes, test, self.neighbours) == wanted).astype(np.float64)
        fitted = probe(train, codes, len(self.classes.labels))
        hits[LINEAR] = (fitted.predict(test) == wanted).astype(np.float64)
        return hits


def compared(
    measure: Measure, first: Sequence[Float64Array], second: Sequence[Float64Array], seed: int
) -> dict[str, Any]:
    """What one kind of run is ahead of another by, and how many times as good it is, with intervals.

    Run k of both kinds has the same seed. Seeds and queries are drawn together, the same of both kinds: the difference
    is paired in both.

    Args:
        measure: what is compared.
        first: hits of each seed's run, (n,) each.
        second: of the other kind; as many.
        seed: of the draws of seeds.
    """
    a, b = np.stack(first), np.stack(second)  # (seeds, n)
    draws = len(measure.weights)
    seeds = event_draws(np.random.default_rng((seed, 3)), len(a), draws) / len(a)
    share = measure.weights / np.maximum(measure.weights.sum(axis=1, keepdims=True), 1)
    drawn_a, drawn_b = (np.einsum("ds,dn,sn->d", seeds, share, hits, optimize=True) for hits in (a, b))
    difference = interval(drawn_a - drawn_b, 2)
    ratios = np.full(draws, np.nan)
    np.divide(drawn_a, drawn_b, out=ratios, where=drawn_b > 0)
    ratio = interval(ratios, 2)
    mean_a, mean_b = float(a.mean()), float(b.mean())
    above = interval(drawn_a / measure.chance, 2)
    return {
        "measure": measure.name,
        "value": rounded(mean_a),
        "against": rounded(mean_b),
        "difference": rounded(mean_a - mean_b),
        "low": rounded(difference.low),
        "high": rounded(difference.high),
        "ratio": rounded(mean_a / mean_b, 3) if mean_b else None,
        "ratio_low": rounded(ratio.low, 3),
        "ratio_high": rounded(ratio.high, 3),
        "times_chance": rounded(mean_a / measure.chance, 3),
        "times_chance_low": rounded(above.low, 3),
        "times_chance_high": rounded(above.high, 3),
        "seeds": len(a),
        "n": a.shape[1],
    }


def sentence(mode: str, row: Mapping[str, Any]) -> str:
    """A verdict in words."""
    low, high = row["low"], row["high"]
    if low > 0:
        verdict = "helps"
    elif high < 0:
        verdict = "harms"
    else:
        verdict = "neither helps nor harms for sure"
    return (
        f"{row['measure']}: `{mode}` {verdict}: {row['value']:.4f} against {row['against']:.4f} without MSAD, "
        f"difference {row['difference']:+.4f} [{low:+.4f}, {high:+.4f}] over {row['n']} queries and "
        f"{row['seeds']} seeds; {row['times_chance']:.1f} times chance."
    )


def aims(
    modes: Mapping[str, Mapping[str, Mapping[str, Any]]],
    kept: Sequence[Mapping[str, Any]],
    linear_ahead: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The aims that were set beforehand, and whether they are reached.

    Args:
        modes: by corrected mode and measure, its comparison with DINO alone.
        kept: the first sensor's measures of continual runs, compared with the start; kNN has an aim.
        linear_ahead: by mode, the linear probe compared with raw pixels.
    """
    rows: list[dict[str, Any]] = []
    for mode, measures in modes.items():
        for name, row in measures.items():
            if name.startswith(RADAR):
                three = _aim(f"{mode}: {name} at least 3 times DINO alone", row["ratio"], 3.0)
                # Where DINO alone finds nothing there is no ratio, and any find is more than three times nothing.
                rows.append({**three, "reached": row["value"] > 0} if row["ratio"] is None else three)
                rows.append(_aim(f"{mode}: {name} at least 10 times chance", row["times_chance"], 10.0))
    rows += [
        _aim(f"{row['run']}: kNN of the first sensor within 2 points", row["difference"], -0.02)
        for row in kept
        if row["measure"] == KNN
    ]
    rows += [
        _aim(f"{mode}: linear probe at least 15 points above raw pixels", row["difference"], 0.15)
        for mode, row in linear_ahead.items()
    ]
    return rows


def _aim(text: str, value: float | None, at_least: float) -> dict[str, Any]:
    return {
        "aim": text,
        "value": value,
        "at_least": at_least,
        "reached": None if value is None else value >= at_least,
    }
