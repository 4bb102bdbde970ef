"""The two cheaper scores of the ODEED paper (Le Bellier & Audebert 2024, arXiv 2404.12667)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.odeed import ScoreBatch, denoise_with, masked_mse
from engine.runners.base import Runner
from engine.tiles import BoolArray, Float32Array


@dataclass(frozen=True, kw_only=True)
class OneStepDenoising:
    """d(x, D(x + sigma n; sigma)) with one fixed noise image n, the same for each tile."""

    denoiser: Runner
    sigma: float = 0.5
    seed: int = 0
    name: str = "one-step"
    nfe: int = 1

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> ScoreBatch:
        """See :class:`~engine.scorers.base.ConditionalScorer`."""
        noise = _noise(x, self.seed)
        denoised = denoise_with(self.denoiser, cond)(x + np.float32(self.sigma) * noise, self.sigma)
        score, error_map = masked_mse(x, denoised, valid)
        return ScoreBatch(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class DiffusionLoss:
    """E[lambda(sigma) |D(x + sigma n; sigma) - x|^2] over fixed noise levels, one fixed noise image each.

    lambda is EDM's weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, Karras et al. 2022, Table 1.
    """

    denoiser: Runner
    sigma_data: float
    sigmas: Sequence[float] = (0.1, 0.2, 0.5, 1.0)
    seed: int = 0
    name: str = "diffusion-loss"

    @property
    def nfe(self) -> int:
        """One evaluation a noise level."""
        return len(self.sigmas)

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> ScoreBatch:
        """See :class:`~engine.scorers.base.ConditionalScorer`; the map is weighted like the score."""
        scores, maps = [], []
        for level, sigma in enumerate(self.sigmas):
            single = OneStepDenoising(denoiser=self.denoiser, sigma=sigma, seed=self.seed + level).score(x, valid, cond)
            weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
            scores.append(weight * single.score)
            maps.append(weight * single.error_map)
        return ScoreBatch(
            score=np.mean(scores, axis=0, dtype=np.float32),
            error_map=np.mean(maps, axis=0, dtype=np.float32),
            nfe=self.nfe,
        )


def _noise(x: Float32Array, seed: int) -> Float32Array:
    """Unit noise of one tile's shape (1, C, H, W), so that a score does not depend on the place in the batch."""
    return np.random.default_rng(seed).standard_normal((1, *x.shape[1:]), dtype=np.float32)
