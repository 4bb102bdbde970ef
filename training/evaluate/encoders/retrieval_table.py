"""Every subject on every pair of sensors, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.evaluate.encoders.resampling import stratum_weights, unit_weights
from training.evaluate.encoders.retrieval import (
    Float32Array,
    Float64Array,
    IntArray,
    PairTiles,
    Recall,
    direction,
    ranks,
    turned_round,
)
from training.evaluate.encoders.subjects import WAYS, Subject
from training.evaluate.scenes import Progress


def judge_pairs(
    pairs: PairTiles,
    subjects_on: Callable[[Float32Array, int], Sequence[Subject]],
    draws: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of a table, encoders first and chance last.

    Args:
        pairs: the tiles.
        subjects_on: gives the subjects; it is told both sensors' tiles, whose moments standardise random weights.
        draws: of the bootstrap.
        seed: of random weights and draws.
        progress: told of each subject.
    """
    subjects = subjects_on(np.concatenate([pairs.first, pairs.second]), seed)
    weights, units = weights_of(pairs, draws, seed)
    rows: list[dict[str, Any]] = []
    for number, subject in enumerate(subjects):
        for way, (there, back) in ranks_of(subject, pairs).items():
            for asked, found in ((pairs, there), (turned_round(pairs), back)):
                rows.append(_row(asked, subject, way, Recall.of(found, weights, units)))
        progress(pairs.task, number + 1, len(subjects))
    chance = Recall.by_chance(len(pairs), units)
    both = (pairs, turned_round(pairs))
    rows += [
        {
            "task": pairs.task,
            "direction": direction(asked),
            "subject": "chance",
            "kind": "control",
            "embedding": "–",
            **chance.to_row(),
        }
        for asked in both
    ]
    order = [direction(asked) for asked in both]
    return sorted(rows, key=lambda row: order.index(row["direction"]))


def ranks_of(subject: Subject, pairs: PairTiles, ways: Sequence[str] = WAYS) -> dict[str, tuple[IntArray, IntArray]]:
    """Ranks by way of embedding, first sensor asking and second sensor asking; nothing where a sensor has no head."""
    if not subject.takes(*pairs.sensors):
        return {}
    # A head is known by the name that the training gave the sensor, a date included; a trunk by the sensor alone.
    a, b = (
        subject.embed(tiles, sensor, ways)
        for sensor, tiles in zip(pairs.sensors, (pairs.first, pairs.second), strict=True)
    )
    return {way: (ranks(a[way], b[way]), ranks(b[way], a[way])) for way in a}


def weights_of(pairs: PairTiles, draws: int, seed: int) -> tuple[Float64Array, int]:
    """The bootstrap's weights, and of how many units: events, or images within their class."""
    rng = np.random.default_rng((seed, 0xB0))
    if pairs.simulated:
        return stratum_weights(rng, pairs.units, draws), len(pairs)
    return unit_weights(rng, pairs.units, draws), len(pairs.unit_names)


def _row(pairs: PairTiles, subject: Subject, way: str, recall: Recall) -> dict[str, Any]:
    return {
        "task": pairs.task,
        "direction": direction(pairs),
        "subject": subject.name,
        "kind": subject.kind,
        "embedding": way,
        **recall.to_row(),
    }
