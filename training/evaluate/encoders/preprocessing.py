"""What happens to pixels before any subject sees them: one frozen value, written into every result.

Resizing and normalisation alone can move an accuracy by more than ten points (Corley et al. 2023, arXiv 2305.13456),
so all subjects of a judgement get the very same tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.classfolder import ClassImage
from training.data.ombria import read_rgb
from training.data.pool import area_downsample, to_reflectance
from training.presets import AERIAL_GAINS, OMBRIA_GAINS

Float32Array = npt.NDArray[np.float32]

GAINS: Mapping[str, tuple[float, ...]] = {
    "sentinel-2": OMBRIA_GAINS,
    "sentinel-1": AERIAL_GAINS,
    "aerial": AERIAL_GAINS,
}
"""Reflectance per 8-bit number, by sensor; of radar it is a grey value from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From stored numbers to what a network takes."""

    tile_px: int
    """Side of what a subject sees."""
    geometry: str
    """How images become tiles."""
    resize_filter: str
    gains: Mapping[str, tuple[float, ...]]
    """By sensor; products are clipped to 0..1."""
    normalisation: str = "2 * reflectance - 1"
    """What networks get; controls get reflectance."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        return {**values, "gains": {name: list(gain) for name, gain in self.gains.items()}}


def of_windows(tile_px: int, sensors: Sequence[str]) -> Preprocessing:
    """Tiles cut from images at their own pixel size."""
    return Preprocessing(
        tile_px=tile_px,
        geometry="whole windows side by side from the first corner, without missing ground",
        resize_filter="none",
        gains={sensor: GAINS[sensor] for sensor in sensors},
    )


def of_whole_images(tile_px: int) -> Preprocessing:
    """Each aerial image as one tile."""
    return Preprocessing(
        tile_px=tile_px,
        geometry="each whole image is one tile",
        resize_filter="area average (Pillow BOX)",
        gains={"aerial": GAINS["aerial"]},
    )


def whole_images(images: Sequence[ClassImage], how: Preprocessing) -> Float32Array:
    """Reflectance of each image, averaged to a tile.  (n, C, H, W)"""
    gains = how.gains["aerial"]
    return np.stack([to_reflectance(area_downsample(read_rgb(image.path), how.tile_px), gains) for image in images])


def as_seen(tiles: Float32Array) -> Float32Array:
    """Reflectance as networks take it."""
    return np.asarray(tiles * 2 - 1, dtype=np.float32)
