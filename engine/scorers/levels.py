"""Reconstruction errors from several noise levels, each measured by normal tiles' errors at that level.

Graham et al., "Denoising Diffusion Models for Out-of-Distribution Detection" (CVPR Workshops 2023, arXiv 2211.07740):
noise a tile to several levels, reconstruct, standardise each level's error by normal tiles' and take the mean. Here a
reconstruction is one evaluation of the denoiser instead of a chain, the noise is fixed, and the error is the MSE alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.errors import InputMismatch
from engine.runners.base import Runner
from engine.scorers.base import TileScores
from engine.scorers.baselines import OneStepDenoising
from engine.tiles import BoolArray, Float32Array

LEVEL_SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Noise levels where none are named, sigma_data being near 0.5."""


def level_errors(
    denoiser: Runner,
    x: Float32Array,
    valid: BoolArray,
    sigmas: Sequence[float] = LEVEL_SIGMAS,
    *,
    seed: int = 0,
    cond: Float32Array | None = None,
) -> tuple[Float32Array, Float32Array]:
    """One-step squared errors from each level, NaN without a valid pixel: of tiles (N, L), of pixels (N, L, H, W).

    Raises:
        InputMismatch: an array is not what the denoiser declares, or the mask belongs to other tiles.
    """
    results = [
        OneStepDenoising(denoiser=denoiser, sigma=sigma, seed=seed + level).score(x, valid, cond)
        for level, sigma in enumerate(sigmas)
    ]
    return np.stack([r.score for r in results], axis=1), np.stack([r.error_map for r in results], axis=1)


@dataclass(frozen=True, kw_only=True)
class LevelScore:
    """Mean over levels of the z-score of the reconstruction error."""

    denoiser: Runner
    mean: Float32Array
    """Mean error of normal tiles from each level.  (L,)"""
    deviation: Float32Array
    """Standard deviation of it, above 0.  (L,)"""
    sigmas: tuple[float, ...] = LEVEL_SIGMAS
    seed: int = 0
    name: str = "level-z"

    @classmethod
    def fit(
        cls, normal: Float32Array, *, denoiser: Runner, sigmas: Sequence[float] = LEVEL_SIGMAS, seed: int = 0
    ) -> Self:
        """From ``normal_levels`` (n, L), which the same denoiser gave with the same levels and seed.

        Raises:
            InputMismatch: another number of levels, fewer than two finite rows, or a level whose errors are all equal.
        """
        if normal.ndim != 2 or normal.shape[1] != len(sigmas):
            raise InputMismatch(f"normal errors {normal.shape} are not of the {len(sigmas)} levels {tuple(sigmas)}")
        rows = normal[np.isfinite(normal).all(axis=1)].astype(np.float64)
        if len(rows) < 2 or not (rows.std(axis=0) > 0).all():
            raise InputMismatch(f"{len(rows)} finite rows of normal errors; 2 or more that differ are needed")
        return cls(
            denoiser=denoiser,
            mean=rows.mean(axis=0).astype(np.float32),
            deviation=rows.std(axis=0, ddof=1).astype(np.float32),
            sigmas=tuple(sigmas),
            seed=seed,
        )

    @property
    def nfe(self) -> int:
        """One evaluation a noise level."""
        return len(self.sigmas)

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> TileScores:
        """See :class:`~engine.scorers.base.ConditionalScorer`; the map holds the mean z of each pixel's own error."""
        errors, maps = level_errors(self.denoiser, x, valid, self.sigmas, seed=self.seed, cond=cond)
        pixels = (maps - self.mean[:, None, None]) / self.deviation[:, None, None]
        return TileScores(
            score=((errors - self.mean) / self.deviation).mean(axis=1).astype(np.float32),
            error_map=np.where(valid, pixels.mean(axis=1), 0.0).astype(np.float32),
            nfe=self.nfe,
        )
