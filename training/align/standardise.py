"""The affine change of its input that an encoder's patch embedding absorbs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from training.data.moments import Moments, pooled
from training.data.pairs import PairSource
from training.data.pool import ImagePool
from training.encoder_presets import physical_sensor


@torch.no_grad()
def standardise_input(patch_embed: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
    """Rewrite a patch embedding so that it does to x what it did to ``(x - mean) / std``.

    Reflectance in [-1, 1] is a large constant with little on it, and fresh tokens of it are all alike. A convolution
    absorbs any affine change of its input, so what is served still takes x itself.
    """
    weight, bias = patch_embed.weight, patch_embed.bias
    scale = torch.tensor(std).reshape(1, -1, 1, 1)
    weight /= scale
    if bias is not None:
        bias -= (weight * torch.tensor(mean).reshape(1, -1, 1, 1)).sum(dim=(1, 2, 3))


def moments(pools: Sequence[ImagePool], tile_px: int, seed: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, every pool counting the same.

    Coarse sensors may have images that are smaller than a tile: of their pool smaller tiles are measured.
    """
    rng = np.random.default_rng((seed, 0x5D))
    measured: list[Moments] = []
    for pool in pools:
        side = min(tile_px, *pool.images[0].shape[:2])
        tiles = pool.tiles(rng, 200, side).astype(np.float64)
        measured.append(
            Moments(mean=tuple(tiles.mean(axis=(0, 2, 3)).tolist()), std=tuple(tiles.std(axis=(0, 2, 3)).tolist()))
        )
    common = pooled(measured)
    return list(common.mean), list(common.std)


def pair_moments(sources: Sequence[PairSource], tile_px: int, seed: int) -> dict[str, tuple[list[float], list[float]]]:
    """The same of each sensor, by its physical name, from the pairs that it is in first."""
    rng = np.random.default_rng((seed, 0x5E))
    found: dict[str, tuple[list[float], list[float]]] = {}
    for source in sources:
        names = [physical_sensor(name) for name in source.sensors]
        if all(name in found for name in names):
            continue
        for name, tiles in zip(names, source.pairs(rng, 100, tile_px), strict=True):
            wide = tiles.astype(np.float64)
            mean, std = wide.mean(axis=(0, 2, 3)).tolist(), wide.std(axis=(0, 2, 3)).tolist()
            found.setdefault(name, (mean, std))
    return found
