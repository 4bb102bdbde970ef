"""Every subject on the held-out half of a class folder: accuracies with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.classfolder import ClassFolder
from training.evaluate.encoders.preprocessing import Preprocessing, whole_images
from training.evaluate.encoders.resampling import mean_interval, stratum_weights
from training.evaluate.encoders.subjects import Subject
from training.evaluate.record import rounded
from training.evaluate.scenes import Progress

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Classify = Callable[[Float32Array, IntArray, Float32Array], tuple[IntArray, Mapping[str, Any]]]
"""Train features (n, D), their classes and test features (m, D) to classes (m,) and what else the row tells."""

WAYS = ("cls", "tokens")
"""Patch tokens in their places are no embedding of an image."""


@dataclass(frozen=True, kw_only=True)
class ClassTiles:
    """Both halves of a class folder as tiles."""

    labels: tuple[str, ...]
    train: Float32Array
    """Reflectance.  (n, C, H, W)"""
    train_codes: IntArray
    """Number of the label.  (n,)"""
    test: Float32Array
    test_codes: IntArray

    @classmethod
    def open(cls, folder: ClassFolder, how: Preprocessing) -> ClassTiles:
        """Read both halves."""
        names = folder.labels
        train, test = folder.halves()
        train_codes, test_codes = (
            np.array([names.index(image.label) for image in half], dtype=np.int64) for half in (train, test)
        )
        return cls(
            labels=names,
            train=whole_images(train, how),
            train_codes=train_codes,
            test=whole_images(test, how),
            test_codes=test_codes,
        )

    def weights(self, draws: int, seed: int) -> Float64Array:
        """The bootstrap's: test images drawn within their class.  (draws, m)"""
        return stratum_weights(np.random.default_rng((seed, 0xC1)), self.test_codes, draws)


def judge_classes(
    tiles: ClassTiles,
    subjects: Sequence[Subject],
    classify: Classify,
    weights: Float64Array,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each subject and way of embedding, chance last; and a row for each class, a column a subject."""
    rows: list[dict[str, Any]] = []
    by_class: dict[str, npt.NDArray[np.float64]] = {}
    for number, subject in enumerate(subjects):
        train, test = (subject.embed(part, "aerial", WAYS) for part in (tiles.train, tiles.test))
        for way in train:
            predicted, more = classify(train[way], tiles.train_codes, test[way])
            hits = (predicted == tiles.test_codes).astype(np.float64)
            rows.append({**accuracy_row(subject.name, subject.kind, way, hits, weights), **more})
            by_class.setdefault(subject.name, hits)
        progress("subjects", number + 1, len(subjects))
    extra = dict.fromkeys(rows[0].keys() - CHANCE_KEYS)
    rows.append({**chance_row(tiles), **extra})
    order = list(rows[0])
    rows = [{key: row[key] for key in order} for row in rows]
    return rows, class_rows(tiles, by_class)


def class_rows(tiles: ClassTiles, hits: Mapping[str, Float64Array]) -> list[dict[str, Any]]:
    """A row for each class: how many test images it has, and what share of them each subject is right about."""
    return [
        {"class": label, "n": int((tiles.test_codes == code).sum())}
        | {name: rounded(float(right[tiles.test_codes == code].mean())) for name, right in hits.items()}
        for code, label in enumerate(tiles.labels)
    ]


def accuracy_row(name: str, kind: str, way: str, hits: Float64Array, weights: Float64Array) -> dict[str, Any]:
    """One subject's accuracy, 0..1, with the middle 95 % of the draws."""
    between = mean_interval(hits, weights, len(hits))
    return {
        "subject": name,
        "kind": kind,
        "embedding": way,
        "accuracy": rounded(float(hits.mean())),
        "low": rounded(between.low),
        "high": rounded(between.high),
        "n": len(hits),
    }


CHANCE_KEYS = frozenset({"subject", "kind", "embedding", "accuracy", "low", "high", "n"})


def chance_row(tiles: ClassTiles) -> dict[str, Any]:
    """What guessing any class comes to, exactly."""
    return {
        "subject": "chance",
        "kind": "control",
        "embedding": "–",
        "accuracy": rounded(1 / len(tiles.labels)),
        "low": None,
        "high": None,
        "n": len(tiles.test_codes),
    }
