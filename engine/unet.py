"""The EDM denoiser: a U-Net F behind the preconditioning of Karras et al. 2022 (arXiv 2206.00364).

Written from the paper's equations; the letters in formulas are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputMismatch

FLOAT32 = (r"^/(?!net/)", r"^/net/embed/", r"norm\d?/", r"^/net/last/")
"""Nodes that half precision must leave alone (:mod:`engine.runners.precision`): the preconditioning, whose terms nearly
cancel; the Fourier features, whose angles are large; the norms; and the last convolution, which is the output's own
rounding."""


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """Everything that fixes the shapes of a denoiser's weights."""

    in_chans: int = 3
    """C, number of bands of the image that is denoised."""
    cond_chans: int = 0
    """Bands of the condition (such as the place's earlier look) that is concatenated to the input."""
    width: int = 64
    """Channels at full resolution."""
    mults: tuple[int, ...] = (1, 2, 2, 4, 4)
    """Channels over ``width`` at each level; each level halves the resolution."""
    blocks: int = 2
    """Residual blocks per level, down and up."""
    attention: bool = True
    """Self-attention between the two blocks at the lowest level."""
    dropout: float = 0.0
    """Dropout within residual blocks while training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mults", tuple(self.mults))
        if not self.mults or self.width % 4:
            raise InputMismatch(f"width {self.width} must be a multiple of 4 and mults {self.mults} not empty")

    @property
    def divisor(self) -> int:
        """Both sides of an image must be multiples of this."""
        return int(2 ** (len(self.mults) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "mults": list(self.mults)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputMismatch: an unknown key, or sizes that do not fit together.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputMismatch(f"denoiser configuration has unknown keys {sorted(unknown)}")
        return cls(**values)


class DenoiserUNet(nn.Module):
    """The raw network F(x, c_noise, condition), before preconditioning.

    Residual blocks (GroupNorm, SiLU, 3x3 convolution) whose second norm is scaled and shifted by an embedding
    of the noise level; strided convolutions down, nearest-neighbour up, one skip per block.
    The last convolution starts at zero, so a fresh denoiser is D(x; sigma) = c_skip x.
    """

    def __init__(
        self,
        in_chans: int = 3,
        cond_chans: int = 0,
        width: int = 64,
        mults: tuple[int, ...] = (1, 2, 2, 4, 4),
        *,
        blocks: int = 2,
        attention: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = UnetConfig(
            in_chans=in_chans,
            cond_chans=cond_chans,
            width=width,
            mults=mults,
            blocks=blocks,
            attention=attention,
            dropout=dropout,
        )
        channels = [width * m for m in self.config.mults]
        emb = 4 * width
        self.embed = NoiseEmbedding(width, emb)
        self.first = nn.Conv2d(in_chans + cond_chans, width, 3, padding=1)

        self.down = nn.ModuleList()
        skips = [width]
        now = width
        for level, out in enumerate(channels):
            for _ in range(blocks):
                self.down.append(ResidualBlock(now, out, emb, dropout))
                now = out
                skips.append(now)
            if level < len(channels) - 1:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)

        self.mid1 = ResidualBlock(now, now, emb, dropout)
        self.mid_attention = PixelAttention(now) if attention else nn.Identity()
        self.mid2 = ResidualBlock(now, now, emb, dropout)

        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(now + skips.pop(), out, emb, dropout))
                now = out
            if level > 0:
                self.up.append(Upsample(now))
        self.last_norm = _group_norm(now)
        self.last = nn.Conv2d(now, in_chans, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    @classmethod
    def from_config(cls, config: UnetConfig) -> Self:
        """A network with fresh weights."""
        return cls(**{**config.to_dict(), "mults": config.mults})

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F's output.  (B, C, H, W)

        Args:
            x: scaled noisy image, c_in * x.  (B, C, H, W)
            c_noise: noise condition, ln(sigma) / 4.  (B,)
            cond: condition image in [-1, 1], given if and only if ``cond_chans`` > 0.  (B, cond_chans, H, W)

        Raises:
            InputMismatch: channels, sides or condition that the configuration does not declare.
        """
        h = self.first(self._join(x, cond))
        emb = self.embed(c_noise)
        skips = [h]
        for layer in self.down:
            h = layer(h, emb) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        h = self.mid2(self.mid_attention(self.mid1(h, emb)), emb)
        for layer in self.up:
            h = layer(torch.cat((h, skips.pop()), dim=1), emb) if isinstance(layer, ResidualBlock) else layer(h)
        out: Tensor = self.last(functional.silu(self.last_norm(h)))
        return out

    def _join(self, x: Tensor, cond: Tensor | None) -> Tensor:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_chans:
            raise InputMismatch(f"denoiser input has shape {tuple(x.shape)}; (B, {config.in_chans}, H, W) is expected")
        if x.shape[2] % config.divisor or x.shape[3] % config.divisor:
            raise InputMismatch(
                f"denoiser input is {x.shape[2]} x {x.shape[3]} px; both sides must be multiples of {config.divisor}"
            )
        if (cond is None) != (config.cond_chans == 0):
            given = "none" if cond is None else f"{tuple(cond.shape)}"
            raise InputMismatch(f"condition is {given}; the denoiser declares {config.cond_chans} condition channels")
        if cond is None:
            return x
        if tuple(cond.shape[1:]) != (config.cond_chans, x.shape[2], x.shape[3]):
            raise InputMismatch(
                f"condition has shape {tuple(cond.shape)}; {config.cond_chans} channels of "
                f"{x.shape[2]} x {x.shape[3]} px are expected"
            )
        return torch.cat((x, cond), dim=1)


