"""Scores of the encode leg (:mod:`engine.scorers.path`): half of ODEED's evaluations, and one leg serves them all.

Each scorer encodes by itself; who wants several computes :func:`~engine.scorers.path.path_statistics` once and asks
each for ``of``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from engine.ode import Schedule
from engine.runners.base import Runner
from engine.scorers.base import ConditionalScorer, TileScores
from engine.scorers.density import Gaussian
from engine.scorers.path import PathStatistics, path_statistics
from engine.tiles import BoolArray, Float32Array


class PathScorer(ConditionalScorer, Protocol):
    """A scorer that needs nothing but a path."""

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured, by the scorer's own schedule."""


@dataclass(frozen=True, kw_only=True)
class _Encoding(ABC):
    """What the path scorers have in common."""

    denoiser: Runner
    schedule: Schedule
    """The denoiser is evaluated at all levels but the last."""

    @property
    def nfe(self) -> int:
        """One evaluation a step."""
        return self.schedule.steps

    def score(self, x: Float32Array, valid: BoolArray, cond: Float32Array | None = None) -> TileScores:
        """See :class:`~engine.scorers.base.ConditionalScorer`."""
        return self.of(path_statistics(self.denoiser, x, valid, self.schedule, cond))

    @abstractmethod
    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured."""


@dataclass(frozen=True, kw_only=True)
class PathLength(_Encoding):
    """Length of the path to sigma_max. For Gaussian data it is the distance from the mean times a constant."""

    name: str = "path-length"

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured; the map holds each pixel's length."""
        return TileScores(score=path.length, error_map=path.length_map, nfe=path.nfe)


@dataclass(frozen=True, kw_only=True)
class PathCurvature(_Encoding):
    """Total change of the slope along the path: what a coarse solver's error, and so ODEED, is made of."""

    name: str = "path-curvature"

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured; the map holds each pixel's curvature."""
        return TileScores(score=path.curvature, error_map=path.curvature_map, nfe=path.nfe)


@dataclass(frozen=True, kw_only=True)
class PathTurning(_Encoding):
    """Total angle by which the slope turns: curvature without the image's energy; no pixel has an angle of its own."""

    name: str = "path-turning"

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured."""
        return TileScores(score=path.turning, nfe=path.nfe)


@dataclass(frozen=True, kw_only=True)
class DiffPath(_Encoding):
    """DiffPath-6D: -ln density of six statistics of the path among normal tiles'.

    Heng, Thiery & Soh, "Out-of-Distribution Detection with a Single Unconditional Diffusion Model" (NeurIPS 2024, arXiv
    2405.11881): signed sums over levels and pixels of eps and of deps/dt to the powers 1, 2, 3. Differences to the
    paper: one shrunk Gaussian instead of a mixture of 50 to 100; EDM's noise levels and Euler steps instead of DDIM's;
    means over valid pixels instead of sums, which a standardised density does not see.
    """

    density: Gaussian
    """Of normal tiles' :attr:`~engine.scorers.path.PathStatistics.diffpath`."""
    name: str = "diffpath"

    @classmethod
    def fit(cls, normal: Float32Array, *, denoiser: Runner, schedule: Schedule) -> Self:
        """From ``normal_path`` (n, 6), which the same denoiser and schedule gave.

        Raises:
            InputMismatch: fewer than two finite rows.
        """
        return cls(denoiser=denoiser, schedule=schedule, density=Gaussian.fit(normal))

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured."""
        return TileScores(score=self.density.negative_log_density(path.diffpath), nfe=path.nfe)


@dataclass(frozen=True, kw_only=True)
class DiffPathRate(_Encoding):
    """DiffPath-1D: -ln density of the root of the sum of (deps/dt)^2 alone, here by one Gaussian, not by kernels."""

    density: Gaussian
    """Of normal tiles' statistic.  K = 1"""
    name: str = "diffpath-1d"

    @classmethod
    def fit(cls, normal: Float32Array, *, denoiser: Runner, schedule: Schedule) -> Self:
        """From ``normal_path`` (n, 6), of which the fifth column is used.

        Raises:
            InputMismatch: fewer than two finite rows.
        """
        return cls(denoiser=denoiser, schedule=schedule, density=Gaussian.fit(_rate(normal)))

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured."""
        return TileScores(score=self.density.negative_log_density(_rate(path.diffpath)), nfe=path.nfe)


@dataclass(frozen=True, kw_only=True)
class MsmaPath(_Encoding):
    """A *variant* of MSMA: norms of the score where the path passes each level, not of the same tile at each level.

    -ln density of the norms' logarithms, as in :class:`engine.scorers.msma.Msma`.
    """

    density: Gaussian
    """Of the natural log of normal tiles' :attr:`~engine.scorers.path.PathStatistics.norms`."""
    name: str = "msma-path"

    @classmethod
    def fit(cls, normal: Float32Array, *, denoiser: Runner, schedule: Schedule) -> Self:
        """From ``normal_path_norms`` (n, steps), which the same denoiser and schedule gave.

        Raises:
            InputMismatch: fewer than two finite rows.
        """
        return cls(denoiser=denoiser, schedule=schedule, density=Gaussian.fit(log_norms(normal)))

    def of(self, path: PathStatistics) -> TileScores:
        """The scores of a path already measured."""
        return TileScores(score=self.density.negative_log_density(log_norms(path.norms)), nfe=path.nfe)


def log_norms(norms: Float32Array) -> Float32Array:
    """Natural log of norms, which are positive and skewed; a norm of 0 is floored far below any seen."""
    return np.log(np.maximum(norms, 1e-12)).astype(np.float32)


def _rate(diffpath: Float32Array) -> Float32Array:
    """Root of the mean square of deps/dt, as one column.  (n, 1)"""
    return np.sqrt(diffpath[:, 4:5]).astype(np.float32)
