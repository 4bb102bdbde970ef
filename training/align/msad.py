"""MSAD: the multi-sensor alignment loss of X-STARS, with a gradient.

Marsocci & Audebert, *Cross-sensor self-supervised training and alignment for remote sensing*, IEEE JSTARS 18:12278
(2025). The authors' released code gathers the terms through ``torch.tensor(list)``, which cuts the graph; leaves the
projection heads out of the optimiser; does not L2-normalise; and does not detach the targets. This module does
each of them as the paper's formulas ask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ProjectionHead(nn.Module):
    """Tokens of one sensor into the space where sensors are compared."""

    def __init__(self, dim: int, out_dim: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, out_dim), each token of L2 norm 1."""
        return F.normalize(self.layers(tokens), dim=-1)


def soft_targets(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Which pairs ought to be alike, from the similarities within each sensor; carries no gradient.

    ``u``, ``v`` (N, B, D), L2 norm 1. ``T = softmax((uuᵀ + vvᵀ) / 2 / τ_t)``, rows sum to 1.  (N, B, B)
    """
    with torch.no_grad():
        within = (u @ u.transpose(-1, -2) + v @ v.transpose(-1, -2)) / 2
        return torch.softmax(within / temperature, dim=-1)


def msad_position(u: Tensor, v: Tensor, *, temperature: float = 0.1, target_temperature: float = 0.1) -> Tensor:
    """MSAD over the batch, at each token position; a scalar with a gradient.

    Args:
        u: projected tokens of sensor a, (B, N, D), L2 norm 1.
        v: projected tokens of sensor b over the same ground, (B, N, D), L2 norm 1.
        temperature: τ of the logits ``v uᵀ / τ``.
        target_temperature: τ_t of :func:`soft_targets`.

    The similarities within a sensor are symmetric, so both directions use ``T`` itself: the rows of ``Tᵀ`` do not
    sum to 1.
    """
    u = u.transpose(0, 1)  # (N, B, D)
    v = v.transpose(0, 1)
    targets = soft_targets(u, v, target_temperature)
    logits = v @ u.transpose(-1, -2) / temperature  # (N, B, B)
    forward = -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1)
    backward = -(targets * torch.log_softmax(logits.transpose(-1, -2), dim=-1)).sum(dim=-1)
    return (forward.mean() + backward.mean()) / 2
