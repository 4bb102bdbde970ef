"""The shape of the simulated valley: a meandering river, its flood plain and the hills on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from engine.tiles import BoolArray, Float32Array

SIDE_M = 5120.0
"""Side of the square place, metres: 8 x 8 cells of 640 m."""
PIXEL_M = 2.5
"""Pixel of the simulation, metres."""
SIZE_PX = int(SIDE_M / PIXEL_M)
"""Side of the simulation, pixels."""

RIVER_HALF_WIDTH_M = 32.0
BANK_M = 1.0
"""Height of the river bank above the normal water level, metres."""


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """The ground, row 0 in the north, all (SIZE_PX, SIZE_PX)."""

    height_m: Float32Array
    """Height above the river's normal level: negative in the channel."""
    river_m: Float32Array
    """Distance to the middle of the river, metres."""
    slope_east: Float32Array
    """Rise per metre eastwards."""
    slope_south: Float32Array
    """Rise per metre southwards."""
    river_row: npt.NDArray[np.float64]
    """Row of the river's middle for each column.  (SIZE_PX,)"""

    def water_at(self, stage_m: float) -> BoolArray:
        """What lies under water that stands ``stage_m`` above normal and has come from the river."""
        low = self.height_m < stage_m
        labels, _ = ndimage.label(low)
        from_river = np.unique(labels[(self.river_m < RIVER_HALF_WIDTH_M / 2) & low])
        wet: BoolArray = np.isin(labels, from_river[from_river > 0])
        return wet


def smooth_noise(
    rng: np.random.Generator, *, scale_m: float, exponent: float = 3.0, size_px: int = SIZE_PX, pixel_m: float = PIXEL_M
) -> Float32Array:
    """Noise with mean 0 and standard deviation 1 whose structures are as wide as ``scale_m`` and finer.

    Spectral synthesis: white noise with amplitudes falling as (1 + (f scale)²)^(-exponent/2).  (size_px, size_px)
    """
    white = rng.standard_normal((size_px, size_px), dtype=np.float32)
    fy = np.fft.fftfreq(size_px, pixel_m).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(size_px, pixel_m).astype(np.float32)[None, :]
    amplitude = (1.0 + (fx**2 + fy**2) * np.float32(scale_m) ** 2) ** (-exponent / 2)
    amplitude[0, 0] = 0.0
    noise = fft.irfft2(fft.rfft2(white) * amplitude, s=white.shape)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def make_terrain(rng: np.random.Generator) -> Terrain:
    """A valley that runs from west to east."""
    x_m = (np.arange(SIZE_PX) + 0.5) * PIXEL_M
    phase, ripple = rng.uniform(-0.4, 0.4, size=2)
    middle_m = (
        SIDE_M / 2
        + 430 * np.sin(2 * np.pi * x_m / 4100 + phase)
        + 140 * np.sin(2 * np.pi * x_m / 1650 + 1.0 + ripple)
        + 35 * np.sin(2 * np.pi * x_m / 610 + 2 * ripple)
    )
    river_row = middle_m / PIXEL_M
    river_m = _distance_to(river_row)
    # The width of a river varies along its course; so does the distance at which the flood plain ends.
    width = RIVER_HALF_WIDTH_M * (1 + 0.18 * smooth_noise(rng, scale_m=500))
    plain = smooth_noise(rng, scale_m=420)
    hills = smooth_noise(rng, scale_m=1400, exponent=2.6)
    out = np.maximum(river_m - width, 0.0)  # metres from the water's edge
    channel = -2.5 * np.clip(1 - (river_m / width) ** 2, 0, 1)
    bank = BANK_M * np.clip(out / 12, 0, 1)
    rise = 2.2 * (out / 560) ** 2
    edge = np.clip((out - 620 - 90 * plain) / 1100, 0, 1)
    hillside = (edge**2 * (3 - 2 * edge)) * (58 + 16 * hills)
    height = channel + bank + np.minimum(rise, 9) + 0.42 * plain * np.clip(out / 60, 0, 1) + np.maximum(hillside, 0)
    height = np.where(river_m < width, np.minimum(height, -0.1), height).astype(np.float32)
    south, east = np.gradient(ndimage.gaussian_filter(height, 6.0), PIXEL_M)
    return Terrain(
        height_m=height,
        river_m=river_m,
        slope_east=east.astype(np.float32),
        slope_south=south.astype(np.float32),
        river_row=river_row,
    )


def _distance_to(river_row: npt.NDArray[np.float64]) -> Float32Array:
    """Distance of each pixel to the line, metres."""
    off = np.ones((SIZE_PX, SIZE_PX), dtype=np.bool_)
    rows = np.round(river_row).astype(int)
    # Fill the steps between neighbouring columns, so that the line has no holes.
    for column, (row, following) in enumerate(zip(rows, [*rows[1:], rows[-1]], strict=True)):
        off[min(row, following) : max(row, following) + 1, column] = False
    return np.asarray(ndimage.distance_transform_edt(off, sampling=PIXEL_M), dtype=np.float32)
