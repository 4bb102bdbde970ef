"""The EDM loss, noise levels and moving average against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from training.denoise.edm import MovingAverage, NoiseLevels, edm_loss


def gaussian_denoiser(variance: float):
    """E[x | y] for x ~ N(0, v) and y = x + sigma n: the best possible denoiser of such data."""

    def denoise(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        shrink = variance / (variance + sigma**2)
        return shrink.reshape(-1, 1, 1, 1) * y

    return denoise


def test_a_denoiser_that_knows_the_image_has_no_loss() -> None:
    x = torch.randn(3, 2, 4, 4)
    sigma = torch.tensor([0.01, 0.5, 20.0])
    assert edm_loss(lambda y, s: x, x, sigma, torch.randn_like(x), 0.5).item() == 0.0


def test_the_ideal_denoiser_of_gaussian_data_has_loss_one() -> None:
    """E‖D - x‖² = v σ² / (v + σ²), whose product with λ(σ) is 1 when v = σ_data², at every noise level."""
    generator = torch.Generator().manual_seed(0)
    sigma_data = 0.3
    x = sigma_data * torch.randn(64, 3, 32, 32, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    for level in (0.01, 0.3, 10.0):
        sigma = torch.full((64,), level)
        loss = edm_loss(gaussian_denoiser(sigma_data**2), x, sigma, noise, sigma_data)
        assert loss.item() == pytest.approx(1.0, rel=0.02)


def test_an_identity_denoiser_has_the_closed_form_loss() -> None:
    """D(y) = y errs by σ n: λ(σ) σ² = (σ² + σ_d²) / σ_d² when n has unit square everywhere."""
    x = torch.zeros(2, 1, 2, 2)
    noise = torch.ones_like(x)
    sigma = torch.tensor([0.5, 2.0])
    expected = sum((s**2 + 0.25) / 0.25 for s in (0.5, 2.0)) / 2
    assert edm_loss(lambda y, s: y, x, sigma, noise, 0.5).item() == pytest.approx(expected)


def test_noise_levels_scale_with_the_data() -> None:
    """Karras et al. take P_mean = -1.2 for σ_data = 0.5; σ / σ_data has one distribution for all data."""
    half = NoiseLevels(sigma_data=0.5)
    small = NoiseLevels(sigma_data=0.1)
    assert half.shifted_mean == pytest.approx(-1.2)
    assert small.shifted_mean == pytest.approx(-1.2 + math.log(0.2))
    one = half.draw(1000, torch.Generator().manual_seed(7)) / 0.5
    other = small.draw(1000, torch.Generator().manual_seed(7)) / 0.1
    torch.testing.assert_close(one, other)


def test_noise_levels_have_the_mean_and_spread_asked_for() -> None:
    logs = NoiseLevels(sigma_data=0.5).draw(20000, torch.Generator().manual_seed(1)).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert logs.std().item() == pytest.approx(1.2, abs=0.03)


def test_the_wide_share_covers_odeeds_range_evenly() -> None:
    levels = NoiseLevels(sigma_data=0.2, wide=1.0, wide_min=0.01, wide_max=100.0)
    ratio = levels.draw(20000, torch.Generator().manual_seed(1)) / 0.2
    assert ratio.min() >= 0.01 * (1 - 1e-4)
    assert ratio.max() <= 100.0 * (1 + 1e-4)
    assert (ratio < 1.0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_moving_average_warms_up_and_then_decays() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = MovingAverage(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
    expected = 0.0
    for k in range(12):
        average.update(module)
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay)
    assert average.values["weight"].item() == pytest.approx(expected)
    assert average.decay_at(0) == pytest.approx(0.1)
    assert average.decay_at(1000) == 0.5
