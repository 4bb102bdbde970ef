"""The probability-flow ODE of EDM, solved up to high noise and down again.

::

    dx/dsigma = (x - D(x; sigma)) / sigma            Karras et al. 2022 (arXiv 2206.00364), equation 3 with
                                                      sigma(t) = t and the score of equation 2

Fixed-step solvers count evaluations of D: ``steps`` per leg for Euler, ``2 * steps`` for Heun. Arrays may be
numpy's or torch's; state and slope are float32 or wider whatever ``denoise`` computes in, because the round
trip's result is a small difference of near-equal images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from engine.errors import InputMismatch

Denoise = Callable[[Any, float], Any]
"""``denoise(x, sigma)`` is D(x; sigma) for a batch x of numpy or torch and one noise level."""

SolverName = Literal["euler", "heun"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The noise levels of both legs: the same grid up and down, so the legs cannot disagree."""

    up: tuple[float, ...]
    """Noise levels from sigma_min to sigma_max; above 0 and strictly ascending."""

    def __post_init__(self) -> None:
        if len(self.up) < 2:
            raise InputMismatch(f"a schedule of {len(self.up)} noise levels has no step; give 2 or more")
        if not self.up[0] > 0.0:
            raise InputMismatch(
                f"the schedule starts at sigma {self.up[0]}, where the slope divides by 0; start above 0"
            )
        if not all(low < high for low, high in pairwise(self.up)):
            raise InputMismatch(f"noise levels {self.up} do not rise strictly")

    @property
    def down(self) -> tuple[float, ...]:
        """The same levels from sigma_max to sigma_min."""
        return self.up[::-1]

    @property
    def steps(self) -> int:
        """Number of steps of one leg."""
        return len(self.up) - 1


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """The grid of Karras et al. 2022, equation 5, without its last level 0: ``steps + 1`` levels.

    Raises:
        InputMismatch: fewer than 1 step, ``sigma_min`` not above 0, or ``sigma_max`` not above ``sigma_min``.
    """
    if steps < 1 or not 0.0 < sigma_min < sigma_max or not rho > 0.0:
        raise InputMismatch(
            f"steps {steps}, sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}: "
            "steps >= 1, 0 < sigma_min < sigma_max and rho > 0 are expected"
        )
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    inner = [(low + i / steps * (high - low)) ** rho for i in range(1, steps)]  # equation 5, ascending
    # The ends are exact: (s ** (1 / rho)) ** rho is s only up to rounding.
    return Schedule(up=(float(sigma_min), *inner, float(sigma_max)))


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The state at the end of one leg."""

    x: Any
    """State, of the kind and shape that was given."""
    nfe: int
    """Number of evaluations of the denoiser."""


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """An image encoded to sigma_max and decoded back."""

    latent: Any
    """State at sigma_max, of the kind and shape that was given."""
    reconstruction: Any
    """State back at sigma_min."""
    nfe: int
    """Number of evaluations of the denoiser, both legs."""


def solve_euler(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Solution:
    """Euler steps along ``sigmas``, up or down: order 1, one evaluation a step."""
    x = _at_least_float32(x)
    nfe = 0
    for now, then in pairwise(sigmas):
        x = x + (then - now) * _slope(denoise, x, now)
        nfe += 1
    return Solution(x=x, nfe=nfe)


def solve_heun(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Solution:
    """Heun steps along ``sigmas``, up or down: order 2, two evaluations a step.

    The steps of Karras et al. 2022, algorithm 1; its exception for a last level of 0 cannot arise here.
    """
    x = _at_least_float32(x)
    nfe = 0
    for now, then in pairwise(sigmas):
        step = then - now
        slope = _slope(denoise, x, now)
        predicted = x + step * slope
        x = x + step * 0.5 * (slope + _slope(denoise, predicted, then))
        nfe += 2
    return Solution(x=x, nfe=nfe)


SOLVERS: dict[SolverName, Callable[[Denoise, Any, Sequence[float]], Solution]] = {
    "euler": solve_euler,
    "heun": solve_heun,
}


def encode_decode(denoise: Denoise, x: Any, schedule: Schedule, solver: SolverName = "euler") -> RoundTrip:
    """Integrate up the schedule and down again with the same solver.

    An exact solver would give ``x`` back for every image; what is left is discretisation error, that is, the
    curvature of the learned flow. Over the round trip it shrinks as O(h) for Euler and O(h^3) for Heun.
    """
    solve = SOLVERS[solver]
    up = solve(denoise, x, schedule.up)
    down = solve(denoise, up.x, schedule.down)
    return RoundTrip(latent=up.x, reconstruction=down.x, nfe=up.nfe + down.nfe)


def solve_adaptive(
    denoise: Denoise,
    x: Any,
    sigma_from: float,
    sigma_to: float,
    *,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> Solution:
    """torchdiffeq's solvers as reference, over ln(sigma), where the flow is smooth: dx/dln(sigma) = x - D.

    The step is chosen for the batch as a whole, so an image's result depends (within the tolerances) on its
    neighbours: a reference for the fixed-step solvers, no scorer.

    Args:
        denoise: receives what ``x`` is: numpy arrays for numpy, tensors for torch.
        x: state at ``sigma_from``.
        sigma_from: noise level to start from, above 0.
        sigma_to: noise level to end at, above 0, higher or lower.
        method: a solver name of torchdiffeq.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
    """
    import torch
    from torchdiffeq import odeint

    if not (sigma_from > 0.0 and sigma_to > 0.0):
        raise InputMismatch(f"noise levels {sigma_from} and {sigma_to} must be above 0")
    numpy_in = isinstance(x, np.ndarray)
    start = _at_least_float32(torch.from_numpy(x) if numpy_in else x)
    nfe = 0

    def slope(t: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        nonlocal nfe
        nfe += 1
        sigma = float(t.exp())
        clean = torch.from_numpy(np.asarray(denoise(state.numpy(), sigma))) if numpy_in else denoise(state, sigma)
        return state - clean.to(state.dtype)

    # Time in float64: ln(sigma) moves by less than float32 resolves when the solver takes small steps.
    span = torch.tensor([sigma_from, sigma_to], dtype=torch.float64, device=start.device).log()
    with torch.no_grad():
        end = odeint(slope, start, span, method=method, rtol=rtol, atol=atol)[-1]
    return Solution(x=end.numpy() if numpy_in else end, nfe=nfe)


def _slope(denoise: Denoise, x: Any, sigma: float) -> Any:
    """dx/dsigma at one noise level, in the state's precision."""
    return (x - _at_least_float32(denoise(x, sigma))) / sigma


def _at_least_float32(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    # A tensor: float() is float32. torch is not imported for this, numpy callers need not have it loaded.
    return x if str(x.dtype) == "torch.float64" else x.float()
