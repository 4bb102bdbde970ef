"""Linear probe: multinomial logistic regression on frozen, standardised features, by L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from training.errors import RunInvalid

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""L2 penalties tried."""
CHOOSING = 4
"""Every fourth image of a class in the train half chooses the penalty."""


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted probe."""

    weight: Float64Array
    """(D, K)"""
    bias: Float64Array
    """(K,)"""
    mean: Float64Array
    """Of the train features.  (D,)"""
    scale: Float64Array
    """Their standard deviation, 1 where they do not vary.  (D,)"""
    l2: float

    @classmethod
    def fit(cls, x: FloatArray, codes: IntArray, classes: int, l2: float, *, iterations: int = 300) -> Self:
        """Minimise ``mean cross-entropy + l2 / 2 · |W|²`` over standardised features; the bias is free.

        Args:
            x: features.  (n, D)
            codes: class of each, from 0.  (n,)
            classes: K.
            l2: penalty.
            iterations: of L-BFGS at most.

        Raises:
            RunInvalid: it does not converge.
        """
        features = x.astype(np.float64)
        mean = features.mean(axis=0)
        spread = features.std(axis=0)
        scale = np.where(spread > 1e-12, spread, 1.0)
        z = (features - mean) / scale
        n, d = z.shape
        wanted = np.zeros((n, classes))
        wanted[np.arange(n), codes] = 1.0

        def loss(flat: Float64Array) -> tuple[float, Float64Array]:
            weight, bias = flat[: d * classes].reshape(d, classes), flat[d * classes :]
            logs = log_softmax(z @ weight + bias, axis=1)
            error = (np.exp(logs) - wanted) / n
            gradient = np.concatenate([(z.T @ error + l2 * weight).ravel(), error.sum(axis=0)])
            return float(-(wanted * logs).sum() / n + l2 / 2 * (weight**2).sum()), gradient

        found = minimize(
            loss,
            np.zeros(d * classes + classes),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxfun": 2 * iterations, "gtol": 1e-6, "ftol": 1e-9},
        )
        if not np.isfinite(found.fun):
            raise RunInvalid(f"the linear probe diverged with L2 {l2}: {found.message}")
        weight = found.x[: d * classes].reshape(d, classes)
        return cls(weight=weight, bias=found.x[d * classes :], mean=mean, scale=scale, l2=l2)

    def logits(self, x: FloatArray) -> Float64Array:
        """(n, D) to (n, K)."""
        z = (x.astype(np.float64) - self.mean) / self.scale
        return np.asarray(z @ self.weight + self.bias)

    def predict(self, x: FloatArray) -> npt.NDArray[np.int64]:
        """(n, D) to (n,)."""
        return np.asarray(self.logits(x).argmax(axis=1), dtype=np.int64)


def probe(x: FloatArray, codes: IntArray, classes: int, grid: Sequence[float] = GRID) -> Logistic:
    """A probe whose penalty is chosen on a part of the train half, then fitted on all of it.

    The strongest penalty wins a tie.
    """
    choosing = choosing_part(codes)
    scores: dict[float, float] = {}
    for l2 in sorted(grid, reverse=True):
        fitted = Logistic.fit(x[~choosing], codes[~choosing], classes, l2)
        scores[l2] = float((fitted.predict(x[choosing]) == codes[choosing]).mean())
    return Logistic.fit(x, codes, classes, max(scores, key=lambda l2: scores[l2]))


def choosing_part(codes: IntArray) -> npt.NDArray[np.bool_]:
    """Every fourth row of each class, the first one left out.  (n,)"""
    chosen = np.zeros(len(codes), dtype=np.bool_)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        chosen[members[CHOOSING - 1 :: CHOOSING] if len(members) >= CHOOSING else members[1:2]] = True
    return chosen
