"""MSMA: norms of the score at several noise levels, judged by normal tiles' norms.

Mahmood, Oliva & Styner, "Multiscale Score Matching for Out-of-Distribution Detection" (ICLR 2021, arXiv 2010.13132):
the *same* tile, no noise added, is shown to the network at each of L levels; the norms of the L scores are one point,
and its density among normal tiles' points is the score. The paper fits a mixture or asks for nearest neighbours; here
it is one shrunk Gaussian of the norms' logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.errors import InputMismatch
from engine.odeed import denoise_with, masked_mse
from engine.runners.base import Runner
from engine.scorers.base import TileScores
from engine.scorers.density import Gaussian
from engine.scorers.path_scorers import log_norms
from engine.tiles import BoolArray, Float32Array

MSMA_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Noise levels where none are named, sigma_data being near 0.5."""


def score_norms(
    denoiser: Runner,
    x: Float32Array,
    valid: BoolArray,
    sigmas: Sequence[float] = MSMA_SIGMAS,
    cond: Float32Array | None = None,
) -> Float32Array:
    """sigma |score(x; sigma)| = |x - D(x; sigma)| / sigma at each level, NaN for a tile without a valid pixel.  (N, L)

    The norm is the root mean square over bands and valid pixels. The factor sigma is the weight that score matching
    gives a level: without it the lowest level outweighs all others.

    Raises:
        InputMismatch: an array is not what the denoiser declares, or the mask belongs to other tiles.
    """
    denoise = denoise_with(denoiser, cond)
    squares = [masked_mse(x, denoise(x, sigma), valid)[0] for sigma in sigmas]
    return np.asarray(np.sqrt(np.stack(squares, axis=1)) / np.asarray(sigmas, dtype=np.float32), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Msma:
    """-ln density of a tile's score norms; there is no map."""

    denoiser: Runner
    density: Gaussian
    """Of the natural log of normal tiles' :func:`score_norms`."""
    sigmas: tuple[float, ...] = MSMA_SIGMAS
    name: str = "msma"

    @classmethod
    def fit(cls, normal: Float32Array, *, denoiser: Runner, sigmas: Sequence[float] = MSMA_SIGMAS) -> Self:
        """From ``normal_msma`` (n, L), which the same denoiser gave at the same levels.

        Raises:
            InputMismatch: another number of levels, or fewer than two finite rows.
        """
        if normal.ndim != 2 or normal.shape[1] != len(sigmas):
            raise InputMismatch(f"normal norms {normal.shape} are not of the {len(sigmas)} levels {tuple(sigmas)}")
        return cls(denoiser=denoiser, density=Gaussian.fit(log_norms(normal)), sigmas=tuple(sigmas))

    @property
    def nfe(self) -> int:
        """One evaluation a noise level."""
        return len(self.sigmas)

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> TileScores:
        """See :class:`~engine.scorers.base.ConditionalScorer`."""
        norms = score_norms(self.denoiser, x, valid, self.sigmas, cond)
        return TileScores(score=self.density.negative_log_density(log_norms(norms)), nfe=self.nfe)
