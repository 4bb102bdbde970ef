"""Controls: scores that use no network. If one equals a detector, the detector's effect is colour, light or season.

None knows a label. Bands are given by their place in the tile. Where a threshold or a ratio needs it, a control works
on reflectance, (x + 1) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Self

import numpy as np
from PIL import Image

from engine.errors import InputMismatch
from engine.odeed import masked_mse
from engine.scorers.base import TileScores, check_mask, mean_over, nan_without_ground
from engine.tiles import BoolArray, Float32Array


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Mean of x^2."""

    name: str = "energy"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`."""
        score, error_map = masked_mse(x, np.zeros_like(x), valid)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class MeanColour:
    """Squared Mahalanobis distance of a tile's mean colour from normal tiles' mean colours.

    The map holds the same distance of each pixel's own colour.
    """

    mean: Float32Array
    """Mean over normal tiles.  (C,)"""
    precision: Float32Array
    """Inverse covariance over normal tiles.  (C, C)"""
    name: str = "mean-colour"
    nfe: int = 0

    @classmethod
    def of(cls, colours: Float32Array) -> Self:
        """The control for normal tiles of these mean colours (n, C), rows that are not finite left out.

        Raises:
            InputMismatch: no more such rows than bands.
        """
        finite = colours[np.isfinite(colours).all(axis=1)]
        bands = colours.shape[1]
        if len(finite) <= bands:
            raise InputMismatch(f"{len(finite)} tiles with valid pixels; more than {bands} are needed")
        # The floor keeps the inverse finite for tiles of one colour.
        covariance = np.cov(finite, rowvar=False).reshape(bands, bands) + 1e-6 * np.eye(bands)
        return cls(
            mean=finite.mean(axis=0).astype(np.float32),
            precision=np.linalg.inv(covariance).astype(np.float32),
        )

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`."""
        check_mask(x, valid)
        if x.shape[1] != len(self.mean):
            raise InputMismatch(f"tiles have {x.shape[1]} bands; the normal colours have {len(self.mean)}")
        error_map = np.where(valid, self._distance(np.moveaxis(x, 1, -1)), 0.0).astype(np.float32)
        return TileScores(score=self._distance(mean_colours(x, valid)), error_map=error_map, nfe=self.nfe)

    def _distance(self, colours: Float32Array) -> Float32Array:
        away = colours - self.mean
        return np.asarray(np.einsum("...i,ij,...j->...", away, self.precision, away), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class DarkShare:
    """Share of pixels whose reflectance in one band is below a threshold.

    Open water is dark in the short-wave infrared. The threshold stands between two of OMBRIA's 8-bit numbers,
    39.5 x 0.00267, so that "under 40" is exact.
    """

    band: int
    below: float = 39.5 * 0.00267
    name: str = "dark-share"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; the map is 1 where a pixel is dark."""
        check_mask(x, valid)
        score, error_map = mean_over((_band(x, self.band) < self.below).astype(np.float32), valid)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class MeanBand:
    """Mean reflectance of one band, negated: water is dark in the near infrared, so darker is stranger."""

    band: int
    name: str = "mean-nir-negated"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; the map is each pixel's reflectance, negated."""
        check_mask(x, valid)
        score, error_map = mean_over(-_band(x, self.band), valid)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class WaterIndex:
    """Mean of (visible - infrared) / (visible + infrared), -1..1: :mod:`engine.water`, without its threshold."""

    visible: int
    """Band: red, or green."""
    infrared: int
    """Band: SWIR, or NIR."""
    name: str = "water-index"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; the map is each pixel's index, 0 without light in either band."""
        check_mask(x, valid)
        # A reflectance below 0 (noise, or an offset) would let the index leave -1..1.
        visible, infrared = (np.maximum(_band(x, band), 0.0) for band in (self.visible, self.infrared))
        total = visible + infrared
        index = np.divide(visible - infrared, total, out=np.zeros_like(total), where=total > 0)
        score, error_map = mean_over(index, valid)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Mean length of the spatial gradient of x over bands: how much a tile's pixels differ from their neighbours.

    The gradient is the difference to the next pixel right and below; a pixel counts where all three are valid.
    """

    name: str = "sharpness"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; NaN too where no pixel has both neighbours."""
        check_mask(x, valid)
        across = x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
        down = x[:, :, 1:, :-1] - x[:, :, :-1, :-1]
        gradient, counts = np.zeros(valid.shape, dtype=np.float32), np.zeros_like(valid)
        gradient[:, :-1, :-1] = np.sqrt(across**2 + down**2).mean(axis=1)
        counts[:, :-1, :-1] = valid[:, :-1, :-1] & valid[:, :-1, 1:] & valid[:, 1:, :-1]
        score, error_map = mean_over(gradient, counts)
        return TileScores(score=score, error_map=error_map, nfe=self.nfe)


@dataclass(frozen=True, kw_only=True)
class PngSize:
    """Bytes of the tile as a lossless PNG of 8 bits: complexity as a general compressor sees it (Serrà et al. 2020).

    Reflectance 0..1 becomes 0..255. Three bands make one RGB image, other numbers lie one below the other in grey.
    Pixels that are not valid are black, which makes a file smaller.
    """

    name: str = "png-size"
    nfe: int = 0

    def score(self, x: Float32Array, valid: BoolArray) -> TileScores:
        """See :class:`~engine.scorers.base.Scorer`; there is no map."""
        check_mask(x, valid)
        levels = np.rint(np.clip((x + 1) / 2, 0.0, 1.0) * 255 * valid[:, None]).astype(np.uint8)
        bytes_ = np.asarray([len(_png(tile)) for tile in levels], dtype=np.float32)
        return TileScores(score=nan_without_ground(bytes_, valid), nfe=self.nfe)


def mean_colours(x: Float32Array, valid: BoolArray) -> Float32Array:
    """Mean of each band over valid pixels, NaN for a tile without one.  (N, C)"""
    count = valid.sum(axis=(1, 2))[:, None].astype(np.float64)
    total = (x * valid[:, None]).sum(axis=(2, 3), dtype=np.float64)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def _band(x: Float32Array, band: int) -> Float32Array:
    """Reflectance of one band.  (N, H, W)"""
    if not 0 <= band < x.shape[1]:
        raise InputMismatch(f"band {band} was asked for; the tiles have bands 0 to {x.shape[1] - 1}")
    return np.asarray((x[:, band] + 1) / 2, dtype=np.float32)


def _png(tile: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """One tile (C, H, W) as a PNG file."""
    if len(tile) == 3:
        picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(tile, 0, -1)))
    else:
        picture = Image.fromarray(tile.reshape(-1, tile.shape[-1]))
    file = BytesIO()
    picture.save(file, format="PNG", compress_level=9)
    return file.getvalue()
