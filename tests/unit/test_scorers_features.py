"""Distances of embeddings, from normal ones and between two looks, and the other paired scores."""

from __future__ import annotations

import numpy as np
import pytest

from engine.embed import Embedder, unit_rows
from engine.errors import InputMismatch
from engine.ode import karras_sigmas
from engine.odeed import Odeed, OdeedSettings
from engine.scorers.base import PairedScorer, Scorer
from engine.scorers.baselines import DiffusionLoss, OneStepDenoising
from engine.scorers.controls import DarkShare, WaterIndex
from engine.scorers.density import Gaussian
from engine.scorers.features import FeatureMahalanobis, FeatureNeighbours, TokenNeighbours, top_mean
from engine.scorers.normal import normal_arrays
from engine.scorers.paired import (
    Conditional,
    Contrast,
    Difference,
    EmbeddingDistance,
    PixelDistance,
    TokenDistance,
)
from engine.scorers.path_scorers import PathLength
from tests.exact_networks import KNOWN_V, MU, GaussianRunner, MeanEncoder

ALL = np.ones((3, 64, 32), dtype=np.bool_)
SETTINGS = OdeedSettings(steps=3, sigma_max=5.0)


def told_denoiser() -> GaussianRunner:
    """A denoiser that takes a condition, for tiles of the encoder's shape."""
    return GaussianRunner(64, width=32, cond=True)


def tiles(n: int = 3, seed: int = 0) -> np.ndarray:
    """Noise on two colours, one for each patch."""
    rng = np.random.default_rng(seed)
    colour = rng.uniform(-0.6, 0.6, (n, 3, 2, 1)).repeat(32, axis=2)
    return (colour + rng.uniform(-0.2, 0.2, (n, 3, 64, 32))).astype(np.float32)


def arrays(n: int = 12) -> dict[str, np.ndarray]:
    return normal_arrays(
        None, MeanEncoder(), tiles(n, seed=3), np.ones((n, 64, 32), np.bool_), karras_sigmas(2), batch=5
    )


def test_normal_embeddings_are_unit_rows_in_order_and_tokens_are_evenly_taken() -> None:
    normal = arrays()
    embedding = Embedder(MeanEncoder()).embed(tiles(12, seed=3))
    np.testing.assert_allclose(normal["normal_cls"], embedding.cls, rtol=1e-6)
    tokens = unit_rows(embedding.patch_tokens).reshape(24, 3)
    np.testing.assert_allclose(normal["normal_tokens"], tokens, rtol=1e-6)
    valid = np.ones((12, 64, 32), dtype=np.bool_)
    valid[0, 40, 3] = False  # the lower patch of the first tile
    some = normal_arrays(None, MeanEncoder(), tiles(12, seed=3), valid, karras_sigmas(2), tokens=4)["normal_tokens"]
    np.testing.assert_allclose(some, np.delete(tokens, 1, axis=0)[[0, 5, 11, 17]], rtol=1e-6)
    assert "normal_tokens" not in normal_arrays(
        None, MeanEncoder(), tiles(12), np.ones_like(valid), karras_sigmas(2), tokens=0
    )


def test_neighbour_scores_equal_their_loops() -> None:
    normal, x, embedder = arrays(), tiles(), Embedder(MeanEncoder())
    embedding = embedder.embed(x)
    whole = FeatureNeighbours(embedder=embedder, normal=normal["normal_cls"], k=3).score(x, ALL)
    parts = TokenNeighbours(embedder=embedder, normal=normal["normal_tokens"], k=3, share=0.5).score(x, ALL)
    assert parts.error_map is not None
    for i in range(3):
        near = sorted(1 - float(embedding.cls[i] @ row) for row in normal["normal_cls"])[:3]
        assert whole.score[i] == pytest.approx(np.mean(near), abs=1e-6)
        distances = []
        for patch in range(2):
            token = unit_rows(embedding.patch_tokens)[i, patch, 0]
            distances.append(np.mean(sorted(1 - float(token @ row) for row in normal["normal_tokens"])[:3]))
            rows = slice(32 * patch, 32 * patch + 32)
            np.testing.assert_allclose(parts.error_map[i, rows], distances[-1], atol=1e-6)
        assert parts.score[i] == pytest.approx(max(distances), abs=1e-6)  # half of two patches is one


def test_feature_mahalanobis_is_the_gaussians() -> None:
    normal, x, embedder = arrays(), tiles(), Embedder(MeanEncoder())
    scorer = FeatureMahalanobis.fit(normal["normal_cls"], embedder=embedder)
    expected = Gaussian.fit(normal["normal_cls"]).mahalanobis(embedder.embed(x).cls)
    np.testing.assert_array_equal(scorer.score(x, ALL).score, expected)


def test_top_mean_takes_one_value_at_least() -> None:
    values = np.arange(40, dtype=np.float32)
    assert top_mean(values, 0.05) == 38.5
    assert top_mean(values, 0.001) == 39
    assert top_mean(values, 1.0) == 19.5
    assert top_mean(values[:20], 0.05) == 19  # 0.05 of 20 is 1, whatever rounding says


