"""What every scorer promises, so that one table can hold them all.

Tiles x and earlier looks of the same ground are (N, C, H, W) in [-1, 1]; reflectance is (x + 1) / 2. Masks (N, H, W)
are True where a pixel counts. Scorers block until done, are deterministic, give a tile the same score whatever its
neighbours in the batch (up to rounding), NaN without any pixel that counts, and raise
:class:`~engine.errors.InputMismatch` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.errors import InputMismatch
from engine.tiles import BoolArray, Float32Array


class Scored(Protocol):
    """Scores of N tiles; higher is stranger. :class:`engine.odeed.ScoreBatch` and :class:`TileScores` are such."""

    @property
    def score(self) -> Float32Array:
        """One number a tile; NaN for a tile that has no score.  (N,)"""

    @property
    def error_map(self) -> Float32Array | None:
        """What each pixel contributes, finite, 0 where it does not count; None if pixels have no part.  (N, H, W)"""

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser for each tile."""


@dataclass(frozen=True, kw_only=True)
class TileScores:
    """Scores of N tiles by a scorer that may have no map."""

    score: Float32Array
    """One number a tile; NaN for a tile that has no score.  (N,)"""
    nfe: int
    """Evaluations of the denoiser for each tile."""
    error_map: Float32Array | None = None
    """What each pixel contributes, finite, 0 where it does not count; None if pixels have no part.  (N, H, W)"""


class Scorer(Protocol):
    """Tiles to strangeness, from the tiles alone. :class:`engine.odeed.Odeed` is one."""

    @property
    def name(self) -> str:
        """A stable name for tables and metrics."""

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser for each tile; 0 where there is none, an encoder's pass not counted."""

    def score(self, x: Float32Array, valid: BoolArray) -> Scored:
        """Score tiles (N, C, H, W) in [-1, 1] over their valid pixels (N, H, W)."""


class ConditionalScorer(Protocol):
    """A scorer whose denoiser may be told what is known of the place from before (:mod:`engine.condition`)."""

    @property
    def name(self) -> str:
        """A stable name for tables and metrics."""

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser for each tile."""

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> Scored:
        """Score tiles as a :class:`Scorer` does, given ``cond`` (N, cond_chans, H, W); None: nothing is known."""


class PairedScorer(Protocol):
    """Tiles to strangeness, given an earlier look of the same ground."""

    @property
    def name(self) -> str:
        """A stable name for tables and metrics."""

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser for each tile, those on the earlier look included."""

    @property
    def symmetric(self) -> bool:
        """Whether the two looks may be swapped without changing the score: then it cannot tell before from after."""

    def score(self, x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> Scored:
        """Score tiles against earlier looks, both (N, C, H, W) in [-1, 1] with masks (N, H, W)."""


def check_mask(x: Float32Array, valid: BoolArray) -> None:
    """Raise :class:`~engine.errors.InputMismatch` unless the mask belongs to these images."""
    if x.ndim != 4 or valid.dtype != np.bool_ or valid.shape != (x.shape[0], *x.shape[2:]):
        raise InputMismatch(f"mask {valid.dtype}{valid.shape} does not belong to images {x.shape}; bool (N, H, W) does")


def check_pair(x: Float32Array, valid: BoolArray, earlier: Float32Array, earlier_valid: BoolArray) -> None:
    """Raise :class:`~engine.errors.InputMismatch` unless the looks are of one shape and have their masks."""
    check_mask(x, valid)
    check_mask(earlier, earlier_valid)
    if x.shape != earlier.shape:
        raise InputMismatch(f"tiles {x.shape} and earlier looks {earlier.shape} are not of the same ground and bands")


def mean_over(values: Float32Array, counts: BoolArray) -> tuple[Float32Array, Float32Array]:
    """Mean (N,) of pixel values (N, H, W) where they count, NaN where none does; and the values, 0 elsewhere."""
    kept = np.where(counts, values, 0.0).astype(np.float32)
    count = counts.sum(axis=(1, 2))
    score = np.full(len(values), np.nan, dtype=np.float32)
    np.divide(kept.sum(axis=(1, 2), dtype=np.float64), count, out=score, where=count > 0, casting="unsafe")
    return score, kept


def nan_without_ground(score: Float32Array, valid: BoolArray) -> Float32Array:
    """The scores (N,), NaN for the tiles without a valid pixel."""
    return np.where(valid.any(axis=(1, 2)), score, np.nan).astype(np.float32)
