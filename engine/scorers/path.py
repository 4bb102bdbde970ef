"""The way of a tile up to high noise: one encode leg of the probability-flow ODE, and what can be read off it.

Along the leg, eps_i = (x_i - D(x_i; sigma_i)) / sigma_i is the noise that the denoiser sees, the slope dx/dsigma of the
flow (Karras et al. 2022, equation 3), and -sigma times the score, at once. So the n evaluations of one Euler leg give
ODEED's first half, path length, curvature, the norms of the score and DiffPath's statistics for one price.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from engine.ode import Schedule
from engine.odeed import denoise_with
from engine.runners.base import Runner
from engine.scorers.base import check_mask
from engine.tiles import BoolArray, Float32Array

DIFFPATH_NAMES = ("eps", "eps^2", "eps^3", "deps/dt", "(deps/dt)^2", "(deps/dt)^3")
"""The columns of :attr:`PathStatistics.diffpath`."""


@dataclass(frozen=True, kw_only=True)
class PathStatistics:
    """What one encode leg of n steps tells of N tiles. Norms are root mean squares over bands and valid pixels.

    Numbers of a tile without a valid pixel are NaN.
    """

    length: Float32Array
    """Sum over steps of |x_(i+1) - x_i|.  (N,)"""
    curvature: Float32Array
    """Sum over steps of |eps_(i+1) - eps_i|: how much the slope changes; n - 1 changes.  (N,)"""
    turning: Float32Array
    """Sum over steps of the angle between eps_i and eps_(i+1), radians: the change of direction alone, blind to how
    large the image is.  (N,)"""
    norms: Float32Array
    """|eps_i| = sigma |score| at each level along the path.  (N, n)"""
    diffpath: Float32Array
    """The six statistics of :data:`DIFFPATH_NAMES`: sums over levels of signed means over bands and valid pixels, with
    deps/dt by differences and t running from 0 to 1 in n equal steps.  (N, 6)"""
    length_map: Float32Array
    """The path length of each pixel, its norm over bands, 0 where not valid.  (N, H, W)"""
    curvature_map: Float32Array
    """The curvature of each pixel's path, likewise.  (N, H, W)"""
    latent: Float32Array
    """The tiles at sigma_max: where ODEED's second leg begins.  (N, C, H, W)"""
    nfe: int
    """Evaluations of the denoiser for each tile."""


def path_statistics(
    denoiser: Runner, x: Float32Array, valid: BoolArray, schedule: Schedule, cond: Float32Array | None = None
) -> PathStatistics:
    """Encode tiles by Euler steps and measure their paths.

    Args:
        denoiser: opened, stays the caller's to close.
        x: tiles in [-1, 1].  (N, C, H, W)
        valid: True where a pixel counts; the network sees the others too.  (N, H, W)
        schedule: noise levels; the denoiser is evaluated at all but the last.
        cond: what is known of the place from before, if the denoiser takes it.  (N, cond_chans, H, W)

    Raises:
        InputMismatch: an array is not what the denoiser declares, or the mask belongs to other tiles.
    """
    check_mask(x, valid)
    denoise = denoise_with(denoiser, cond)
    ground = _Ground.of(valid, x.shape[1])
    n, steps = len(x), schedule.steps
    length, curvature, turning = np.zeros(n), np.zeros(n), np.zeros(n)
    length_map, curvature_map = np.zeros(valid.shape), np.zeros(valid.shape)
    norms, diffpath = np.zeros((n, steps)), np.zeros((n, 6))
    state: Float32Array = x.astype(np.float32, copy=False)
    before: Float32Array | None = None
    for i, (sigma, higher) in enumerate(pairwise(schedule.up)):
        eps = (state - denoise(state, sigma)) / sigma
        state = state + (higher - sigma) * eps
        norms[:, i] = ground.norm(eps)
        length += (higher - sigma) * norms[:, i]
        length_map += (higher - sigma) * _pixel_norm(eps)
        diffpath[:, :3] += ground.moments(eps)
        if before is not None:
            change = eps - before
            curvature += ground.norm(change)
            curvature_map += _pixel_norm(change)
            turning += ground.angle(before, eps)
            diffpath[:, 3:] += ground.moments(steps * change)  # t moves by 1 / steps
        before = eps
    return PathStatistics(
        length=ground.told(length),
        curvature=ground.told(curvature),
        turning=ground.told(turning),
        norms=ground.told(norms),
        diffpath=ground.told(diffpath),
        length_map=np.where(valid, length_map, 0).astype(np.float32),
        curvature_map=np.where(valid, curvature_map, 0).astype(np.float32),
        latent=state,
        nfe=steps,
    )


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """The mean over bands and valid pixels, as weights."""

    weight: npt.NDArray[np.float64]
    """(N, 1, H, W); sums to 1 over a tile's C bands, all 0 where a tile has no valid pixel."""

    @classmethod
    def of(cls, valid: BoolArray, bands: int) -> Self:
        count = np.maximum(valid.sum(axis=(1, 2)), 1)[:, None, None, None]
        return cls(weight=valid[:, None] / (bands * count))

    def mean(self, values: Float32Array) -> npt.NDArray[np.float64]:
        """(N, C, H, W) to (N,)."""
        return np.asarray((values * self.weight).sum(axis=(1, 2, 3)), dtype=np.float64)

    def norm(self, values: Float32Array) -> npt.NDArray[np.float64]:
        return np.asarray(np.sqrt(self.mean(values * values)), dtype=np.float64)

    def moments(self, values: Float32Array) -> npt.NDArray[np.float64]:
        """First, second and third moment about 0.  (N, 3)"""
        squares = values * values
        return np.stack([self.mean(values), self.mean(squares), self.mean(squares * values)], axis=1)

    def angle(self, a: Float32Array, b: Float32Array) -> npt.NDArray[np.float64]:
        """Angle between two images, radians; 0 where one of them is 0.  (N,)"""
        norms = self.norm(a) * self.norm(b)
        cosine = np.divide(self.mean(a * b), norms, out=np.ones_like(norms), where=norms > 0)
        return np.asarray(np.arccos(np.clip(cosine, -1.0, 1.0)), dtype=np.float64)

    def told(self, values: npt.NDArray[np.float64]) -> Float32Array:
        """As float32, NaN for the tiles without a valid pixel."""
        known = (self.weight > 0).any(axis=(1, 2, 3)).reshape(-1, *[1] * (values.ndim - 1))
        return np.where(known, values, np.nan).astype(np.float32)


def _pixel_norm(values: Float32Array) -> Float32Array:
    """Root mean square over bands.  (N, H, W)"""
    return np.asarray(np.sqrt((values * values).mean(axis=1)), dtype=np.float32)
