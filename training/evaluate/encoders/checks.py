"""Two quick figures of an encoder, each beside chance and beside plain pixels: class by neighbours, place by date."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.encoders.knn import vote
from training.evaluate.encoders.retrieval import ranks

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share of right answers, 0..1, and what it must beat."""

    name: str
    encoder: float
    pixels: float
    """The same with plain pixels, area-averaged to 8 px and centred, in place of embeddings."""
    chance: float


def neighbour_accuracy(
    train: Float32Array, train_labels: list[str], test: Float32Array, test_labels: list[str], k: int = 20
) -> float:
    """Share of test rows whose label is the most frequent one of their k nearest train rows: see :func:`vote`."""
    names = sorted(set(train_labels) | set(test_labels))
    codes, wanted = (np.searchsorted(names, labels) for labels in (train_labels, test_labels))
    return float((vote(train, codes, test, k) == wanted).mean())


def recall_at_1(queries: Float32Array, gallery: Float32Array) -> float:
    """Share of queries that are nearer to the gallery row of the same index than to any other.  (m, D) each"""
    return float((ranks(queries, gallery) == 1).mean())
