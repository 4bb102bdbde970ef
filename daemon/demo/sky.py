"""What lies between the ground and the numbers in a file: haze, clouds, their shadows, and the sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from daemon.demo.terrain import SIDE_M, smooth_noise
from engine.tiles import BoolArray, Float32Array

CLOUD_BASE_M = 1100.0
_CLOUD = {"blue": 0.74, "green": 0.72, "red": 0.71, "nir": 0.72, "swir16": 0.46}
_HAZE = {"blue": 1.0, "green": 0.6, "red": 0.35, "nir": 0.1, "swir16": 0.02}

L2A_SCALE = 1e-4
L2A_OFFSET = -0.1
"""Sentinel-2 L2A from processing baseline 04.00: reflectance = DN * 1e-4 - 0.1."""
L2A_NODATA = 0


@dataclass(frozen=True, kw_only=True)
class Clouds:
    """Clouds over the place on its 10 m grid."""

    opacity: Float32Array
    """0 clear .. 1 opaque.  (H, W)"""
    shadow: Float32Array
    """Share of the sunlight that is held back from the ground.  (H, W)"""

    @property
    def cloud(self) -> BoolArray:
        """Where a cloud hides the ground.  (H, W)"""
        return np.asarray(self.opacity > 0.15)

    @property
    def shaded(self) -> BoolArray:
        """Where the ground lies in a cloud's shadow, and is not itself hidden.  (H, W)"""
        return np.asarray((self.shadow > 0.15) & ~self.cloud)


def make_clouds(rng: np.random.Generator, share: float, sun: tuple[float, float], gsd_m: float = 10.0) -> Clouds:
    """Clouds that hide about ``share`` (0..1) of the place, with the sun at (zenith, azimuth) in radians."""
    size = int(SIDE_M / gsd_m)
    if share <= 0:
        return Clouds(opacity=np.zeros((size, size), np.float32), shadow=np.zeros((size, size), np.float32))
    # Drawn with a margin, since clouds beyond the edge throw shadows into the place.
    margin = size // 2
    field = smooth_noise(rng, scale_m=900, exponent=2.4, size_px=size + 2 * margin, pixel_m=gsd_m)
    edge = np.quantile(field[margin:-margin, margin:-margin], 1 - share)
    opacity = np.clip((field - edge + 0.04) / 0.35, 0, 1).astype(np.float32)
    zenith, azimuth = sun
    reach_px = CLOUD_BASE_M * math.tan(zenith) / gsd_m
    # A shadow falls away from the sun: rows grow southwards, columns eastwards.
    shift = (reach_px * math.cos(azimuth), -reach_px * math.sin(azimuth))
    shadow = ndimage.shift(opacity, shift, order=1, mode="nearest")
    inner = np.s_[margin:-margin, margin:-margin]
    return Clouds(opacity=opacity[inner], shadow=(0.75 * shadow[inner]).astype(np.float32))


def block_mean(fine: npt.NDArray[np.floating], factor: int) -> Float32Array:
    """Mean of blocks of ``factor`` x ``factor`` pixels: what a coarser detector sees."""
    rows, columns = fine.shape[0] // factor, fine.shape[1] // factor
    if factor == 1:
        return np.asarray(fine, dtype=np.float32)
    # One axis after the other: several times faster than both at once.
    tall = fine.reshape(rows, factor, columns * factor).sum(axis=1)
    wide = tall.reshape(rows, columns, factor).sum(axis=2)
    return np.asarray(wide / factor**2, dtype=np.float32)


def through_air(
    ground: Float32Array, band: str, clouds: Clouds, *, haze: float, gain: float, rng: np.random.Generator
) -> Float32Array:
    """Surface reflectance as a processor delivers it: what the atmosphere correction missed, clouds and noise included.

    ``ground`` and the result are (H, W) on the clouds' grid or on one that is coarser by a whole factor.
    """
    factor = clouds.opacity.shape[0] // ground.shape[0]
    opacity, shadow = (block_mean(layer, factor) for layer in (clouds.opacity, clouds.shadow))
    seen = ground * np.float32(gain) * (1 - shadow) + np.float32(haze * _HAZE[band])
    seen = seen * (1 - opacity) + np.float32(_CLOUD[band]) * opacity * (0.9 + 0.1 * opacity)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    return np.asarray(seen + noise * (0.0015 + 0.008 * seen), dtype=np.float32)


def to_l2a(reflectance: Float32Array, valid: BoolArray) -> npt.NDArray[np.uint16]:
    """Digital numbers of Sentinel-2 L2A, baseline 04.00 and later; 0 where not valid."""
    numbers = np.clip(np.round((reflectance - L2A_OFFSET) / L2A_SCALE), 1, 65535)
    return np.where(valid, numbers, L2A_NODATA).astype(np.uint16)


def scene_classes(
    reflectance: dict[str, Float32Array], cloud: Float32Array, shadow: Float32Array, valid: BoolArray
) -> npt.NDArray[np.uint8]:
    """Scene classification (SCL) with Sen2Cor's class numbers, from 20 m reflectance and shares of cloud and shadow."""
    red, nir, green, swir = (reflectance[band] for band in ("red", "nir", "green", "swir16"))
    greenness = (nir - red) / np.maximum(nir + red, 1e-3)
    wetness = (green - swir) / np.maximum(green + swir, 1e-3)
    classes = np.full(red.shape, 5, dtype=np.uint8)  # bare
    classes[greenness > 0.35] = 4  # vegetation
    classes[(greenness > 0.25) & (greenness <= 0.35)] = 7  # unclassified
    classes[(wetness > 0.1) & (nir < 0.2)] = 6  # water
    classes[shadow > 0.15] = 3
    classes[cloud > 0.15] = 8
    classes[cloud > 0.6] = 9
    classes[~valid] = 0
    return classes


def to_photo(reflectance: Float32Array, *, gain: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """8-bit brightness as a camera's processing gives it: stretched, with a tone curve, 1..255."""
    noise = 0.004 * rng.standard_normal(reflectance.shape, dtype=np.float32)
    tone = np.clip(reflectance * np.float32(gain) / 0.30 + noise, 0, 1) ** (1 / 1.4)
    return np.clip(np.round(tone * 255), 1, 255).astype(np.uint8)
