"""Logistic regression with an L2 penalty on standardised features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from training.errors import TrainingDataInvalid

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]


def fit_logistic(features: FloatArray, positive: BoolArray, weights: FloatArray, *, penalty: float) -> FloatArray:
    """Weights of each feature, then the bias, for features as they are (not standardised).  (K + 1,)

    Minimises ``mean cross-entropy + penalty · |w|²`` with w in units of each feature's standard deviation, where both
    classes have half of the weight: log odds of 0 are where flooded and dry tiles are equally likely.

    Args:
        features: (n, K), finite.
        positive: (n,)
        weights: of each row, above 0; only their ratios within a class matter.  (n,)
        penalty: strength of the L2 penalty.

    Raises:
        TrainingDataInvalid: one class is empty.
    """
    if positive.all() or not positive.any():
        raise TrainingDataInvalid(
            f"a flood model needs flooded and dry tiles; {int(positive.sum())} of {len(positive)}"
        )
    x = np.asarray(features, dtype=np.float64)
    weight = np.asarray(weights, dtype=np.float64).copy()
    for of in (positive, ~positive):
        weight[of] *= 0.5 / weight[of].sum()
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2) + 1e-9
    z = (x - mean) / scale
    sign = np.where(positive, 1.0, -1.0)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (z @ theta[:-1] + theta[-1])
        value = weight @ np.logaddexp(0.0, -margin) + penalty * theta[:-1] @ theta[:-1]
        pull = -weight * sign / (1.0 + np.exp(margin))
        slope = np.append(z.T @ pull + 2 * penalty * theta[:-1], pull.sum())
        return float(value), slope

    theta = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    w = theta[:-1] / scale
    return np.append(w, theta[-1] - w @ mean)
