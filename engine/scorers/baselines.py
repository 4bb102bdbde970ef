"""The scorers that ODEED is compared with, behind one interface.

The two cheaper scores of the ODEED paper (Le Bellier & Audebert 2024), and controls that know nothing but colour: if
a control equals a detector, the detector's effect is light or season.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.errors import InputMismatch
from engine.odeed import ScoreBatch, denoise_with, masked_mse
from engine.runners.base import Runner
from engine.tiles import BoolArray, Float32Array


class Scorer(Protocol):
    """Tiles to strangeness.

    ``score`` blocks until done, is deterministic, gives a tile the same score whatever its neighbours in the batch
    (up to rounding), NaN without any valid pixel, and raises :class:`~engine.errors.InputMismatch` only.
    :class:`engine.odeed.Odeed` is one.
    """

    @property
    def name(self) -> str:
        """A stable name for tables and metrics."""

    @property
    def nfe(self) -> int:
        """Evaluations of a network for each tile."""

    def score(self, x: Float32Array, valid: BoolArray) -> ScoreBatch:
        """Score tiles (N, C, H, W) in [-1, 1] over their valid pixels (N, H, W)."""


@dataclass(frozen=True, kw_only=True)
class OneStepDenoising:
    """d(x, D(x + sigma n; sigma)) with one fixed noise image n, the same for each tile."""

    denoiser: Runner
    sigma: float = 0.5
    seed: int = 0
    name: str = "one-step"
    nfe: int = 1

    def score(self, x: Float32Array, valid: BoolArray) -> ScoreBatch:
        """See :class:`Scorer`."""
        noise = _noise(x, self.seed)
        denoised = denoise_with(self.denoiser)(x + np.float32(self.sigma) * noise, self.sigma)
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

    def score(self, x: Float32Array, valid: BoolArray) -> ScoreBatch:
        """See :class:`Scorer`; the map is weighted like the score."""
        scores, maps = [], []
        for level, sigma in enumerate(self.sigmas):
            single = OneStepDenoising(denoiser=self.denoiser, sigma=sigma, seed=self.seed + level).score(x, valid)
            weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
            scores.append(weight * single.score)
            maps.append(weight * single.error_map)
        return ScoreBatch(
            score=np.mean(scores, axis=0, dtype=np.float32),
            error_map=np.mean(maps, axis=0, dtype=np.float32),
            nfe=self.nfe,
        )


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Control: mean of x^2."""

    name: str = "energy"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> ScoreBatch:
        """See :class:`Scorer`."""
        score, error_map = masked_mse(x, np.zeros_like(x), valid)
        return ScoreBatch(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class MeanColour:
    """Control: squared Mahalanobis distance of a tile's mean colour from normal tiles' mean colours.

    The map holds the same distance of each pixel's own colour.
    """

    mean: Float32Array
    """Mean over normal tiles.  (C,)"""
    precision: Float32Array
    """Inverse covariance over normal tiles.  (C, C)"""
    name: str = "mean-colour"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> ScoreBatch:
        """See :class:`Scorer`."""
        if x.shape[1] != len(self.mean):
            raise InputMismatch(f"tiles have {x.shape[1]} bands; the normal colours have {len(self.mean)}")
        error_map = np.where(valid, self._distance(np.moveaxis(x, 1, -1)), 0.0).astype(np.float32)
        score = self._distance(mean_colours(x, valid)).astype(np.float32)
        return ScoreBatch(score=score, error_map=error_map, nfe=self.nfe)

    def _distance(self, colours: Float32Array) -> Float32Array:
        away = colours - self.mean
        return np.asarray(np.einsum("...i,ij,...j->...", away, self.precision, away), dtype=np.float32)


def fit_mean_colour(x: Float32Array, valid: BoolArray) -> MeanColour:
    """The control fitted to normal tiles (N, C, H, W); needs more tiles with valid pixels than bands.

    Raises:
        InputMismatch: too few such tiles.
    """
    colours = mean_colours(x, valid)
    colours = colours[np.isfinite(colours).all(axis=1)]
    if len(colours) <= x.shape[1]:
        raise InputMismatch(f"{len(colours)} tiles with valid pixels; more than {x.shape[1]} are needed")
    # The floor keeps the inverse finite for tiles of one colour.
    covariance = np.cov(colours, rowvar=False) + 1e-6 * np.eye(x.shape[1])
    return MeanColour(
        mean=colours.mean(axis=0).astype(np.float32),
        precision=np.linalg.inv(covariance.reshape(x.shape[1], x.shape[1])).astype(np.float32),
    )


def mean_colours(x: Float32Array, valid: BoolArray) -> Float32Array:
    """Mean of each band over valid pixels, NaN for a tile without one.  (N, C)"""
    count = valid.sum(axis=(1, 2))[:, None].astype(np.float64)
    total = (x * valid[:, None]).sum(axis=(2, 3), dtype=np.float64)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def _noise(x: Float32Array, seed: int) -> Float32Array:
    """Unit noise of one tile's shape (1, C, H, W), so that a score does not depend on the place in the batch."""
    return np.random.default_rng(seed).standard_normal((1, *x.shape[1:]), dtype=np.float32)
