"""How well a score tells flooded tiles from dry tiles of the same after-images, beside scores that cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.heldout import FloodTiles
from training.evaluate.metrics import auroc

FloatArray = npt.NDArray[np.floating]

DARK_SWIR_DN = 40
"""8-bit SWIR below which OMBRIA pixels are called dark: the control of the first trial."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """AUROCs of one score."""

    pooled: float
    """Over all tiles."""
    by_event: Mapping[str, float]
    """Within each event block that has enough tiles of both kinds."""

    @property
    def mean_of_events(self) -> float:
        """Each event counts the same."""
        return float(np.mean(list(self.by_event.values()))) if self.by_event else float("nan")


def judge(score: FloatArray, tiles: FloodTiles, at_least: float = 0.25, fewest: int = 5) -> Verdict:
    """Flooded (share of ``at_least``) against dry (0) tiles; higher scores should mean flood.

    An event with fewer than ``fewest`` tiles of either kind has no figure of its own: it would be chance.
    """
    events = np.asarray(tiles.events)
    much, none = tiles.flooded >= at_least, tiles.flooded == 0
    by_event = {
        str(event): auroc(score[much & (events == event)], score[none & (events == event)])
        for event in np.unique(events)
        if min((much & (events == event)).sum(), (none & (events == event)).sum()) >= fewest
    }
    return Verdict(pooled=auroc(score[much], score[none]), by_event=by_event)


@dataclass(frozen=True, kw_only=True)
class ColourModel:
    """The normal tiles' mean colours as one Gaussian."""

    mean: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    @classmethod
    def of(cls, tiles: FloatArray) -> ColourModel:
        """Fit on normal tiles, (n, C, H, W)."""
        colours = tiles.astype(np.float64).mean(axis=(2, 3))
        covariance = np.cov(colours, rowvar=False)
        return cls(mean=colours.mean(axis=0), precision=np.linalg.pinv(covariance))

    def distance(self, tiles: FloatArray) -> npt.NDArray[np.float64]:
        """Squared Mahalanobis distance of each tile's mean colour.  (n,)"""
        off = tiles.astype(np.float64).mean(axis=(2, 3)) - self.mean
        return np.asarray(np.einsum("ni,ij,nj->n", off, self.precision, off))


def controls(tiles: FloatArray, colours: ColourModel, dark_swir: float) -> dict[str, npt.NDArray[np.float64]]:
    """Scores that need no training, by name, of (SWIR, NIR, red) reflectance tiles.  (n,) each

    Args:
        tiles: (n, 3, H, W).
        colours: of normal training tiles.
        dark_swir: reflectance that corresponds to :data:`DARK_SWIR_DN`.
    """
    swir, nir, red = tiles[:, 0], tiles[:, 1], tiles[:, 2]
    index = (red - swir) / np.maximum(red + swir, 1e-6)
    return {
        "share of dark SWIR": (swir < dark_swir).mean(axis=(1, 2)),
        "mean NIR, negated": -nir.mean(axis=(1, 2)),
        "water index (red - SWIR) / (red + SWIR)": index.mean(axis=(1, 2)),
        "mean-colour distance": colours.distance(tiles),
        "energy, mean of x²": ((tiles * 2 - 1) ** 2).mean(axis=(1, 2, 3)),
    }
