"""MSAD: the multi-sensor alignment loss of X-STARS, with a gradient.

Marsocci & Audebert, *Cross-sensor self-supervised training and alignment for remote sensing*, IEEE JSTARS 18:12278
(2025). The authors' released code gathers the terms through ``torch.tensor(list)``, which cuts the graph; leaves the
projection heads out of the optimiser; does not L2-normalise; and does not detach the targets. Modes:

``position``
    as the paper's formulas ask: at each token position, the tiles of the batch are contrasted.
``dense``
    all sampled tokens of the batch are contrasted, so the tile's other places are negatives too.
``compat``
    as the released code behaves, to be compared with: it is computed and reported, and nothing learns from it.
``off``
    not at all: DINO alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

MODES = ("position", "dense", "compat", "off")


class ProjectionHead(nn.Module):
    """Tokens of one sensor into the space where sensors are compared."""

    def __init__(self, dim: int, out_dim: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim))

    def forward(self, tokens: Tensor, *, unit: bool = True) -> Tensor:
        """(B, N, dim) -> (B, N, out_dim) in FP32, each token of L2 norm 1; as it comes where not ``unit``."""
        out: Tensor = self.layers(tokens).float()
        return F.normalize(out, dim=-1) if unit else out


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


def msad_dense(u: Tensor, v: Tensor, *, temperature: float = 0.1, target_temperature: float = 0.1) -> Tensor:
    """MSAD over tokens of any tile and place, each against all; a scalar with a gradient.

    ``u``, ``v`` (M, D), L2 norm 1: row m of both is the same ground. The rest is as in :func:`msad_position`.
    """
    return msad_position(u[:, None], v[:, None], temperature=temperature, target_temperature=target_temperature)


@torch.no_grad()
def msad_compat(u: Tensor, v: Tensor) -> Tensor:
    """What the released code reports: tokens as the heads give them, τ = τ_t = 1, and no gradient; a scalar.

    ``u``, ``v`` (B, N, D), not normalised. With D = 1,024 the logits reach ±1,024, and the targets are one-hot.
    """
    return msad_position(u, v, temperature=1.0, target_temperature=1.0)


@torch.no_grad()
def matched(u: Tensor, v: Tensor) -> Tensor:
    """Retrieval accuracy within the batch: share of tiles nearest to their own partner, both ways; a scalar.

    ``u``, ``v`` (B, N, D). Position by position, by the greatest product; chance is 1 / B.
    """
    products = v.transpose(0, 1) @ u.permute(1, 2, 0)  # (N, B, B)
    own = torch.arange(products.shape[-1], device=products.device)
    ways = [(products.argmax(dim=dim) == own).float().mean() for dim in (-1, -2)]
    return torch.stack(ways).mean()
