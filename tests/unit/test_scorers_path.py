"""The encode leg and what is read off it, on a flow known in closed form and against loops; MSMA and levels too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.errors import InputMismatch
from engine.ode import encode_decode, karras_sigmas
from engine.odeed import denoise_with
from engine.scorers.base import Scorer
from engine.scorers.baselines import OneStepDenoising
from engine.scorers.controls import MeanColour
from engine.scorers.density import Gaussian
from engine.scorers.levels import LevelScore, level_errors
from engine.scorers.msma import Msma, score_norms
from engine.scorers.normal import normal_arrays
from engine.scorers.path import path_statistics
from engine.scorers.path_scorers import (
    DiffPath,
    DiffPathRate,
    MsmaPath,
    PathCurvature,
    PathLength,
    PathScorer,
    PathTurning,
    log_norms,
)
from tests.exact_networks import KNOWN_V, MU, GaussianRunner, V

SIDE = 8
SCHEDULE = karras_sigmas(5, 0.05, 5.0)
SIGMAS = (0.1, 0.5, 2.0)


def images(n: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, SIDE, SIDE)).astype(np.float32)


def everywhere(n: int = 3) -> np.ndarray:
    return np.ones((n, SIDE, SIDE), dtype=np.bool_)


def holes(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((n, SIDE, SIDE)) < 0.7


def factors() -> np.ndarray:
    """eps_i = factor_i (x - MU) on the flow of N(MU, V), where each Euler step multiplies x - MU by a number."""
    out, gain = [], 1.0
    for a, b in pairwise(SCHEDULE.up):
        slope = a / (V + a * a)
        out.append(slope * gain)
        gain *= 1 + (b - a) * slope
    return np.asarray([*out, gain])


def test_a_linear_flows_statistics_in_closed_form() -> None:
    x, valid = images(), everywhere()
    path = path_statistics(GaussianRunner(SIDE), x, valid, SCHEDULE)
    away = x.astype(np.float64) - MU
    m1, m2, m3 = (np.mean(away**k, axis=(1, 2, 3)) for k in (1, 2, 3))
    r = np.sqrt(m2)
    *f, gain = factors()
    f = np.asarray(f)
    rate = 5 * np.diff(f)  # t moves by a fifth a step
    np.testing.assert_allclose(path.length, (gain - 1) * r, rtol=1e-4)  # a straight path: its ends' distance
    np.testing.assert_allclose(path.curvature, np.abs(np.diff(f)).sum() * r, rtol=1e-4)
    np.testing.assert_allclose(path.turning, 0, atol=1e-3)  # straight
    np.testing.assert_allclose(path.norms, np.outer(r, f), rtol=1e-4)
    expected = [f.sum() * m1, (f**2).sum() * m2, (f**3).sum() * m3]
    expected += [rate.sum() * m1, (rate**2).sum() * m2, (rate**3).sum() * m3]
    np.testing.assert_allclose(path.diffpath, np.stack(expected, axis=1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(path.length_map, (gain - 1) * np.sqrt((away**2).mean(axis=1)), rtol=1e-3)
    assert path.nfe == 5


def test_the_path_is_odeeds_first_leg() -> None:
    trip = encode_decode(denoise_with(GaussianRunner(SIDE)), images(), SCHEDULE)
    path = path_statistics(GaussianRunner(SIDE), images(), everywhere(), SCHEDULE)
    np.testing.assert_array_equal(path.latent, trip.latent)
    assert path.nfe == trip.nfe // 2


def test_a_bent_path_equals_its_loop_over_valid_pixels() -> None:
    """Bands of different variance: the slope turns."""
    runner, x, valid = GaussianRunner(SIDE, v=(0.01, 0.2, 1.0)), images(), holes()
    path = path_statistics(runner, x, valid, SCHEDULE)
    denoise = denoise_with(runner)
    for tile in range(len(x)):
        state = x[tile : tile + 1].astype(np.float64)
        slopes, positions = [], [state]
        for a, b in pairwise(SCHEDULE.up):
            slope = (state - denoise(state.astype(np.float32), a)) / a
            state = state + (b - a) * slope
            slopes.append(slope[0][:, valid[tile]].ravel())
            positions.append(state)
        seen = [position[0][:, valid[tile]].ravel() for position in positions]
        size = np.sqrt(len(seen[0]))
        length = sum(np.linalg.norm(b - a) for a, b in pairwise(seen)) / size
        curvature = sum(np.linalg.norm(b - a) for a, b in pairwise(slopes)) / size
        turning = sum(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairwise(slopes))
        cubes = sum(((5 * (b - a)) ** 3).mean() for a, b in pairwise(slopes))
        assert path.length[tile] == pytest.approx(length, rel=1e-4)
        assert path.curvature[tile] == pytest.approx(curvature, rel=1e-4)
        assert path.turning[tile] == pytest.approx(turning, rel=1e-3)
        assert turning > 0.1
        assert path.diffpath[tile, 5] == pytest.approx(cubes, rel=1e-3)
        np.testing.assert_allclose(path.norms[tile], [np.linalg.norm(s) / size for s in slopes], rtol=1e-4)
    assert not path.length_map[~valid].any()
    assert not path.curvature_map[~valid].any()


def test_turning_does_not_know_the_energy() -> None:
    runner = GaussianRunner(SIDE, v=(0.01, 0.2, 1.0))
    x = images()
    twice = (2 * (x - MU) + MU).astype(np.float32)
    once, more = (path_statistics(runner, tiles, everywhere(), SCHEDULE) for tiles in (x, twice))
    np.testing.assert_allclose(more.turning, once.turning, rtol=1e-3)
    np.testing.assert_allclose(more.curvature, 2 * once.curvature, rtol=1e-3)


def test_a_condition_reaches_the_path_and_the_levels() -> None:
    runner, x = GaussianRunner(SIDE, cond=True), images()
    known = np.concatenate([x, np.ones((3, 1, SIDE, SIDE), np.float32)], axis=1)
    assert path_statistics(runner, x, everywhere(), SCHEDULE, known).length.max() < 1e-4  # it is where it should be
    assert path_statistics(runner, x, everywhere(), SCHEDULE).length.min() > 1
    assert score_norms(runner, x, everywhere(), SIGMAS, known).max() < 1e-4
    told, _ = level_errors(runner, x, everywhere(), (1.0,), cond=known)
    noise = np.random.default_rng(0).standard_normal((3, SIDE, SIDE), dtype=np.float32)
    assert told[0, 0] == pytest.approx((KNOWN_V / (KNOWN_V + 1)) ** 2 * (noise**2).mean(), rel=1e-3)


def test_score_norms_in_closed_form() -> None:
    x, valid = images(), holes()
    norms = score_norms(GaussianRunner(SIDE), x, valid, SIGMAS)
    for tile in range(3):
        r = np.sqrt(((x[tile][:, valid[tile]].astype(np.float64) - MU) ** 2).mean())
        for level, sigma in enumerate(SIGMAS):
            assert norms[tile, level] == pytest.approx(sigma / (V + sigma**2) * r, rel=1e-4)


def test_level_errors_are_one_step_denoising_each_with_its_own_noise() -> None:
    errors, maps = level_errors(GaussianRunner(SIDE), images(), everywhere(), SIGMAS, seed=7)
    for level, sigma in enumerate(SIGMAS):
        single = OneStepDenoising(denoiser=GaussianRunner(SIDE), sigma=sigma, seed=7 + level)
        np.testing.assert_array_equal(errors[:, level], single.score(images(), everywhere()).score)
    assert maps.shape == (3, 3, SIDE, SIDE)


def arrays(n: int = 30) -> dict[str, np.ndarray]:
    return normal_arrays(
        GaussianRunner(SIDE),
        None,
        images(n, seed=5),
        everywhere(n),
        SCHEDULE,
        msma_sigmas=SIGMAS,
        level_sigmas=SIGMAS,
        batch=7,
    )


def path_scorers() -> list[PathScorer]:
    runner, normal = GaussianRunner(SIDE), arrays()
    return [
        PathLength(denoiser=runner, schedule=SCHEDULE),
        PathCurvature(denoiser=runner, schedule=SCHEDULE),
        PathTurning(denoiser=GaussianRunner(SIDE, v=(0.01, 0.2, 1.0)), schedule=SCHEDULE),
        DiffPath.fit(normal["normal_path"], denoiser=runner, schedule=SCHEDULE),
        DiffPathRate.fit(normal["normal_path"], denoiser=runner, schedule=SCHEDULE),
        MsmaPath.fit(normal["normal_path_norms"], denoiser=runner, schedule=SCHEDULE),
    ]


def scorers() -> list[Scorer]:
    runner, normal = GaussianRunner(SIDE), arrays()
    return [
        *path_scorers(),
        Msma.fit(normal["normal_msma"], denoiser=runner, sigmas=SIGMAS),
        LevelScore.fit(normal["normal_levels"], denoiser=runner, sigmas=SIGMAS),
    ]


def test_all_keep_the_scorers_promises() -> None:
    valid = holes()
    valid[2] = False
    for scorer in scorers():
        whole, alone = scorer.score(images(), valid), scorer.score(images()[1:2], valid[1:2])
        assert whole.score.dtype == np.float32, scorer.name
        np.testing.assert_allclose(alone.score[0], whole.score[1], rtol=1e-5, err_msg=scorer.name)
        assert np.isfinite(whole.score[:2]).all(), scorer.name
        assert np.isnan(whole.score[2]), scorer.name
        assert whole.nfe == scorer.nfe == (3 if scorer.name in ("msma", "level-z") else 5)
        if whole.error_map is not None:
            assert np.isfinite(whole.error_map).all()
            assert whole.error_map[:2].any()
            assert not whole.error_map[~valid].any()
        with pytest.raises(InputMismatch, match="mask"):
            scorer.score(images(), valid[:, :4])
    names = [scorer.name for scorer in scorers()]
    assert names == [
        *("path-length", "path-curvature", "path-turning", "diffpath", "diffpath-1d", "msma-path", "msma", "level-z")
    ]


def test_one_leg_serves_all_path_scorers() -> None:
    path = path_statistics(GaussianRunner(SIDE), images(), everywhere(), SCHEDULE)
    for scorer in path_scorers():
        if scorer.name != "path-turning":  # its network is another
            np.testing.assert_array_equal(scorer.of(path).score, scorer.score(images(), everywhere()).score)


def test_density_scorers_are_the_density_of_their_arrays() -> None:
    runner, normal, x = GaussianRunner(SIDE), arrays(), images()
    path = path_statistics(runner, x, everywhere(), SCHEDULE)
    np.testing.assert_array_equal(
        DiffPath.fit(normal["normal_path"], denoiser=runner, schedule=SCHEDULE).of(path).score,
        Gaussian.fit(normal["normal_path"]).negative_log_density(path.diffpath),
    )
    # One number: the density is in the books.
    rate, seen = np.sqrt(normal["normal_path"][:, 4].astype(np.float64)), np.sqrt(path.diffpath[:, 4])
    z = (seen - rate.mean()) / rate.std()
    variance = 1 + 1e-6
    expected = 0.5 * (z**2 / variance + np.log(2 * np.pi * variance)) + np.log(rate.std())
    scorer = DiffPathRate.fit(normal["normal_path"], denoiser=runner, schedule=SCHEDULE)
    np.testing.assert_allclose(scorer.of(path).score, expected, rtol=1e-3)
    msma = Msma.fit(normal["normal_msma"], denoiser=runner, sigmas=SIGMAS)
    middle = np.exp(log_norms(normal["normal_msma"]).mean(axis=0, dtype=np.float64)).astype(np.float32)
    assert msma.density.negative_log_density(log_norms(middle[None]))[0] < msma.score(x, everywhere()).score.min()


def test_strange_tiles_are_strange_to_the_densities() -> None:
    flat = np.full((3, 3, SIDE, SIDE), 0.9, dtype=np.float32)
    for scorer in scorers():
        if scorer.name not in ("path-turning", "level-z"):
            normal = scorer.score(images(10, seed=9), everywhere(10)).score
            assert scorer.score(flat, everywhere()).score.min() > normal.max(), scorer.name


def test_level_z_of_normal_tiles_is_zero_on_average_and_the_map_averages_to_the_score() -> None:
    normal = arrays()
    scorer = LevelScore.fit(normal["normal_levels"], denoiser=GaussianRunner(SIDE), sigmas=SIGMAS)
    own = scorer.score(images(30, seed=5), everywhere(30))
    assert own.score.mean() == pytest.approx(0, abs=1e-4)
    valid = holes()
    result = scorer.score(images(), valid)
    assert result.error_map is not None
    for tile in range(3):
        assert result.error_map[tile][valid[tile]].mean() == pytest.approx(result.score[tile], abs=1e-3)


def test_normal_arrays_do_not_depend_on_the_batch() -> None:
    one, other = arrays(), normal_arrays(
        GaussianRunner(SIDE), None, images(30, seed=5), everywhere(30), SCHEDULE, msma_sigmas=SIGMAS,
        level_sigmas=SIGMAS, batch=30,
    )  # fmt: skip
    shapes = {"normal_colour": 3, "normal_path": 6, "normal_path_norms": 5, "normal_msma": 3, "normal_levels": 3}
    assert {name: array.shape for name, array in one.items()} == {name: (30, k) for name, k in shapes.items()}
    for name, array in one.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, other[name], rtol=1e-5, atol=1e-7, err_msg=name)
    colours = MeanColour.of(one["normal_colour"])
    np.testing.assert_allclose(colours.mean, images(30, seed=5).mean(axis=(0, 2, 3)), rtol=1e-4)


def test_arrays_of_other_levels_and_empty_tiles_are_refused() -> None:
    normal, runner = arrays(), GaussianRunner(SIDE)
    with pytest.raises(InputMismatch, match="2 levels"):
        Msma.fit(normal["normal_msma"], denoiser=runner, sigmas=(0.1, 0.2))
    with pytest.raises(InputMismatch, match="2 levels"):
        LevelScore.fit(normal["normal_levels"], denoiser=runner, sigmas=(0.1, 0.2))
    with pytest.raises(InputMismatch, match="that differ"):
        LevelScore.fit(np.ones((5, 3), np.float32), denoiser=runner, sigmas=SIGMAS)
    with pytest.raises(InputMismatch, match="other noise levels"):
        MsmaPath.fit(normal["normal_path_norms"][:, :3], denoiser=runner, schedule=SCHEDULE).score(
            images(), everywhere()
        )
    valid = everywhere()
    valid[1] = False
    with pytest.raises(InputMismatch, match="each must have a valid pixel"):
        normal_arrays(runner, None, images(), valid, SCHEDULE)
