"""Images from noise: EDM's deterministic sampler (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.ode import Denoise, karras_sigmas, solve_heun


def sample(denoise: Denoise, noise: Tensor, *, steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """``steps`` steps from σ_max down to 0: Heun's but for the last, from σ_min to 0, which is Euler's.

    That last Euler step, ``x + (0 - σ)(x - D) / σ``, is ``D(x; σ_min)``; so there are ``2·steps - 1`` evaluations.

    Args:
        denoise: D.
        noise: unit normal, (N, C, H, W).
        steps: 2 or more.
        sigma_min: last level above 0.
        sigma_max: first level.

    Returns:
        Images as the denoiser makes them, (N, C, H, W).

    Raises:
        InputMismatch: levels or steps that make no grid.
    """
    schedule = karras_sigmas(steps - 1, sigma_min, sigma_max)
    with torch.no_grad():
        nearly: Tensor = solve_heun(denoise, sigma_max * noise, schedule.down).x
        clean: Tensor = denoise(nearly, sigma_min)
    return clean
