"""A rectangle of an image, at fractions of a pixel, brought to another size.

Where pixels are many they are averaged over areas, as a coarser sensor would; where they are few they are interpolated
linearly. At one pixel to one, both copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.pool import PixelArray

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of an image; (0, 0) is the corner of the first pixel."""

    top: float
    left: float
    height: float
    width: float

    def of(self, scale_rows: float, scale_cols: float) -> Box:
        """The same ground in an image with so many times the rows and columns."""
        return Box(
            top=self.top * scale_rows,
            left=self.left * scale_cols,
            height=self.height * scale_rows,
            width=self.width * scale_cols,
        )


def touched(image: PixelArray, box: Box, size_px: int) -> PixelArray:
    """The pixels that :func:`resampled` looks at, a view.  (h, w, C)"""
    rows, _ = axis_weights(image.shape[0], box.top, box.height, size_px)
    cols, _ = axis_weights(image.shape[1], box.left, box.width, size_px)
    return image[rows, cols]


def resampled(image: PixelArray, box: Box, size_px: int) -> Float32Array:
    """The box of an image (H, W, C) as (size, size, C)."""
    rows, down = axis_weights(image.shape[0], box.top, box.height, size_px)
    cols, across = axis_weights(image.shape[1], box.left, box.width, size_px)
    part = image[rows, cols].astype(np.float32)
    lines = np.tensordot(down, part, axes=(1, 0))  # (size, w, C)
    return np.ascontiguousarray(np.tensordot(across, lines, axes=(1, 1)).transpose(1, 0, 2))


def axis_weights(length_px: int, start: float, extent: float, size_px: int) -> tuple[slice, Float32Array]:
    """Which pixels of an axis are needed, and how much of each goes into each of ``size_px`` new ones.

    Args:
        length_px: pixels of the whole axis; beyond its ends the last pixel goes on.
        start: where the interval begins, pixels.
        extent: its length, pixels.
        size_px: new pixels.

    Returns:
        The k pixels, and weights (size, k) whose rows sum to 1.
    """
    step = extent / size_px
    if step >= 1:
        edges = np.clip(start + step * np.arange(size_px + 1), 0, length_px)  # (size + 1,)
        first, last = math.floor(edges[0] + 1e-9), math.ceil(edges[-1] - 1e-9)
        pixels = np.arange(first, last)
        weights = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.clip(weights, 0, None)
    else:
        centres = np.clip(start + step * (np.arange(size_px) + 0.5) - 0.5, 0, length_px - 1)
        first, last = math.floor(centres[0] + 1e-9), math.ceil(centres[-1] - 1e-9) + 1
        weights = np.clip(1 - np.abs(centres[:, None] - np.arange(first, last)), 0, None)
    return slice(first, last), (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
