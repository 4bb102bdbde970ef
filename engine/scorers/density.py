"""How far a few numbers lie from those of normal tiles: one Gaussian with a full, shrunk covariance."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch
from engine.tiles import Float32Array

Float64Array = npt.NDArray[np.float64]

FLOOR = 1e-6
"""Added to the variance of standardised numbers, so that one which never varies has a finite precision."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """N(mean, covariance) of K numbers, held standardised: statistics of different sizes meet in one covariance."""

    mean: Float64Array
    """(K,)"""
    scale: Float64Array
    """Standard deviation of each number; 1 where it does not vary.  (K,)"""
    precision: Float64Array
    """Inverse of the shrunk covariance of the standardised numbers.  (K, K)"""
    log_det: float
    """Natural log of the determinant of the covariance of the raw numbers."""
    shrinkage: float
    """Share of the identity in the covariance, 0..1."""

    @classmethod
    def fit(cls, rows: Float32Array) -> Self:
        """Fit to normal tiles' numbers (n, K); rows that are not finite are left out.

        The standardised covariance is shrunk towards a multiple of the identity by the share that Ledoit & Wolf (2004,
        "A well-conditioned estimator for large-dimensional covariance matrices", lemmas 3.2 to 3.5) estimate.

        Raises:
            InputMismatch: fewer than two finite rows.
        """
        if rows.ndim != 2:
            raise InputMismatch(f"normal statistics have shape {rows.shape}; (n, K) is expected")
        x = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
        n, k = x.shape
        if n < 2:
            raise InputMismatch(f"{n} of {len(rows)} rows of normal statistics are finite; 2 or more are needed")
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        # What varies less than rounding does not vary.
        scale = np.where(deviation > 1e-7 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
        z = (x - mean) / scale
        sample = z.T @ z / n
        level = float(np.trace(sample)) / k  # m
        spread = float(((sample - level * np.eye(k)) ** 2).sum()) / k  # d^2
        # b^2: the mean over rows of |z z' - S|^2, over n again; |z z'|^2 = |z|^4.
        noise = (float((np.einsum("nk,nk->n", z, z) ** 2).mean()) - float((sample**2).sum())) / (n * k)
        shrinkage = min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 1.0
        covariance = (1 - shrinkage) * sample + (shrinkage * level + FLOOR) * np.eye(k)
        log_det = float(np.linalg.slogdet(covariance)[1]) + 2 * float(np.log(scale).sum())
        return cls(
            mean=mean, scale=scale, precision=np.linalg.inv(covariance), log_det=log_det, shrinkage=float(shrinkage)
        )

    def mahalanobis(self, rows: Float32Array) -> Float32Array:
        """Squared Mahalanobis distance of rows (n, K); NaN for a row with a NaN.  (n,)

        Raises:
            InputMismatch: the rows have another K.
        """
        return np.asarray(self._squared(rows), dtype=np.float32)

    def negative_log_density(self, rows: Float32Array) -> Float32Array:
        """-ln p of rows (n, K), in nats; NaN for a row with a NaN.  (n,)

        Raises:
            InputMismatch: the rows have another K.
        """
        constant = self.log_det + len(self.mean) * log(2 * pi)
        return np.asarray(0.5 * (self._squared(rows) + constant), dtype=np.float32)

    def _squared(self, rows: Float32Array) -> Float64Array:
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise InputMismatch(
                f"statistics {rows.shape} do not fit a density of {len(self.mean)} numbers; it was fitted with other "
                "noise levels or another network"
            )
        z = (rows - self.mean) / self.scale
        return np.asarray(np.einsum("ni,ij,nj->n", z, self.precision, z), dtype=np.float64)
