"""The random views of DINO, for images that look down: any turn is as good as any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.data.pool import ImagePool, random_window, to_reflectance, turn
from training.presets import XstarsPreset

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ViewRanges:
    """How strongly a view's light is varied, in units of reflectance."""

    gain: float = 0.3
    """Half width of the log-gain common to all bands."""
    band_gain: float = 0.08
    offset: float = 0.03
    blur: float = 0.3
    """Share of views that are blurred by a 3 px mean."""


def multi_crop(
    rng: np.random.Generator, pools: Sequence[ImagePool], preset: XstarsPreset, ranges: ViewRanges
) -> tuple[list[Tensor], list[Tensor]]:
    """Global and local views of ``preset.batch`` random windows, pools taken in turn.

    Returns:
        The global views, each (B, C, tile, tile), and the local views, each (B, C, local, local), in [-1, 1].
    """
    global_views: list[list[Tensor]] = [[] for _ in range(preset.global_crops)]
    local_views: list[list[Tensor]] = [[] for _ in range(preset.local_crops)]
    for i in range(preset.batch):
        pool = pools[i % len(pools)]
        image = pool.images[int(rng.integers(len(pool)))]
        side = min(preset.source_px, *image.shape[:2])
        source = torch.from_numpy(to_reflectance(image[random_window(rng, image.shape[:2], side)], pool.gains))
        for views in global_views:
            views.append(view(rng, source, preset.global_scale, preset.tile_px, ranges))
        for views in local_views:
            views.append(view(rng, source, preset.local_scale, preset.local_px, ranges))
    return [torch.stack(v) for v in global_views], [torch.stack(v) for v in local_views]


def view(
    rng: np.random.Generator, source: Tensor, scale: tuple[float, float], size_px: int, ranges: ViewRanges
) -> Tensor:
    """One view of a reflectance image (C, H, W): crop of an area share in ``scale``, resized, turned, relit.

    (C, size, size) in [-1, 1].
    """
    side = source.shape[-1]
    crop_px = max(8, min(side, round(side * math.sqrt(rng.uniform(*scale)))))
    rows, cols = random_window(rng, (side, side), crop_px)
    crop = source[None, :, rows, cols]
    resized = F.interpolate(crop, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True)[0]
    channels = resized.shape[0]
    gain = np.exp(rng.uniform(-ranges.gain, ranges.gain) + rng.uniform(-ranges.band_gain, ranges.band_gain, channels))
    offset = rng.uniform(-ranges.offset, ranges.offset, channels)
    lit = resized * _column(gain) + _column(offset)
    if rng.random() < ranges.blur:
        lit = F.avg_pool2d(F.pad(lit[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    turned = turn(lit.permute(1, 2, 0).numpy(), int(rng.integers(8)))
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1))).clamp(0, 1) * 2 - 1


def _column(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, 1)
