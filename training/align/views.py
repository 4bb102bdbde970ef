"""The random views of DINO, for images that look down: any turn is as good as any other.

What is random is drawn for the whole batch, as arrays; pixels are made for one process's part of it, on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.data.pool import ImagePool, random_window, to_reflectance
from training.encoder_presets import XstarsPreset

Float64Array = npt.NDArray[np.float64]
Groups = list[tuple[str, Tensor]]
"""One view of a batch: for each sensor its name and its samples, (n, C, side, side) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class ViewRanges:
    """How strongly a view's light is varied, in units of reflectance."""

    gain: float = 0.3
    """Half width of the log-gain common to all bands."""
    band_gain: float = 0.08
    offset: float = 0.03
    blur: float = 0.3
    """Share of views that are blurred by a 3 px mean."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Samples of one sensor that views are cut from."""

    sensor: str
    images: Tensor
    """Reflectance, (n, C, P, P); right of and below a sample's own side there is nothing."""
    sides_px: Tensor
    """Side of each sample, (n,) whole numbers as float32."""
    rows: slice
    """Which of the whole batch they are."""


def multi_crop(
    rng: np.random.Generator,
    pools: Sequence[ImagePool],
    preset: XstarsPreset,
    ranges: ViewRanges,
    *,
    index: int = 0,
    own: slice | None = None,
    device: torch.device | None = None,
) -> tuple[list[Groups], list[Groups]]:
    """Global and local views of ``preset.batch`` random windows, as many of one pool as of another.

    Args:
        rng: what is drawn from it does not depend on ``own`` or ``device``.
        pools: one for each sensor.
        preset: sides, scales and numbers of views.
        ranges: of the light.
        index: number of the step; where pools and batch do not divide evenly, it says whose turn it is.
        own: the part of the batch whose pixels are made; all if None.
        device: where they are made; the CPU if None.
    """
    own = own or slice(0, preset.batch)
    sources = _sources(rng, pools, preset, index, own, device or torch.device("cpu"))
    # As many numbers are drawn in every process, whichever pools it shows.
    channels = max(len(pool.gains) for pool in pools)
    views: list[list[Groups]] = []
    for count, scale, side in (
        (preset.global_crops, preset.global_scale, preset.tile_px),
        (preset.local_crops, preset.local_scale, preset.local_px),
    ):
        views.append([_view(rng, sources, preset.batch, channels, scale, side, ranges) for _ in range(count)])
    return views[0], views[1]


def _sources(
    rng: np.random.Generator,
    pools: Sequence[ImagePool],
    preset: XstarsPreset,
    index: int,
    own: slice,
    device: torch.device,
) -> list[Sources]:
    turns = sorted((index * preset.batch + i) % len(pools) for i in range(preset.batch))
    found: list[Sources] = []
    for number, pool in enumerate(pools):
        first, count = turns.index(number) if number in turns else 0, turns.count(number)
        windows = []
        for _ in range(count):
            image = pool.images[int(rng.integers(len(pool)))]
            side = min(preset.source_px, *image.shape[:2])
            windows.append((image, random_window(rng, image.shape[:2], side)))
        mine = range(max(first, own.start), min(first + count, own.stop))
        if not mine:
            continue
        images = np.zeros((len(mine), len(pool.gains), preset.source_px, preset.source_px), dtype=np.float32)
        sides = np.zeros(len(mine), dtype=np.float32)
        for place, row in enumerate(mine):
            image, window = windows[row - first]
            pixels = to_reflectance(image[window], pool.gains)
            sides[place] = pixels.shape[-1]
            images[place, :, : pixels.shape[1], : pixels.shape[2]] = pixels
        found.append(
            Sources(
                sensor=pool.sensor,
                images=torch.from_numpy(images).to(device),
                sides_px=torch.from_numpy(sides).to(device),
                rows=slice(mine.start, mine.stop),
            )
        )
    return found


def _view(
    rng: np.random.Generator,
    sources: Sequence[Sources],
    batch: int,
    channels: int,
    scale: tuple[float, float],
    size_px: int,
    ranges: ViewRanges,
) -> Groups:
    """One view of each sample: crop of an area share in ``scale``, resized, turned, relit."""
    places = rng.random((batch, 3))  # how large, where down, where right
    turns = rng.random((batch, 3)) < 0.5  # transposed, upside down, mirrored: together the square's 8 symmetries
    blurred = rng.random(batch) < ranges.blur
    gain = rng.uniform(-ranges.gain, ranges.gain, (batch, 1))
    gains = np.exp(gain + rng.uniform(-ranges.band_gain, ranges.band_gain, (batch, channels)))
    offset = rng.uniform(-ranges.offset, ranges.offset, (batch, channels))
    groups: Groups = []
    for source in sources:
        rows, images = source.rows, source.images
        bands = images.shape[1]
        shares = _on(images, scale[0] + (scale[1] - scale[0]) * places[rows, 0])
        side = source.sides_px
        crop = torch.minimum(torch.round(side * shares.sqrt()).clamp(min=8), side)
        down, right = (torch.floor((side - crop + 1) * _on(images, places[rows, k])) for k in (1, 2))
        out = resized(images, down, right, crop, size_px, flips=torch.from_numpy(turns[rows]).to(images.device))
        lit = out * _on(images, gains[rows, :bands, None, None]) + _on(images, offset[rows, :bands, None, None])
        soft = F.avg_pool2d(F.pad(lit, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        which = torch.from_numpy(blurred[rows]).to(images.device).reshape(-1, 1, 1, 1)
        groups.append((source.sensor, torch.where(which, soft, lit).clamp(0, 1) * 2 - 1))
    return groups


def resized(images: Tensor, down: Tensor, right: Tensor, crop: Tensor, size_px: int, *, flips: Tensor) -> Tensor:
    """A square crop of each image, resized and turned.

    Resizing is bilinear with antialiasing, as ``torch.nn.functional.interpolate`` does it, written as one product of
    matrices from the left and one from the right, so that all crops of a batch are made at once.

    Args:
        images: (n, C, P, P).
        down: first row of each crop, (n,).
        right: first column of each crop, (n,).
        crop: side of each crop, (n,).
        size_px: side of what comes out.
        flips: whether each is transposed, then turned upside down, then mirrored, (n, 3) of bool.

    Returns:
        (n, C, size, size).
    """
    from_rows = _triangles(down, crop, size_px, images.shape[-2])
    from_columns = _triangles(right, crop, size_px, images.shape[-1])
    out = from_rows[:, None] @ images @ from_columns[:, None].transpose(-1, -2)
    transposed, upside_down, mirrored = (flips[:, k].reshape(-1, 1, 1, 1) for k in range(3))
    out = torch.where(transposed, out.transpose(-1, -2), out)
    out = torch.where(upside_down, out.flip(-2), out)
    return torch.where(mirrored, out.flip(-1), out)


def _triangles(start: Tensor, length: Tensor, size: int, source: int) -> Tensor:
    """What each of ``size`` new pixels takes of each of ``source`` old ones.  (n, size, source), rows sum to 1"""
    step = (length / size)[:, None, None]
    new = torch.arange(size, device=start.device, dtype=start.dtype)[None, :, None]
    old = torch.arange(source, device=start.device, dtype=start.dtype)[None, None, :]
    begin = start[:, None, None]
    centre = begin + (new + 0.5) * step
    weight = (1 - (old + 0.5 - centre).abs() / step.clamp(min=1.0)).clamp(min=0)
    inside = (old >= begin) & (old < begin + length[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=-1, keepdim=True)


def _on(like: Tensor, values: Float64Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(like.device)