def unpaired() -> list[Scorer]:
    normal, embedder = arrays(), Embedder(MeanEncoder())
    return [
        FeatureMahalanobis.fit(normal["normal_cls"], embedder=embedder),
        FeatureNeighbours(embedder=embedder, normal=normal["normal_cls"]),
        TokenNeighbours(embedder=embedder, normal=normal["normal_tokens"]),
    ]


def test_feature_scorers_keep_the_scorers_promises() -> None:
    valid = ALL.copy()
    valid[0, 32:] = False
    valid[2] = False
    names = []
    for scorer in unpaired():
        whole, alone = scorer.score(tiles(), valid), scorer.score(tiles()[1:2], valid[1:2])
        assert whole.score.dtype == np.float32
        assert alone.score[0] == pytest.approx(whole.score[1], rel=1e-4, abs=1e-6)
        assert np.isfinite(whole.score[:2]).all()
        assert np.isnan(whole.score[2])
        assert whole.nfe == scorer.nfe == 0
        if whole.error_map is not None:
            assert not whole.error_map[~valid].any()
            assert whole.score[0] == pytest.approx(whole.error_map[0, 0, 0])  # only the upper patch has ground
        with pytest.raises(InputMismatch, match="mask"):
            scorer.score(tiles(), valid[:, :4])
        names.append(scorer.name)
    assert names == ["feature-mahalanobis", "feature-knn", "token-knn"]


def paired() -> list[PairedScorer]:
    embedder, told = Embedder(MeanEncoder()), told_denoiser()
    odeed, one_step = Odeed(told, SETTINGS), OneStepDenoising(denoiser=told)
    return [
        PixelDistance(),
        EmbeddingDistance(embedder=embedder),
        TokenDistance(embedder=embedder),
        Difference(of=DarkShare(band=0, below=0.5), name="dark-share-difference"),
        Difference(of=WaterIndex(visible=2, infrared=0), name="water-index-difference"),
        Difference(of=odeed, log=True, name="odeed-difference"),
        Difference(of=odeed, log=True, absolute=True, name="odeed-change"),
        Conditional(of=odeed, name="conditional-odeed"),
        Conditional(of=one_step, name="conditional-one-step"),
        Contrast(of=odeed, name="odeed-contrast"),
        Contrast(of=one_step, name="one-step-contrast"),
    ]


def test_paired_scorers_keep_their_promises() -> None:
    x, earlier = tiles(), tiles(seed=1)
    valid, earlier_valid = ALL.copy(), ALL.copy()
    valid[2] = False
    valid[0, :, :7] = False
    earlier_valid[0, 50:] = False
    for scorer in paired():
        whole = scorer.score(x, valid, earlier, earlier_valid)
        alone = scorer.score(x[1:2], valid[1:2], earlier[1:2], earlier_valid[1:2])
        assert whole.score.dtype == np.float32, scorer.name
        assert alone.score[0] == pytest.approx(whole.score[1], rel=1e-4, abs=1e-6), scorer.name
        assert np.isfinite(whole.score[:2]).all(), scorer.name
        assert np.isnan(whole.score[2]), scorer.name
        assert whole.nfe == scorer.nfe
        swapped = scorer.score(earlier, earlier_valid, x, valid).score[:2]
        if scorer.symmetric:
            np.testing.assert_array_equal(swapped, whole.score[:2], err_msg=scorer.name)
        else:
            # Of the first tile other ground is valid before than now; else this denoiser's conditional scores would be
            # symmetric, being distances between the looks.
            assert abs(swapped[0] - whole.score[0]) > 1e-6, scorer.name
        if isinstance(scorer, Difference) and not scorer.absolute:
            np.testing.assert_array_equal(swapped, -whole.score[:2])
        if whole.error_map is not None:
            assert not whole.error_map[~valid].any()
        with pytest.raises(InputMismatch, match="mask"):
            scorer.score(x, valid, earlier, earlier_valid[:, :4])
        with pytest.raises(InputMismatch, match="same ground"):
            scorer.score(x, valid, earlier[:2], earlier_valid[:2])


def test_two_equal_looks_have_no_distance() -> None:
    x = tiles()
    for scorer in paired()[:7]:
        result = scorer.score(x, ALL, x, ALL)
        np.testing.assert_allclose(result.score, 0, atol=1e-6, err_msg=scorer.name)


