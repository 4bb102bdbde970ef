"""The shrunk Gaussian against scipy's density and against Ledoit & Wolf's formula as loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from engine.errors import InputMismatch
from engine.scorers.density import FLOOR, Gaussian


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Correlated numbers of very different sizes.  (n, 3)"""
    z = np.random.default_rng(seed).standard_normal((n, 3))
    mix = np.asarray([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.5, 0.5]])
    return (z @ mix.T * [1e-3, 1.0, 1e4] + [5.0, 0.0, -1e5]).astype(np.float32)


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    x = rows(12).astype(np.float64)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    sample = sum(np.outer(row, row) for row in z) / 12
    level = np.trace(sample) / 3
    spread = ((sample - level * np.eye(3)) ** 2).sum() / 3
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() / 3 for row in z) / 12**2
    share = min(noise, spread) / spread
    fitted = Gaussian.fit(rows(12))
    assert 0.02 < share < 1
    assert fitted.shrinkage == pytest.approx(share, rel=1e-9)
    covariance = share * level * np.eye(3) + (1 - share) * sample + FLOOR * np.eye(3)
    np.testing.assert_allclose(np.linalg.inv(fitted.precision), covariance, rtol=1e-9)


def test_density_is_scipys_and_distance_its_quadratic_form() -> None:
    fitted, x = Gaussian.fit(rows(40)), rows(9, seed=1)
    # scipy takes the raw covariance for singular, so different are the sizes: ask it in standard units.
    oracle = multivariate_normal(np.zeros(3), np.linalg.inv(fitted.precision))
    z = (x - fitted.mean) / fitted.scale
    expected = -oracle.logpdf(z) + np.log(fitted.scale).sum()
    np.testing.assert_allclose(fitted.negative_log_density(x), expected, rtol=1e-5)
    np.testing.assert_allclose(fitted.mahalanobis(x), -2 * (oracle.logpdf(z) - oracle.logpdf(np.zeros(3))), rtol=1e-5)


def test_many_rows_need_no_shrinkage_and_give_the_true_distance() -> None:
    fitted = Gaussian.fit(rows(20_000))
    assert fitted.shrinkage < 0.001
    assert fitted.mahalanobis(rows(5000, seed=1)).mean() == pytest.approx(3.0, rel=0.05)


def test_fewer_rows_than_numbers_and_numbers_that_never_vary_are_allowed() -> None:
    few = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    fitted = Gaussian.fit(few)
    assert 0 < fitted.shrinkage <= 1
    assert np.isfinite(fitted.negative_log_density(few)).all()
    constant = np.concatenate([rows(30)[:, :1], np.full((30, 1), 7.0, np.float32)], axis=1)
    off = constant[:1] + np.asarray([[0.0, 1.0]], dtype=np.float32)
    fitted = Gaussian.fit(constant)
    assert np.isfinite(fitted.mahalanobis(off))[0]
    assert fitted.mahalanobis(off)[0] > fitted.mahalanobis(constant).max()


def test_rows_that_are_not_finite_are_left_out_and_score_nan() -> None:
    x = rows(20)
    gap = np.asarray([[np.nan, 0, 0], [0, np.inf, 0]], dtype=np.float32)
    fitted = Gaussian.fit(np.concatenate([x, gap]))
    np.testing.assert_array_equal(fitted.precision, Gaussian.fit(x).precision)
    assert np.isnan(fitted.mahalanobis(gap[:1]))[0]
    with pytest.raises(InputMismatch, match="1 of 2 rows"):
        Gaussian.fit(np.concatenate([x[:1], gap[:1]]))
    with pytest.raises(InputMismatch, match="3 numbers"):
        fitted.mahalanobis(x[:, :2])
    with pytest.raises(InputMismatch, match=r"\(n, K\)"):
        Gaussian.fit(x[0])
