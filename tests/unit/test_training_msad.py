"""MSAD against a looped reference, and against the faults of the released code."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from engine.vit import VisionTransformer
from training.align.msad import ProjectionHead, matched, msad_compat, msad_dense, msad_position, soft_targets


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def looped_msad(u: torch.Tensor, v: torch.Tensor, tau: float, tau_t: float) -> torch.Tensor:
    """The formulas of the paper, one token position and one row at a time."""
    total = torch.zeros(())
    batch, positions, _ = u.shape
    for i in range(positions):
        for row in range(batch):
            similar = torch.stack(
                [(u[row, i] @ u[k, i] + v[row, i] @ v[k, i]) / 2 / tau_t for k in range(batch)]
            ).detach()
            target = torch.exp(similar) / torch.exp(similar).sum()
            one_way = torch.stack([v[row, i] @ u[k, i] / tau for k in range(batch)])
            other_way = torch.stack([v[k, i] @ u[row, i] / tau for k in range(batch)])
            for logits in (one_way, other_way):
                total = total - (target * (logits - torch.logsumexp(logits, 0))).sum() / 2
    return total / (batch * positions)


def test_batched_loss_and_gradient_equal_the_looped_reference() -> None:
    u = unit(5, 3, 7, seed=1).requires_grad_()
    v = unit(5, 3, 7, seed=2).requires_grad_()
    batched = msad_position(u, v, temperature=0.2, target_temperature=0.3)
    looped = looped_msad(u, v, 0.2, 0.3)
    assert batched.item() == pytest.approx(looped.item(), rel=1e-5)
    for ours, reference in zip(torch.autograd.grad(batched, (u, v)), torch.autograd.grad(looped, (u, v)), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_dense_equals_the_looped_reference_over_all_tokens() -> None:
    """Each sampled token against all: the loop over a batch of tokens that have one position."""
    u, v = (unit(11, 7, seed=seed).requires_grad_() for seed in (1, 2))
    dense = msad_dense(u, v, temperature=0.2, target_temperature=0.3)
    looped = looped_msad(u[:, None], v[:, None], 0.2, 0.3)
    assert dense.item() == pytest.approx(looped.item(), rel=1e-5)
    for ours, reference in zip(torch.autograd.grad(dense, (u, v)), torch.autograd.grad(looped, (u, v)), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_dense_tells_places_of_one_tile_apart_and_position_does_not() -> None:
    """Tokens of a tile swapped in one sensor, alike in all tiles: position compares tiles only."""
    u = unit(1, 4, 32, seed=5).expand(6, 4, 32)
    own = msad_dense(u.flatten(0, 1), u.flatten(0, 1))
    swapped = u.roll(1, dims=1)
    assert msad_dense(u.flatten(0, 1), swapped.flatten(0, 1)) > own + 1
    torch.testing.assert_close(msad_position(u, u), torch.tensor(math.log(6)))
    torch.testing.assert_close(msad_position(u, swapped), torch.tensor(math.log(6)))


def test_compat_reports_raw_products_at_temperature_one_and_has_no_gradient() -> None:
    u = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(6)).requires_grad_()
    v = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(7)).requires_grad_()
    loss = msad_compat(u, v)
    assert loss.item() == pytest.approx(looped_msad(u, v, 1.0, 1.0).item(), rel=1e-5)
    assert not loss.requires_grad


def test_accuracy_counts_partners_that_are_nearest_both_ways() -> None:
    u = torch.eye(4)[:, None].repeat(1, 2, 1)
    assert matched(u, u) == 1
    v = u.clone()
    v[[0, 1], 1] = u[[1, 0], 1]  # At one of two positions, two of four tiles have changed places.
    assert matched(u, v) == 0.75


def test_orthogonal_tokens_have_the_closed_form_loss() -> None:
    """u = v = one-hot rows: within-similarity is the identity, and so are the logits."""
    batch, tau = 4, 0.5
    u = torch.eye(batch).reshape(batch, 1, batch)
    loss = msad_position(u, u, temperature=tau, target_temperature=tau)
    e = math.exp(1 / tau)
    p, q = e / (e + batch - 1), 1 / (e + batch - 1)
    assert loss.item() == pytest.approx(-(p * math.log(p) + (batch - 1) * q * math.log(q)), rel=1e-5)


def test_aligned_pairs_cost_less_than_shuffled_ones() -> None:
    a = unit(16, 4, 32, seed=3)
    shuffled = a[torch.roll(torch.arange(16), 1)]
    assert msad_position(a, a) < msad_position(a, shuffled)
    assert msad_dense(a.flatten(0, 1), a.flatten(0, 1)) < msad_dense(a.flatten(0, 1), shuffled.flatten(0, 1))


def test_target_rows_sum_to_one_and_carry_no_gradient() -> None:
    u = unit(6, 2, 8, seed=4).requires_grad_()
    targets = soft_targets(u.transpose(0, 1), u.transpose(0, 1), 0.1)
    assert not targets.requires_grad
    torch.testing.assert_close(targets.sum(dim=-1), torch.ones(2, 6))


def test_transposed_targets_would_not_be_distributions() -> None:
    """Why the second direction uses T again and not its transpose."""
    # One tile resembles both others, which do not resemble one another.
    u = F.normalize(torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]]), dim=-1)
    targets = soft_targets(u, u, 0.5)
    assert (targets.transpose(-1, -2).sum(dim=-1) - 1).abs().max() > 0.05


def test_gradient_reaches_the_backbone_and_both_heads() -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(3, 16, 8, 24, 2, 2)
    heads = [ProjectionHead(24, 32), ProjectionHead(24, 32)]
    a, b = torch.randn(2, 6, 3, 16, 16)
    loss = msad_position(heads[0](backbone(a)[1]), heads[1](backbone(b)[1]))
    loss.backward()
    silent = [
        name
        for part in (backbone, *heads)
        for name, value in part.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert silent == []


def test_projected_tokens_have_unit_norm() -> None:
    torch.manual_seed(0)
    out = ProjectionHead(8, 16)(torch.randn(3, 5, 8))
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(3, 5))
