"""Small heads that turn the frozen tokens of an encoder into a flood map: a linear one and a light UPerNet-like one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from engine.vit import VisionTransformer
from training.errors import RunInvalid
from training.evaluate.encoders.preprocessing import as_seen
from training.evaluate.scenes import Progress

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
HeadName = Literal["linear", "upernet-light"]
HEADS: tuple[HeadName, ...] = ("linear", "upernet-light")
LEVELS = 4
"""Depths whose tokens are taken: a plain ViT has one scale, so UPerNet's pyramid is made of depths (BEiT)."""
SCALES = (4.0, 2.0, 1.0, 0.5)
"""Of the token grid, shallow to deep."""
WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """How a head is trained."""

    steps: int = 300
    batch: int = 32
    lr: float = 3e-3
    """Peak of AdamW, down by cosine."""


@torch.inference_mode()
def token_maps(vit: VisionTransformer, tiles: Float32Array, batch: int = 32) -> npt.NDArray[np.float16]:
    """Tokens of reflectance tiles after each quarter of the blocks, through the last norm, as maps.

    (n, C, H, W) to (n, LEVELS, D, H/p, W/p); the last level is what the encoder gives.
    """
    depth = len(vit.blocks)
    chosen = [max(1, round(depth * (level + 1) / LEVELS)) - 1 for level in range(LEVELS)]
    after: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(block: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            after[number] = out

        return hook

    hooks = [vit.blocks[number].register_forward_hook(keep(number)) for number in set(chosen)]
    found: list[npt.NDArray[np.float16]] = []
    try:
        for start in range(0, len(tiles), batch):
            x = torch.from_numpy(as_seen(tiles[start : start + batch]))
            vit(x)
            side = tuple(length // vit.config.patch_size for length in x.shape[2:])
            maps = [vit.norm(after[number])[:, 1:].transpose(1, 2).unflatten(2, side) for number in chosen]
            # Half precision: thousands of maps are in memory together.
            found.append(torch.stack(maps, dim=1).half().numpy())
    finally:
        for each in hooks:
            each.remove()
    return np.concatenate(found)


class LinearHead(nn.Module):
    """One weight for each channel of the last tokens; the map is enlarged to pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(dim, 1, 1)

    def forward(self, maps: Tensor, side_px: tuple[int, int]) -> Tensor:
        """(B, LEVELS, D, h, w) to logits (B, H, W)."""
        return _enlarged(self.last(maps[:, -1]), side_px)[:, 0]


class UperLikeHead(nn.Module):
    """Pyramid pooling on the deepest tokens, a top-down pyramid over the depths, and one fusing convolution.

    After UPerNet (Xiao et al., *Unified Perceptual Parsing for Scene Understanding*, ECCV 2018, figure 4) with few
    channels and without batch norm.
    """

    def __init__(self, dim: int, width: int = WIDTH) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(LEVELS))
        self.pools = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in (1, 2))
        self.pooled = nn.Conv2d(3 * width, width, 3, padding=1)
        self.fuse = nn.Conv2d(LEVELS * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, maps: Tensor, side_px: tuple[int, int]) -> Tensor:
        """(B, LEVELS, D, h, w) to logits (B, H, W)."""
        sides = [tuple(max(1, round(length * scale)) for length in maps.shape[-2:]) for scale in SCALES]
        levels = [
            _enlarged(F.gelu(lateral(maps[:, level])), side)
            for level, (lateral, side) in enumerate(zip(self.laterals, sides, strict=True))
        ]
        deep = levels[-1]
        pools = [
            _enlarged(F.gelu(conv(F.adaptive_avg_pool2d(deep, bins))), tuple(deep.shape[-2:]))
            for conv, bins in zip(self.pools, (1, 2), strict=True)
        ]
        levels[-1] = F.gelu(self.pooled(torch.cat([deep, *pools], dim=1)))
        for level in reversed(range(LEVELS - 1)):
            levels[level] = levels[level] + _enlarged(levels[level + 1], tuple(levels[level].shape[-2:]))
        fused = F.gelu(self.fuse(torch.cat([_enlarged(part, sides[0]) for part in levels], dim=1)))
        return _enlarged(self.last(fused), side_px)[:, 0]


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A trained head and the moments that its input is standardised by."""

    head: nn.Module
    mean: Tensor
    """(1, LEVELS, D, 1, 1)"""
    scale: Tensor

    @torch.inference_mode()
    def logits(self, maps: npt.NDArray[np.float16], side_px: tuple[int, int], batch: int = 64) -> Float32Array:
        """(n, LEVELS, D, h, w) to (n, H, W)."""
        parts = [
            self.head((torch.from_numpy(maps[start : start + batch]).float() - self.mean) / self.scale, side_px)
            for start in range(0, len(maps), batch)
        ]
        return torch.cat(parts).numpy()


def fit_head(
    name: HeadName,
    maps: npt.NDArray[np.float16],
    flooded: BoolArray,
    known: BoolArray,
    how: HeadFit,
    *,
    seed: int,
    progress: Progress,
    told: str,
) -> FittedHead:
    """Train a head by cross-entropy over known pixels.

    Args:
        name: which.
        maps: tokens.  (n, LEVELS, D, h, w)
        flooded: the mask.  (n, H, W)
        known: where it says anything.  (n, H, W)
        how: settings.
        seed: of weights and order.
        progress: told of each step.
        told: what it is told of.

    Raises:
        RunInvalid: the loss is not finite.
    """
    rng = np.random.default_rng((seed, 0x5E6))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = LinearHead(maps.shape[2]) if name == "linear" else UperLikeHead(maps.shape[2])
    some = torch.from_numpy(maps[np.sort(rng.permutation(len(maps))[:256])]).float()
    mean = some.mean(dim=(0, 3, 4), keepdim=True)
    fitted = FittedHead(head=head, mean=mean, scale=some.std(dim=(0, 3, 4), keepdim=True).clamp_min(1e-6))
    optimizer = torch.optim.AdamW(head.parameters(), lr=how.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    side = (flooded.shape[1], flooded.shape[2])
    for step in range(how.steps):
        rows = rng.integers(len(maps), size=how.batch)
        x = (torch.from_numpy(maps[rows]).float() - mean) / fitted.scale
        losses = F.binary_cross_entropy_with_logits(
            head(x, side), torch.from_numpy(flooded[rows]).float(), reduction="none"
        )
        there = torch.from_numpy(known[rows]).float()
        loss = (losses * there).sum() / there.sum().clamp_min(1.0)
        if not torch.isfinite(loss):
            raise RunInvalid(f"{told}: the loss is {float(loss.detach())} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(told, step + 1, how.steps)
    head.eval()
    return fitted


def head_names(asked: Sequence[str] | None) -> tuple[HeadName, ...]:
    """The heads by name; all if none is asked for.

    Raises:
        RunInvalid: there is no such head.
    """
    unknown = set(asked or ()) - set(HEADS)
    if unknown:
        raise RunInvalid(f"no head {', '.join(sorted(unknown))}; there are {', '.join(HEADS)}")
    return tuple(name for name in HEADS if not asked or name in asked)


def _enlarged(maps: Tensor, side: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps, size=side, mode="bilinear", align_corners=False)
