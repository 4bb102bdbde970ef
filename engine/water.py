"""Open water from reflectance: spectral evidence that needs no training.

Water absorbs in the short-wave infrared while land does not, so a normalised difference of a visible band and
SWIR separates them (MNDWI, Xu 2006; with red instead of green the index also holds over turbid flood water).
Snow has the same signature but is bright in the near infrared, hence the second condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from engine.tiles import BoolArray, Float32Array, TileBatch

WaterIndex = Literal["red-swir", "green-swir", "green-nir"]

INDEX_THRESHOLD = 0.0
"""A pixel is water where its index is above this."""
NIR_MAX = 0.25
"""Reflectance; brighter than this in the near infrared is snow, cloud or foam, never open water."""


def index_for(bands: Sequence[str]) -> WaterIndex | None:
    """The best water index that these bands allow; None where there is neither SWIR nor NIR beside a visible band."""
    # 1. red and SWIR: holds over turbid water.  2. green and SWIR: MNDWI.  3. green and NIR: NDWI.
    if "swir16" in bands and "red" in bands:
        return "red-swir"
    if "swir16" in bands and "green" in bands:
        return "green-swir"
    if "nir" in bands and "green" in bands:
        return "green-nir"
    return None


def water_mask(batch: TileBatch) -> BoolArray | None:
    """Which valid pixels are open water.  (N, H, W); None where the bands allow no index."""
    index = index_for(batch.bands)
    if index is None:
        return None
    visible = batch.band("red" if index == "red-swir" else "green")
    infrared = batch.band("nir" if index == "green-nir" else "swir16")
    total = visible + infrared
    # A pixel with no light in either band says nothing: its index is 0, which is not water.
    difference = np.divide(visible - infrared, total, out=np.zeros_like(total), where=total > 0)
    mask: BoolArray = (difference > INDEX_THRESHOLD) & batch.valid
    if "nir" in batch.bands:
        mask &= batch.band("nir") < NIR_MAX
    return mask


def water_share(batch: TileBatch) -> Float32Array:
    """Share of each tile's valid pixels that are open water, 0..1.  (N,); NaN where it cannot be told."""
    mask = water_mask(batch)
    if mask is None:
        return np.full(len(batch), np.nan, dtype=np.float32)
    ground = batch.valid.sum(axis=(1, 2))
    water = mask.sum(axis=(1, 2))
    share: Float32Array = np.divide(
        water, ground, out=np.full(len(batch), np.nan, np.float32), where=ground > 0, casting="unsafe"
    )
    return share
