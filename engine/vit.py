"""The X-STARS encoder: a vision transformer with a class token and learned positions.

The form is that of ViT (Dosovitskiy et al. 2021, section 3.1) in the sizes that DINO and X-STARS train
(Marsocci & Audebert 2025, arXiv 2405.09922), pre-norm, with stochastic depth (Huang et al. 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputMismatch


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Everything that fixes the shapes of an encoder's weights."""

    in_chans: int = 3
    """C, number of bands."""
    img_size: int = 64
    """Side in pixels for which the positions are learned; other sizes interpolate them."""
    patch_size: int = 16
    """Side of a patch (one token) in pixels."""
    dim: int = 192
    """D, width of a token."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 3
    """Attention heads; divides ``dim``."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over ``dim``."""
    drop_path: float = 0.0
    """Stochastic depth of the last block while training; the first block has 0, linear between."""

    def __post_init__(self) -> None:
        if self.img_size % self.patch_size:
            raise InputMismatch(f"img_size {self.img_size} is no multiple of patch_size {self.patch_size}")
        if self.dim % self.heads:
            raise InputMismatch(f"dim {self.dim} is no multiple of heads {self.heads}")
        if not 0.0 <= self.drop_path < 1.0:
            raise InputMismatch(f"drop_path {self.drop_path} is outside [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputMismatch: an unknown key, or sizes that do not fit together.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputMismatch(f"encoder configuration has unknown keys {sorted(unknown)}")
        return cls(**values)


FLOAT32 = (r"/norm\d?/",)
"""Nodes that half precision must leave alone; see :mod:`engine.runners.precision`."""

PRESETS: Mapping[str, Mapping[str, int]] = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}
"""Sizes of X-STARS' encoders; the same numbers of parameters as DeiT's and DINO's."""


def preset(name: str, **changes: Any) -> VitConfig:
    """One of :data:`PRESETS`, with other fields changed by keyword.

    Raises:
        InputMismatch: no preset has that name.
    """
    if name not in PRESETS:
        raise InputMismatch(f"no encoder preset {name!r}; there are {', '.join(PRESETS)}")
    return VitConfig(**{**PRESETS[name], **changes})


class VisionTransformer(nn.Module):
    """Pixels to one class embedding and one embedding per patch.

    Token n of a grid of ``gw`` columns covers pixel rows ``n // gw * patch_size`` onwards and columns
    ``n % gw * patch_size`` onwards, row 0 at the top.
    """

    def __init__(
        self,
        in_chans: int = 3,
        img_size: int = 64,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        drop_path: float = 0.0,
        *,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.config = VitConfig(
            in_chans=in_chans,
            img_size=img_size,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
        )
        side = img_size // patch_size
        self.patch_embed = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_grid = nn.Parameter(torch.zeros(1, dim, side, side))
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, drop_path * i / max(depth - 1, 1)) for i in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for parameter in (self.cls_token, self.pos_cls, self.pos_grid):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.apply(_init_linear)

    @classmethod
    def from_config(cls, config: VitConfig) -> Self:
        """An encoder with fresh weights."""
        return cls(**config.to_dict())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images.

        Args:
            x: (B, C, H, W) in [-1, 1]; H and W multiples of the patch size, not necessarily equal.

        Returns:
            ``cls`` (B, D) and ``tokens`` (B, N, D), N = H/p * W/p in row-major order, both after the last
            layer norm and not L2-normalised.

        Raises:
            InputMismatch: wrong number of channels, or a side that is no multiple of the patch size.
        """
        self._check(x)
        return self.encode(self.patch_embed(x))

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images whose patches are embedded already, by this network's ``patch_embed`` or by another sensor's.

        Args:
            patches: (B, D, H/p, W/p), before positions are added.

        Returns:
            What :meth:`forward` returns.
        """
        patches = patches + self.positions(patches.shape[-2], patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        first = (self.cls_token + self.pos_cls).expand(tokens.shape[0], -1, -1)
        hidden = torch.cat((first, tokens), dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        return hidden[:, 0], hidden[:, 1:]

    def positions(self, rows: int, columns: int) -> Tensor:
        """Learned positions for a grid of patches, bicubic where it is not the native one.  (1, D, rows, columns)"""
        if tuple(self.pos_grid.shape[-2:]) == (rows, columns):
            return self.pos_grid
        # FP32: the bicubic kernel has no half-precision form on every device.
        grid = functional.interpolate(self.pos_grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        return grid.to(self.pos_grid.dtype)

    def _check(self, x: Tensor) -> None:
        size = self.config.patch_size
        if x.ndim != 4 or x.shape[1] != self.config.in_chans:
            raise InputMismatch(
                f"encoder input has shape {tuple(x.shape)}; (B, {self.config.in_chans}, H, W) is expected"
            )
        if x.shape[2] % size or x.shape[3] % size:
            raise InputMismatch(
                f"encoder input is {x.shape[2]} x {x.shape[3]} px; sides must be multiples of its patch size {size}"
            )


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a residual path that stochastic depth may drop."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, equation 1)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        batch, length, dim = x.shape
        qkv: Tensor = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, D / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, dim))
        return out


class DropPath(nn.Module):
    """Stochastic depth: while training, drops a residual path for whole samples and rescales the rest.

    The draw is per sample and from torch's global generator, like dropout's.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, ...); the identity in eval mode."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