def test_distances_of_two_looks_are_what_they_say() -> None:
    x = tiles()
    earlier = x.copy()
    earlier[:, :, 32:] *= -1  # the lower patch points the other way
    embedder = Embedder(MeanEncoder())
    pixel = PixelDistance().score(x, ALL, earlier, ALL).score
    np.testing.assert_allclose(pixel, (4 * x[:, :, 32:].astype(np.float64) ** 2).mean(axis=(1, 2, 3)) / 2, rtol=1e-5)
    token = TokenDistance(embedder=embedder).score(x, ALL, earlier, ALL)
    np.testing.assert_allclose(token.score, 2, rtol=1e-5)  # the most changed of two patches
    np.testing.assert_allclose(
        TokenDistance(embedder=embedder, share=1.0).score(x, ALL, earlier, ALL).score, 1, rtol=1e-5
    )
    hidden = ALL.copy()
    hidden[:, 32:] = False
    np.testing.assert_allclose(TokenDistance(embedder=embedder).score(x, ALL, earlier, hidden).score, 0, atol=1e-6)
    now, then = embedder.embed(x).cls, embedder.embed(earlier).cls
    np.testing.assert_allclose(
        EmbeddingDistance(embedder=embedder).score(x, ALL, earlier, ALL).score,
        [1 - float(a @ b) for a, b in zip(now, then, strict=True)],
        atol=1e-6,
    )


def test_a_difference_is_taken_over_common_ground() -> None:
    x, earlier = np.full_like(tiles(1), -0.9), np.full_like(tiles(1), 0.9)
    earlier[:, :, :, :8] = -0.9
    gap = ALL[:1].copy()
    gap[:, :, 8:16] = False
    dark = Difference(of=DarkShare(band=0), name="dark-share-difference").score(x, ALL[:1], earlier, gap)
    assert dark.score[0] == pytest.approx(1 - 8 / 24)
    assert dark.error_map is not None
    np.testing.assert_array_equal(dark.error_map[0, 0], [0.0] * 16 + [1.0] * 16)
    odeed = Odeed(told_denoiser(), SETTINGS)
    signed = Difference(of=odeed, log=True, name="odeed-difference").score(x, ALL[:1], earlier * 0 + MU + 0.1, gap)
    # ODEED of a linear flow is a constant times the squared distance from MU.
    assert signed.score[0] == pytest.approx(np.log((-0.9 - MU) ** 2 / 0.1**2), rel=1e-3)
    assert signed.nfe == 2 * odeed.nfe


def test_a_conditional_score_measures_the_distance_from_the_earlier_look() -> None:
    told, x = told_denoiser(), tiles()
    odeed = Odeed(told, SETTINGS)
    scorer = Conditional(of=odeed, name="conditional-odeed")
    near, far = (scorer.score(x, ALL, (x + np.float32(d)).astype(np.float32), ALL).score for d in (0.1, 0.2))
    np.testing.assert_allclose(far / near, 4, rtol=1e-3)
    nothing = scorer.score(x, ALL, x, np.zeros_like(ALL)).score
    np.testing.assert_array_equal(nothing, odeed.score(x, ALL).score)
    length = Conditional(of=PathLength(denoiser=told, schedule=SETTINGS.schedule()), name="conditional-path-length")
    assert length.score(x, ALL, x, ALL).score.max() < 1e-4
    loss = Conditional(of=DiffusionLoss(denoiser=told, sigma_data=0.4, sigmas=(1.0,)), name="conditional-loss")
    known = loss.score(x, ALL, x, ALL).score
    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 32), dtype=np.float32)
    weight = (1 + 0.16) / 0.16
    np.testing.assert_allclose(known, weight * (KNOWN_V / (KNOWN_V + 1)) ** 2 * (noise**2).mean(), rtol=1e-3)


def test_the_contrast_is_the_log_of_the_two_scores_ratio() -> None:
    told, x = told_denoiser(), tiles()
    earlier = (x + np.float32(0.1)).astype(np.float32)
    one_step = OneStepDenoising(denoiser=told, sigma=0.7)
    contrast = Contrast(of=one_step, name="one-step-contrast").score(x, ALL, earlier, ALL)
    known = Conditional(of=one_step, name="conditional").score(x, ALL, earlier, ALL)
    free = one_step.score(x, ALL)
    np.testing.assert_allclose(contrast.score, np.log(known.score / free.score), rtol=1e-4)
    assert known.error_map is not None
    assert contrast.error_map is not None
    np.testing.assert_allclose(contrast.error_map, known.error_map - free.error_map, atol=1e-6)
    assert (contrast.score < 0).all()  # the place explains the tile


def test_a_denoiser_without_a_condition_refuses_one() -> None:
    scorer = Conditional(of=OneStepDenoising(denoiser=GaussianRunner(8)), name="conditional-one-step")
    x = np.zeros((1, 3, 8, 8), dtype=np.float32)
    valid = np.ones((1, 8, 8), dtype=np.bool_)
    with pytest.raises(InputMismatch, match="cond"):
        scorer.score(x, valid, x, valid)


def test_impossible_neighbours_and_shares_are_refused() -> None:
    embedder, normal = Embedder(MeanEncoder()), arrays()["normal_cls"]
    with pytest.raises(InputMismatch, match="99 neighbours"):
        FeatureNeighbours(embedder=embedder, normal=normal, k=99)
    with pytest.raises(InputMismatch, match="share of 0"):
        TokenDistance(embedder=embedder, share=0.0)
    with pytest.raises(InputMismatch, match="cannot be compared"):
        FeatureNeighbours(embedder=embedder, normal=normal[:, :2]).score(tiles(), ALL)
