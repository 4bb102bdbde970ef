"""Random training tiles from images held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
PixelArray = npt.NDArray[Any]
"""Numbers as they are stored: uint8, uint16 or float16."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is varied at random in a tile, beside its place. All in units of reflectance."""

    gain: float = 0.08
    """Half width of the uniform log-gain common to all bands."""
    band_gain: float = 0.03
    """Half width of each band's own log-gain."""
    offset: float = 0.01
    """Half width of each band's uniform offset."""
    hole_probability: float = 0.1
    """Share of tiles that get a straight-edged hole of zeros, as masked clouds leave them."""


@dataclass(frozen=True, kw_only=True)
class ImagePool:
    """Images of one family and how they become reflectance.

    ``images`` have shape (H, W, C), sides of at least the tile asked for; ``gains`` (C,) turn their numbers into
    reflectance. A tile is drawn from a uniformly chosen image, so small images count as much as large ones.
    """

    images: Sequence[PixelArray]
    gains: tuple[float, ...]
    sensor: str = ""
    """What took them, as :class:`training.data.pairs.PairSource` names it; empty where nobody asks."""

    def __len__(self) -> int:
        return len(self.images)

    def tiles(
        self, rng: np.random.Generator, count: int, size_px: int, augmentation: Augmentation | None = None
    ) -> Float32Array:
        """``count`` random tiles as networks see them: 2·reflectance - 1, in [-1, 1].  (count, C, size, size)

        Tiles hold no missing ground (a pixel that is 0 in all bands) but for the holes that ``augmentation`` cuts.

        Raises:
            TrainingDataInvalid: no complete tile was found in 1,000 draws.
        """
        out = np.empty((count, len(self.gains), size_px, size_px), dtype=np.float32)
        for i in range(count):
            out[i] = self._tile(rng, size_px)
        if augmentation is not None:
            out = augment(rng, out, augmentation)
        return np.asarray(out * 2 - 1, dtype=np.float32)

    def _tile(self, rng: np.random.Generator, size_px: int) -> Float32Array:
        for _ in range(1000):
            image = self.images[int(rng.integers(len(self.images)))]
            window = random_window(rng, image.shape[:2], size_px)
            tile = image[window]
            if tile.max(axis=-1).min() > 0:
                return to_reflectance(turn(tile, int(rng.integers(8))), self.gains)
        raise TrainingDataInvalid(f"1,000 draws found no {size_px} px tile without missing ground; check the images")


def random_window(rng: np.random.Generator, shape: tuple[int, ...], size_px: int) -> tuple[slice, slice]:
    """A square window somewhere in an image of ``shape`` (H, W).

    Raises:
        TrainingDataInvalid: the image is smaller than the window.
    """
    height, width = shape[0], shape[1]
    if min(height, width) < size_px:
        raise TrainingDataInvalid(f"an image of {width}x{height} px cannot hold a {size_px} px tile")
    row = int(rng.integers(height - size_px + 1))
    col = int(rng.integers(width - size_px + 1))
    return slice(row, row + size_px), slice(col, col + size_px)


def turn(image: npt.NDArray[np.generic], which: int) -> npt.NDArray[np.generic]:
    """One of the 8 symmetries of the square, of an image (H, W, ...): looking down, none is special."""
    turned = np.rot90(image, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


def to_reflectance(pixels: npt.NDArray[np.generic], gains: Sequence[float]) -> Float32Array:
    """Numbers (H, W, C) times the gains, clipped to 0..1.  (C, H, W)"""
    scaled = pixels.astype(np.float32) * np.asarray(gains, dtype=np.float32)
    return np.ascontiguousarray(np.clip(scaled, 0, 1).transpose(2, 0, 1))


def augment(rng: np.random.Generator, tiles: Float32Array, how: Augmentation) -> Float32Array:
    """Reflectance tiles (N, C, H, W) with other light, other haze and holes; clipped to 0..1."""
    n, c, h, w = tiles.shape
    log_gain = rng.uniform(-how.gain, how.gain, (n, 1, 1, 1))
    log_gain = log_gain + rng.uniform(-how.band_gain, how.band_gain, (n, c, 1, 1))
    offset = rng.uniform(-how.offset, how.offset, (n, c, 1, 1))
    out = np.clip(tiles * np.exp(log_gain) + offset, 0, 1).astype(np.float32)
    for i in np.flatnonzero(rng.random(n) < how.hole_probability):
        out[i][:, _half_plane(rng, h, w)] = 0
    return out


def _half_plane(rng: np.random.Generator, height: int, width: int) -> BoolArray:
    """Up to 30 % of a tile on one side of a random line: as much as a served tile may lack.  (H, W)"""
    angle = rng.uniform(0, 2 * np.pi)
    rows, cols = np.mgrid[:height, :width]
    distance = rows * np.sin(angle) + cols * np.cos(angle)
    return np.asarray(distance > np.quantile(distance, 1 - rng.uniform(0.02, 0.3)))


def area_downsample(image: UInt8Array, side_px: int) -> UInt8Array:
    """A square image (H, H, C) averaged over areas to ``side_px``: what a coarser sensor would see, simulated."""
    from PIL import Image

    small = Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)
