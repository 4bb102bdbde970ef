"""What colour a tile is, in a few numbers: the evidence that tells flood water, kept of every look.

For a family with a water index (:func:`engine.water.index_for`) and B bands the features of a tile are, over its valid
pixels: the mean water index, the share of open water, and each band's mean log reflectance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.tiles import Float32Array, TileBatch
from engine.water import index_for, water_share

FloatArray = npt.NDArray[np.floating]

FLOOR = 0.01
"""Reflectance added before a logarithm or a ratio: below it, a sensor measures noise."""


def feature_names(bands: Sequence[str]) -> tuple[str, ...]:
    """The features of a family of these bands, in their order; none where they allow no water index."""
    if index_for(bands) is None:
        return ()
    return ("index", "water", *(f"log_{band}" for band in bands))


def spectrum_of(batch: TileBatch, bands: Sequence[str]) -> Float32Array:
    """Features of each tile; NaN for a tile without valid pixels.  (N, K), K = 0 where there is no water index

    Args:
        batch: tiles with at least ``bands``.
        bands: of the family, so that a sensor with further bands gives the same features.
    """
    index = index_for(bands)
    if index is None:
        return np.zeros((len(batch), 0), dtype=np.float32)
    visible = batch.band("green" if index.startswith("green") else "red") + FLOOR
    infrared = batch.band("nir" if index == "green-nir" else "swir16") + FLOOR
    parts = [
        _mean(batch, (visible - infrared) / (visible + infrared)),
        water_share(batch),
        *(_mean(batch, np.log(batch.band(band) + FLOOR)) for band in bands),
    ]
    return np.stack(parts, axis=1).astype(np.float32)


def _mean(batch: TileBatch, values: FloatArray) -> Float32Array:
    """Mean over valid pixels, NaN where there is none.  (N,)"""
    count = batch.valid.sum(axis=(1, 2))
    total = np.where(batch.valid, values, 0.0).sum(axis=(1, 2), dtype=np.float64)
    mean = np.full(len(batch), np.nan, dtype=np.float32)
    np.divide(total, count, out=mean, where=count > 0, casting="unsafe")
    return mean
