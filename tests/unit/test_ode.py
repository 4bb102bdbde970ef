"""Solvers against an exact solution.

For data N(mu, v I) the ideal denoiser is D(x; s) = (v x + s^2 mu) / (v + s^2), and the flow from (x0, s0) is
x(s) = mu + (x0 - mu) sqrt((v + s^2) / (v + s0^2)).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputMismatch
from engine.ode import Schedule, encode_decode, karras_sigmas, solve_adaptive, solve_euler, solve_heun

MU, V = 0.3, 0.25
LOW, HIGH = 0.05, 5.0


class Gaussian:
    """The ideal denoiser, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, x: Any, sigma: float) -> Any:
        self.asked += 1
        return (V * x + sigma**2 * MU) / (V + sigma**2)


def exact(x0: np.ndarray, s0: float, s: float) -> np.ndarray:
    return MU + (x0 - MU) * math.sqrt((V + s**2) / (V + s0**2))


def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 4))  # float64: orders show without rounding


def order(errors: list[float]) -> float:
    """Observed order from the last halving of the step."""
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize(("solve", "expected"), [(solve_euler, 1.0), (solve_heun, 2.0)])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_leg_converges_at_the_solvers_order(solve: Any, expected: float, direction: str) -> None:
    start, end = (LOW, HIGH) if direction == "up" else (HIGH, LOW)
    x0 = image()
    errors = []
    for steps in (40, 80, 160):
        sigmas = getattr(karras_sigmas(steps, LOW, HIGH), direction)
        errors.append(float(np.abs(solve(Gaussian(), x0, sigmas).x - exact(x0, start, end)).max()))
    assert order(errors) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("solver", "expected"), [("euler", 1.0), ("heun", 3.0)])
def test_the_round_trip_converges_at_order_1_and_3(solver: Any, expected: float) -> None:
    # An even-order method's leading error cancels on the way back.
    x0 = image()
    errors = [
        float(np.abs(encode_decode(Gaussian(), x0, karras_sigmas(n, LOW, HIGH), solver).reconstruction - x0).max())
        for n in (40, 80, 160)
    ]
    assert order(errors) == pytest.approx(expected, abs=0.1)


def test_with_many_steps_the_latent_is_the_exact_flow_and_the_round_trip_the_identity() -> None:
    x0 = image()
    trip = encode_decode(Gaussian(), x0, karras_sigmas(2000, LOW, HIGH), "heun")
    np.testing.assert_allclose(trip.latent, exact(x0, LOW, HIGH), rtol=1e-5)
    np.testing.assert_allclose(trip.reconstruction, x0, atol=1e-8)


@pytest.mark.parametrize(("solver", "per_leg"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_are_counted_as_they_happen(solver: Any, per_leg: int, steps: int) -> None:
    denoise = Gaussian()
    trip = encode_decode(denoise, image(), karras_sigmas(steps, LOW, HIGH), solver)
    assert trip.nfe == denoise.asked == 2 * steps * per_leg


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_adaptive_reference_follows_the_exact_flow(direction: str, kind: str) -> None:
    start, end = (LOW, HIGH) if direction == "up" else (HIGH, LOW)
    x0 = image()
    denoise = Gaussian()
    given_x = x0 if kind == "numpy" else torch.from_numpy(x0)
    solution = solve_adaptive(denoise, given_x, start, end, rtol=1e-8, atol=1e-9)
    assert type(solution.x) is type(given_x)
    np.testing.assert_allclose(np.asarray(solution.x), exact(x0, start, end), rtol=1e-6)
    assert solution.nfe == denoise.asked > 6


def test_fixed_steps_agree_with_the_adaptive_reference_on_a_crooked_flow() -> None:
    def two_modes(x: Any, sigma: float) -> Any:
        return 0.5 * np.tanh(0.5 * x / (sigma**2 + 0.05))  # posterior mean of data at -0.5 and 0.5, softened

    x0 = image()
    reference = solve_adaptive(two_modes, x0, LOW, HIGH, rtol=1e-9, atol=1e-10).x
    np.testing.assert_allclose(solve_heun(two_modes, x0, karras_sigmas(400, LOW, HIGH).up).x, reference, atol=1e-3)


def test_torch_and_numpy_take_the_same_steps() -> None:
    x0 = image().astype(np.float32)
    schedule = karras_sigmas(5, LOW, HIGH)
    a = encode_decode(Gaussian(), x0, schedule, "heun").reconstruction
    b = encode_decode(Gaussian(), torch.from_numpy(x0), schedule, "heun").reconstruction
    np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("half", [np.float16, torch.float16], ids=["numpy", "torch"])
def test_the_state_is_float32_whatever_the_denoiser_computes_in(half: Any) -> None:
    ideal = Gaussian()

    def halved(x: Any, sigma: float) -> Any:
        assert str(x.dtype).endswith("float32")
        out = ideal(x, sigma)
        return out.astype(half) if isinstance(out, np.ndarray) else out.to(half)

    x0 = image().astype(np.float16)
    start = x0 if half is np.float16 else torch.from_numpy(x0)
    assert str(encode_decode(halved, start, karras_sigmas(3, LOW, HIGH)).reconstruction.dtype).endswith("float32")


def test_the_grid_is_equation_5() -> None:
    # EDM's sampler at 18 levels, 0.002 to 80: its levels from the paper's formula, written down independently.
    levels = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert karras_sigmas(17, 0.002, 80.0).down == pytest.approx(levels)


@given(
    st.integers(1, 200),
    st.floats(1e-4, 1.0),
    st.floats(1.01, 1e5),
    st.floats(1.0, 10.0),
)
def test_a_grid_rises_from_end_to_end(steps: int, low: float, ratio: float, rho: float) -> None:
    schedule = karras_sigmas(steps, low, low * ratio, rho)
    assert schedule.steps == steps
    assert (schedule.up[0], schedule.up[-1]) == (low, low * ratio)
    assert all(a < b for a, b in pairwise(schedule.up))
    assert schedule.down == tuple(reversed(schedule.up))


@pytest.mark.parametrize("levels", [(0.0, 1.0), (1.0, 0.5), (1.0, 1.0), (1.0,), (-1.0, 1.0), (math.nan, 1.0)])
def test_a_schedule_that_cannot_be_solved_is_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(InputMismatch, match=r"sigma|rise|step"):
        Schedule(up=levels)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"sigma_min": 0.0}, {"sigma_min": 2.0, "sigma_max": 1.0}, {"sigma_max": math.nan}]
)
def test_an_impossible_grid_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputMismatch, match="expected"):
        karras_sigmas(**{"steps": 4, **wrong})
