"""The denoiser: preconditioning in closed form, the condition, and which inputs reach the output."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from engine.errors import InputMismatch
from engine.unet import DenoiserUNet, EDMDenoiser, UnetConfig


class Recorder(nn.Module):
    """A network F with a chosen answer that keeps what it was given."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        self.seen = [x, c_noise]
        return torch.full_like(x, self.answer)


def tiny(**changes: object) -> DenoiserUNet:
    torch.manual_seed(0)
    net = DenoiserUNet.from_config(UnetConfig(**{"width": 8, "mults": (1, 2), "blocks": 1, **changes}))
    nn.init.normal_(net.last.weight, std=0.1)
    return net.eval()


@pytest.mark.parametrize("sigma_data", [0.5, 0.31])
def test_preconditioning_is_table_1(sigma_data: float) -> None:
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.002, 0.7, 80.0])
    zero, one = Recorder(0.0), Recorder(1.0)
    without = EDMDenoiser(zero, sigma_data)(x, sigma)
    with_f = EDMDenoiser(one, sigma_data)(x, sigma)
    for i, s in enumerate(sigma.tolist()):
        total = s * s + sigma_data * sigma_data
        torch.testing.assert_close(without[i], x[i] * sigma_data**2 / total)  # F = 0: D = c_skip x
        torch.testing.assert_close(
            with_f[i] - without[i], torch.full_like(x[i], s * sigma_data / math.sqrt(total)), atol=1e-5, rtol=1e-3
        )
        torch.testing.assert_close(one.seen[0][i], x[i] / math.sqrt(total))
        assert float(one.seen[1][i]) == pytest.approx(math.log(s) / 4, rel=1e-5)


def test_the_networks_input_and_target_have_unit_variance() -> None:
    # What Table 1 is made for: Var[c_in (y + n)] = 1 and Var[(y - c_skip (y + n)) / c_out] = 1, equations 114 and 122.
    generator = torch.Generator().manual_seed(0)
    sigma_data = 0.31
    y = sigma_data * torch.randn(1, 1, 400, 400, generator=generator)
    for s in (0.05, 0.3, 5.0):
        noisy = y + s * torch.randn(y.shape, generator=generator)
        net = Recorder(0.0)
        denoiser = EDMDenoiser(net, sigma_data)
        skipped = denoiser(noisy, torch.tensor([s]))
        net.answer = 1.0
        c_out = (denoiser(noisy, torch.tensor([s])) - skipped).mean()
        assert float(net.seen[0].var()) == pytest.approx(1.0, rel=0.02)
        assert float(((y - skipped) / c_out).var()) == pytest.approx(1.0, rel=0.02)


def test_a_fresh_denoiser_is_c_skip_x() -> None:
    net = DenoiserUNet(width=8, mults=(1, 2))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x, torch.zeros(2)), torch.zeros_like(x))


def test_preconditioning_stays_float32_under_autocast() -> None:
    denoiser = EDMDenoiser(tiny())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = denoiser(torch.zeros(1, 3, 16, 16), torch.ones(1))
    assert out.dtype == torch.float32


def test_noise_level_and_condition_reach_the_output() -> None:
    net = tiny(cond_chans=2)
    x, cond = torch.randn(1, 3, 16, 24), torch.zeros(1, 2, 16, 24)
    base = net(x, torch.zeros(1), cond)
    assert base.shape == x.shape
    assert not torch.allclose(base, net(x, torch.ones(1), cond))
    assert not torch.allclose(base, net(x, torch.zeros(1), cond + 1))


def test_the_bottom_sees_the_whole_image() -> None:
    # With attention a change in one corner reaches the opposite one; without it and with one 3x3 level it cannot.
    x = torch.zeros(1, 3, 64, 64)
    lit = x.clone()
    lit[..., :4, :4] = 3.0
    for attention, reaches in ((True, True), (False, False)):
        net = tiny(attention=attention)
        for norm in [m for m in net.modules() if isinstance(m, nn.GroupNorm)]:
            norm.register_forward_hook(lambda m, args, out: args[0])  # A norm mixes all pixels: take it away.
        if attention:
            nn.init.normal_(net.mid_attention.proj.weight, std=0.1)
        with torch.no_grad():
            change = (net(lit, torch.zeros(1)) - net(x, torch.zeros(1)))[..., -4:, -4:].abs().max()
        assert (float(change) > 0) == reaches


@pytest.mark.parametrize(
    ("chans", "side", "cond"), [(4, 16, None), (3, 15, None), (3, 16, (1, 2, 16, 16))], ids=["bands", "side", "cond"]
)
def test_a_wrong_input_names_both_sides(chans: int, side: int, cond: tuple[int, ...] | None) -> None:
    condition = None if cond is None else torch.zeros(cond)
    with pytest.raises(InputMismatch, match=r"expected|multiples|declares"):
        tiny()(torch.zeros(1, chans, side, side), torch.zeros(1), condition)


def test_a_conditional_denoiser_wants_its_condition() -> None:
    net = tiny(cond_chans=2)
    with pytest.raises(InputMismatch, match="declares 2"):
        net(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    with pytest.raises(InputMismatch, match="2 channels of 16 x 16"):
        net(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1, 3, 16, 16))


def test_configurations_round_trip_and_refuse_the_unknown() -> None:
    config = UnetConfig(width=32, mults=(1, 2, 2), cond_chans=3)
    assert UnetConfig.from_dict(config.to_dict()) == config
    assert config.divisor == 4
    with pytest.raises(InputMismatch, match="widht"):
        UnetConfig.from_dict({"widht": 3})
    with pytest.raises(InputMismatch, match="sigma_data"):
        EDMDenoiser(Recorder(0.0), 0.0)
