"""Which pixels are clear ground, and why the others are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engine.sensors import MaskSpec, SkipReason
from engine.tiles import BoolArray, Float32Array

CodeArray = npt.NDArray[np.uint8]

CLEAR = 0
"""Code of clear ground."""
REASONS: tuple[SkipReason, ...] = get_args(SkipReason)
"""Reason of code i + 1."""
CODES: Mapping[SkipReason, int] = MappingProxyType({reason: i for i, reason in enumerate(REASONS, start=1)})
"""Code of a reason."""


def classify(values: Float32Array, spec: MaskSpec) -> CodeArray:
    """Reason codes of mask values; NaN, where a mask says nothing, is nodata.  (H, W) -> (H, W)"""
    codes = np.zeros(values.shape, np.uint8)
    unknown = np.isnan(values)
    known = np.where(unknown, 0.0, values)
    if spec.kind == "scl":
        for value, reason in spec.classes:
            codes[known == value] = CODES[reason]
    elif spec.kind == "cloud-probability":
        codes[known > spec.threshold_percent] = CODES["cloud"]
    elif spec.kind == "qa60":
        # Sentinel-2 QA60: bit 10 opaque cloud, bit 11 cirrus.
        codes[(known.astype(np.int64) & 0b1100_0000_0000) != 0] = CODES["cloud"]
    elif spec.kind == "alpha":
        codes[known == 0] = CODES["nodata"]
    codes[unknown] = CODES["nodata"]
    return codes


def grow(codes: CodeArray, *, cloud_px: int, edge_px: int) -> CodeArray:
    """Let cloud, shadow and saturation reach ``cloud_px`` further, nodata ``edge_px``, each over clear ground only."""
    grown = codes.copy()
    reaches: dict[SkipReason, int] = {"nodata": edge_px, "cloud": cloud_px, "shadow": cloud_px, "saturated": cloud_px}
    for reason, reach in reaches.items():
        marked = codes == CODES[reason]
        if reach > 0 and marked.any():
            grown[_dilate(marked, reach) & (grown == CLEAR)] = CODES[reason]
    return grown


def main_reason(codes: CodeArray) -> SkipReason:
    """What most of the pixels that are not clear are; the first of :data:`REASONS` on a tie."""
    counts = np.bincount(codes.ravel(), minlength=len(REASONS) + 1)[1:]
    return REASONS[int(np.argmax(counts))]


def pixels_of(distance_m: float, gsd_m: float) -> int:
    """A distance in whole pixels, rounded up."""
    return math.ceil(distance_m / gsd_m - 1e-9)


def _dilate(marked: BoolArray, reach: int) -> BoolArray:
    side = 2 * reach + 1
    dilated: BoolArray = ndimage.maximum_filter(marked, size=side, mode="constant", cval=0)
    return dilated
