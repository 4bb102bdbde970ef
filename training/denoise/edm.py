"""Training of EDM denoisers: noise levels, loss, and the moving average of the weights.

Karras et al., *Elucidating the design space of diffusion-based generative models*, NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """Which noise levels a denoiser is trained on.

    Karras et al. (Table 1) draw ln σ ~ N(P_mean, P_std²) with P_mean = -1.2 for data of σ_data = 0.5. Only σ / σ_data
    matters to the preconditioned network, so for other data P_mean moves by ln(σ_data / 0.5).

    ODEED evaluates the denoiser up to σ_max, 3.5 standard deviations above that mean, where such a draw nearly never
    falls. A share ``wide`` is therefore drawn log-uniform over [``wide_min``, ``wide_max``]·σ_data.
    """

    sigma_data: float
    p_mean: float = -1.2
    p_std: float = 1.2
    wide: float = 0.0
    wide_min: float = 0.004
    wide_max: float = 80.0

    @property
    def shifted_mean(self) -> float:
        """Mean of ln σ."""
        return self.p_mean + math.log(self.sigma_data / 0.5)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels σ > 0.  (count,)"""
        normal = torch.randn(count, generator=generator)
        log_sigma = self.shifted_mean + self.p_std * normal
        low, high = (math.log(bound * self.sigma_data) for bound in (self.wide_min, self.wide_max))
        uniform = low + (high - low) * torch.rand(count, generator=generator)
        take_wide = torch.rand(count, generator=generator) < self.wide
        return torch.where(take_wide, uniform, log_sigma).exp()


def edm_loss(denoise: Denoise, x: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float) -> Tensor:
    """Weighted denoising error (Karras et al., eq. 2 with Table 1's weight); a scalar.

    ``λ(σ) ‖D(x + σ n; σ) - x‖²`` with ``λ = (σ² + σ_data²) / (σ σ_data)²``, averaged over pixels and tiles.

    Args:
        denoise: D, the preconditioned denoiser.
        x: clean tiles, (N, C, H, W).
        sigma: noise level of each, (N,).
        noise: unit normal, as x.
        sigma_data: standard deviation of the data.
    """
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2  # (N,)
    noisy = x + sigma.reshape(-1, 1, 1, 1) * noise
    error = (denoise(noisy, sigma) - x) ** 2
    return (weight * error.mean(dim=(1, 2, 3))).mean()


class MovingAverage:
    """Exponential moving average of a module's parameters; the warm-up of ``min(decay, (1 + n) / (10 + n))``."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def decay_at(self, count: int) -> float:
        """The decay of the update number ``count``, from 0."""
        return min(self.decay, (1 + count) / (10 + count))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """``v ← d v + (1 - d) θ``."""
        decay = self.decay_at(self.count)
        for name, value in module.state_dict().items():
            self.values[name].mul_(decay).add_(value, alpha=1 - decay)
        self.count += 1