class EDMDenoiser(nn.Module):
    """D(x; sigma): the preconditioned denoiser (Karras et al. 2022, equation 7 and Table 1)."""

    def __init__(self, net: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise InputMismatch(f"sigma_data is {sigma_data}; a standard deviation above 0 is expected")
        self.net = net
        self.sigma_data = float(sigma_data)

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """The expected clean image given a noisy one.  float32 (B, C, H, W)

        Args:
            x: clean image in [-1, 1] plus sigma times unit noise.  (B, C, H, W)
            sigma: noise level, above 0.  (B,)
            cond: condition image in [-1, 1], not scaled by c_in.  (B, cond_chans, H, W)
        """
        # FP32 under autocast too: c_skip x and c_out F nearly cancel at some levels.
        x = x.float()
        s = sigma.float().reshape(-1, 1, 1, 1)
        total = s**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total  # Table 1: c_skip
        c_out = s * self.sigma_data / total.sqrt()  # Table 1: c_out
        c_in = 1 / total.sqrt()  # Table 1: c_in
        c_noise = sigma.float().log() / 4  # Table 1: c_noise
        f: Tensor = self.net(c_in * x, c_noise, cond)
        return c_skip * x + c_out * f.float()  # equation 7


class NoiseEmbedding(nn.Module):
    """Fourier features of c_noise, then a two-layer MLP.

    Frequencies are fixed and geometric from 1/4 to 16 cycles per unit: c_noise spans only -1.6 (sigma = 0.002)
    to 1.1 (sigma = 80), and fixed ones need no random state in the weights.
    """

    frequencies: Tensor

    def __init__(self, width: int, emb: int) -> None:
        super().__init__()
        frequencies = 2 * math.pi * torch.logspace(-2, 4, width // 2, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) to (B, emb)."""
        angles = c_noise[:, None] * self.frequencies[None, :]
        out: Tensor = self.mlp(torch.cat((angles.cos(), angles.sin()), dim=1))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions with the noise embedding as scale and shift of the second norm."""

    def __init__(self, chans: int, out: int, emb: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _group_norm(chans)
        self.conv1 = nn.Conv2d(chans, out, 3, padding=1)
        self.modulate = nn.Linear(emb, 2 * out)
        self.norm2 = _group_norm(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(chans, out, 1) if chans != out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, chans, H, W) to (B, out, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(self.dropout(h))
        # Both paths have unit variance or so at the start; their sum is brought back to it.
        out: Tensor = (self.skip(x) + h) * math.sqrt(0.5)
        return out


class PixelAttention(nn.Module):
    """Self-attention between the pixels of a feature map, heads of at least 32 channels."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.heads = max(1, chans // 64)
        while chans % self.heads:
            self.heads -= 1
        self.norm = _group_norm(chans)
        self.qkv = nn.Conv2d(chans, 3 * chans, 1)
        self.proj = nn.Conv2d(chans, chans, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, chans, H, W) to the same."""
        batch, chans, height, width = x.shape
        qkv: Tensor = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, chans // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H*W, chans / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj(mixed.transpose(-1, -2).reshape(batch, chans, height, width))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour by 2, then a convolution."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chans, chans, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, chans, H, W) to (B, chans, 2H, 2W)."""
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _group_norm(chans: int) -> nn.GroupNorm:
    # At most 32 groups of at least 4 channels; the number must divide the channels.
    groups = min(32, chans // 4)
    while chans % groups:
        groups -= 1
    return nn.GroupNorm(groups, chans)
