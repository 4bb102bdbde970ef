"""ODEED and its rivals over a denoiser whose flow is known exactly (see test_ode)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.embed import Embedder
from engine.errors import InputMismatch
from engine.odeed import Odeed, OdeedSettings, masked_mse
from engine.scorers.base import Scorer
from engine.scorers.baselines import DiffusionLoss, OneStepDenoising
from tests.exact_networks import MU, GaussianRunner, MeanEncoder, V


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 3, 64, 64)).astype(np.float32)


ALL = np.ones((3, 64, 64), dtype=np.bool_)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_score_is_the_squared_error_of_the_round_trip_in_closed_form(solver: str) -> None:
    settings = OdeedSettings(solver=solver, steps=5, sigma_max=5.0)  # type: ignore[arg-type]
    x = images()
    result = Odeed(GaussianRunner(), settings).score(x, ALL)
    # On a linear flow each step multiplies x - MU by a known factor, so the round trip multiplies it by a number.
    gain = 1.0
    for leg in (settings.schedule().up, settings.schedule().down):
        for a, b in pairwise(leg):
            at_a, at_b = a / (V + a * a), b / (V + b * b)  # dx/dsigma = (x - MU) sigma / (V + sigma^2)
            euler = 1 + (b - a) * at_a
            gain *= euler if solver == "euler" else 1 + (b - a) / 2 * (at_a + euler * at_b)
    expected_map = ((gain - 1) * (x.astype(np.float64) - MU)) ** 2
    np.testing.assert_allclose(result.error_map, expected_map.mean(axis=1), rtol=2e-2, atol=1e-10)
    np.testing.assert_allclose(result.score, expected_map.mean(axis=(1, 2, 3)), rtol=1e-3)
    assert result.nfe == Odeed(GaussianRunner(), settings).nfe == (10 if solver == "euler" else 20)


def test_only_valid_pixels_count_and_none_means_no_score() -> None:
    valid = ALL.copy()
    valid[0, :32] = False
    valid[1] = False
    scorer = Odeed(GaussianRunner(), OdeedSettings())
    everywhere, masked = scorer.score(images(), ALL), scorer.score(images(), valid)
    assert masked.score[0] == pytest.approx(everywhere.error_map[0, 32:].mean(), rel=1e-5)
    assert np.isnan(masked.score[1])
    assert masked.score[2] == everywhere.score[2]
    assert np.isfinite(masked.error_map).all()
    assert not masked.error_map[~valid].any()
    assert (masked.score.dtype, masked.error_map.dtype) == (np.float32, np.float32)


def test_a_tiles_score_does_not_depend_on_its_neighbours() -> None:
    runner = GaussianRunner()
    scorers: list[Scorer] = [
        Odeed(runner, OdeedSettings()),
        OneStepDenoising(denoiser=runner),
        DiffusionLoss(denoiser=runner, sigma_data=0.4),
    ]
    for scorer in scorers:
        whole = scorer.score(images(), ALL)
        alone = scorer.score(images()[1:2], ALL[1:2])
        np.testing.assert_allclose(alone.score[0], whole.score[1], rtol=1e-6, err_msg=scorer.name)
        assert alone.error_map is not None
        assert whole.error_map is not None
        np.testing.assert_allclose(alone.error_map[0], whole.error_map[1], rtol=1e-5, err_msg=scorer.name)
        assert whole.nfe == scorer.nfe
        nothing = scorer.score(images()[:1], np.zeros((1, 64, 64), dtype=np.bool_))
        assert np.isnan(nothing.score[0]), scorer.name


def test_one_step_denoising_has_its_expected_value() -> None:
    # x at the mean: D - x = V / (V + s^2) * s n, whose mean square over 12,288 draws is (V s / (V + s^2))^2.
    s = 0.5
    x = np.full((1, 3, 64, 64), MU, dtype=np.float32)
    result = OneStepDenoising(denoiser=GaussianRunner(), sigma=s).score(x, ALL[:1])
    assert result.score[0] == pytest.approx((V * s / (V + s * s)) ** 2, rel=0.05)
    weighted = DiffusionLoss(denoiser=GaussianRunner(), sigma_data=0.4, sigmas=(s,)).score(x, ALL[:1])
    assert weighted.score[0] == pytest.approx(result.score[0] * (s * s + 0.16) / (s * 0.4) ** 2, rel=1e-5)


def test_the_feature_distance_compares_patches() -> None:
    embedder = Embedder(MeanEncoder())
    x = np.ones((2, 3, 64, 32), dtype=np.float32) * 0.5
    other = x.copy()
    other[1, :, 32:] *= -1
    np.testing.assert_allclose(embedder.distance(x, other), [0.0, 1.0], atol=1e-6)  # one of two patches reversed
    batch = embedder.embed(x)
    assert batch.patch_tokens.shape == (2, 2, 1, 3)
    np.testing.assert_allclose(np.linalg.norm(batch.cls, axis=1), 1.0, rtol=1e-6)


def test_odeed_reports_a_feature_distance_where_asked() -> None:
    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a - b).max(axis=(1, 2, 3))

    settings = OdeedSettings(steps=2)
    result = Odeed(GaussianRunner(), settings, feature_distance=distance).score(images(), ALL)
    assert result.feature_distance is not None
    assert (result.feature_distance**2 >= result.score).all()
    assert Odeed(GaussianRunner(), settings).score(images(), ALL).feature_distance is None


def test_wrong_tiles_and_masks_are_refused() -> None:
    scorer = Odeed(GaussianRunner(), OdeedSettings())
    with pytest.raises(InputMismatch, match=r"float64\[3, 3, 64, 64\].*float32"):
        scorer.score(images().astype(np.float64), ALL)
    with pytest.raises(InputMismatch, match=r"\[3, 2, 64, 64\].*3, 64, 64"):
        scorer.score(images()[:, :2], ALL)
    with pytest.raises(InputMismatch, match="mask"):
        masked_mse(images(), images(), ALL.astype(np.uint8))
    with pytest.raises(InputMismatch, match="mask"):
        masked_mse(images(), images(), ALL[:, :8])


def test_settings_round_trip_and_refuse_the_impossible() -> None:
    settings = OdeedSettings(solver="heun", steps=4, sigma_max=2.0)
    assert OdeedSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(InputMismatch, match="stepz"):
        OdeedSettings.from_dict({"stepz": 3})
    with pytest.raises(InputMismatch, match="rk4"):
        OdeedSettings(solver="rk4")  # type: ignore[arg-type]
    with pytest.raises(InputMismatch, match="steps 0"):
        OdeedSettings(steps=0)
