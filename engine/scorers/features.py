"""Distance of a tile's embedding from normal tiles' embeddings: no denoiser, one pass of the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Self

import numpy as np

from engine.embed import Embedder, unit_rows
from engine.errors import InputMismatch
from engine.scorers.base import TileScores, check_mask, nan_without_ground
from engine.scorers.density import Gaussian
from engine.tiles import BoolArray, Float32Array

TOP_SHARE = 0.05
"""Share of the strangest tokens whose mean is a tile's score: a small flood does not drown in a large tile."""


@dataclass(frozen=True, kw_only=True)
class FeatureMahalanobis:
    """Squared Mahalanobis distance of the CLS embedding from normal ones (Lee et al. 2018, with one class)."""

    embedder: Embedder
    density: Gaussian
    """Of normal tiles' unit CLS embeddings."""
    name: str = "feature-mahalanobis"
    nfe: int = 0

    @classmethod
    def fit(cls, normal: Float32Array, *, embedder: Embedder) -> Self:
        """From ``normal_cls`` (n, D).

        Raises:
            InputMismatch: fewer than two finite rows.
        """
        return cls(embedder=embedder, density=Gaussian.fit(normal))

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; there is no map."""
        check_mask(x, valid)
        distance = self.density.mahalanobis(self.embedder.embed(x).cls)
        return TileScores(score=nan_without_ground(distance, valid), nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class FeatureNeighbours:
    """Mean cosine distance of the CLS embedding to the k nearest normal ones, 0..2 (after Sun et al. 2022)."""

    embedder: Embedder
    normal: Float32Array
    """``normal_cls``: unit CLS embeddings of normal tiles, k or more.  (n, D)"""
    k: int = 5
    name: str = "feature-knn"
    nfe: int = 0

    def __post_init__(self) -> None:
        _check_normal(self.normal, self.k)

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; there is no map."""
        check_mask(x, valid)
        distance = neighbour_distance(self.embedder.embed(x).cls, self.normal, self.k)
        return TileScores(score=nan_without_ground(distance, valid), nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class TokenNeighbours:
    """Mean over the strangest tokens of the cosine distance to the k nearest normal tokens, 0..2."""

    embedder: Embedder
    normal: Float32Array
    """``normal_tokens``: unit patch embeddings of normal tiles, k or more.  (m, D)"""
    k: int = 5
    share: float = TOP_SHARE
    """Share of a tile's tokens with valid ground that are averaged, at least one; above 0, at most 1."""
    name: str = "token-knn"
    nfe: int = 0

    def __post_init__(self) -> None:
        _check_normal(self.normal, self.k)
        check_share(self.share)

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; the map holds each patch's distance."""
        check_mask(x, valid)
        tokens = unit_rows(self.embedder.embed(x).patch_tokens)
        distance = neighbour_distance(tokens.reshape(-1, tokens.shape[-1]), self.normal, self.k)
        return token_scores(distance.reshape(tokens.shape[:3]), valid, lambda values: top_mean(values, self.share))


def neighbour_distance(rows: Float32Array, normal: Float32Array, k: int) -> Float32Array:
    """Mean over the k most similar normal unit rows (m, D) of 1 - cosine to each unit row (n, D).  (n,)

    Raises:
        InputMismatch: the rows have another D.
    """
    if rows.shape[1] != normal.shape[1]:
        raise InputMismatch(f"embeddings of {rows.shape[1]} numbers cannot be compared with {normal.shape[1]}")
    nearest = np.partition(rows @ normal.T, len(normal) - k, axis=1)[:, len(normal) - k :]
    return np.asarray(1.0 - nearest.mean(axis=1), dtype=np.float32)


def token_scores(
    distance: Float32Array, valid: BoolArray, join: Callable[[Float32Array], float], nfe: int = 0
) -> TileScores:
    """Distances of tokens (N, Hp, Wp) to scores: ``join`` of each tile's tokens that show a valid pixel."""
    n, rows, cols = distance.shape
    height, width = valid.shape[1] // rows, valid.shape[2] // cols
    shows: BoolArray = np.any(valid.reshape(n, rows, height, cols, width), axis=(2, 4))
    score = [join(values[seen]) if seen.any() else np.nan for values, seen in zip(distance, shows, strict=True)]
    spread = distance.repeat(height, axis=1).repeat(width, axis=2)
    return TileScores(
        score=np.asarray(score, dtype=np.float32),
        error_map=np.where(valid, spread, 0.0).astype(np.float32),
        nfe=nfe,
    )


def top_mean(values: Float32Array, share: float) -> float:
    """Mean of the largest ``share`` of some values, of one at least."""
    count = max(ceil(share * len(values) - 1e-9), 1)
    return float(np.sort(values)[-count:].mean())


def check_share(share: float) -> None:
    """Raise :class:`~engine.errors.InputMismatch` unless a share is above 0 and at most 1."""
    if not 0.0 < share <= 1.0:
        raise InputMismatch(f"a share of {share} of the tokens; above 0 and at most 1 is expected")


def _check_normal(normal: Float32Array, k: int) -> None:
    if normal.ndim != 2 or not 1 <= k <= len(normal) or not np.isfinite(normal).all():
        raise InputMismatch(f"normal embeddings {normal.shape} do not give {k} neighbours; k finite rows are needed")
