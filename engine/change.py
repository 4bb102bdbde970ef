"""How a place differs from its earlier looks: three numbers a tile, and one that joins them.

For a tile and the earlier looks of its cell:

* ``odeed``: log ODEED score minus the median of the earlier ones. Two-sided, for smooth dark water is *easier* to
  reconstruct than the field that it covers;
* ``xstars``: cosine distance from the X-STARS embedding to the nearest earlier one;
* ``water``: share of open water minus the median of the earlier ones.

Season and light move a whole scene at once. So the scene's median over its tiles is taken off the first two, where
there are tiles enough to know it; never off water, or a flood over most of an area would hide itself.

Each is measured in robust standard deviations of the same number on normal looks, and the joined statistic is
``|z_odeed| + max(z_xstars, 0) + max(z_water, 0)``, weighted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.reference import Reference
from engine.tiles import Float32Array

DETREND_MIN_TILES = 16
"""Tiles below which a scene's own median says too little to be taken off."""
SCALE_FLOORS = {"odeed": 0.05, "xstars": 0.005, "water": 0.02}
"""Smallest standard deviations believed: a place that never changed would otherwise flag its first ripple."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Differences from earlier looks. NaN where there is nothing to compare with."""

    odeed: Float32Array
    """(N,) or (N, L)"""
    xstars: Float32Array
    water: Float32Array


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each part counts in the joined statistic.

    Water counts double: on events that the shipped networks never saw it tells flooded from dry ground far better
    than either learned change does alone (the tables of the bundle's model card). Where a flood model judges water
    apart, it counts nothing here.
    """

    odeed: float = 0.5
    xstars: float = 0.5
    water: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Centre and robust standard deviation of each part on normal looks."""

    odeed: tuple[float, float]
    xstars: tuple[float, float]
    water: tuple[float, float]

    @classmethod
    def of(cls, normal: Change) -> Scales:
        """Measure on looks on which nothing had happened."""
        return cls(
            odeed=_robust(normal.odeed, "odeed"),
            xstars=_robust(normal.xstars, "xstars"),
            water=_robust(normal.water, "water"),
        )

    def z(self, change: Change) -> Change:
        """Each part in robust standard deviations."""
        return Change(
            odeed=_standard(change.odeed, self.odeed),
            xstars=_standard(change.xstars, self.xstars),
            water=_standard(change.water, self.water),
        )

    def joined(self, change: Change, weights: Weights) -> Float32Array:
        """The joined statistic; NaN where no part is known."""
        z = self.z(change)
        parts = [
            weights.odeed * np.abs(z.odeed),
            weights.xstars * np.maximum(z.xstars, 0.0),
            weights.water * np.maximum(z.water, 0.0),
        ]
        known = np.any([np.isfinite(part) for part in parts], axis=0)
        total = np.sum([np.where(np.isfinite(part), part, 0.0) for part in parts], axis=0)
        return np.where(known, total, np.nan).astype(np.float32)


def change_from(odeed: Float32Array, water: Float32Array, cls: Float32Array, reference: Reference) -> Change:
    """How one look differs from a reference over the same cells.

    Args:
        odeed: log scores of the look.  (N,)
        water: shares of open water.  (N,)
        cls: unit embeddings.  (N, D)
        reference: earlier looks of the same N cells.
    """
    return Change(
        odeed=_detrended(odeed - median_of_looks(reference.odeed)),
        xstars=_detrended(_nearest_distance(cls, reference.cls)),
        water=(water - median_of_looks(reference.water)).astype(np.float32),
    )


def changes_within(reference: Reference) -> Change:
    """How each earlier look differs from the others: what is normal for this place.  Arrays (N, L)."""
    n, count = reference.odeed.shape
    parts = {name: np.full((n, count), np.nan, dtype=np.float32) for name in ("odeed", "xstars", "water")}
    for j in range(count):
        if count == 1:
            break
        rest = reference.without(j)
        change = change_from(reference.odeed[:, j], reference.water[:, j], reference.cls[:, j], rest)
        parts["odeed"][:, j] = change.odeed
        parts["xstars"][:, j] = change.xstars
        parts["water"][:, j] = change.water
    return Change(odeed=parts["odeed"], xstars=parts["xstars"], water=parts["water"])


def nearest_look(cls: Float32Array, reference_cls: Float32Array) -> tuple[float, int]:
    """Cosine distance of one embedding (D,) to the nearest of (L, D), and which; (NaN, −1) where there is none."""
    known = np.flatnonzero(np.isfinite(reference_cls).all(axis=1)) if reference_cls.size else np.zeros(0, np.int64)
    if not len(known) or not np.isfinite(cls).all():
        return float("nan"), -1
    similarity = reference_cls[known] @ cls
    best = int(np.argmax(similarity))
    # Kept in half precision, the norm of an embedding may exceed 1, and nearly equal looks come out below 0.
    return max(0.0, float(1.0 - similarity[best])), int(known[best])


def median_of_looks(values: Float32Array) -> Float32Array:
    """Median over looks, NaN where none is known.  (N, L) -> (N,)"""
    if values.shape[1] == 0:
        return np.full(values.shape[0], np.nan, dtype=np.float32)
    # Sorting puts NaN last, so the median of the k known values stands at (k-1)/2; nanmedian would warn on none.
    ordered = np.sort(values, axis=1)
    known = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    lower = ordered[rows, np.maximum(known - 1, 0) // 2]
    upper = ordered[rows, np.minimum(known // 2, values.shape[1] - 1)]
    return np.where(known > 0, (lower + upper) / 2, np.nan).astype(np.float32)


def _nearest_distance(cls: Float32Array, reference_cls: Float32Array) -> Float32Array:
    """1 − the largest cosine similarity to an earlier look.  (N, D), (N, L, D) -> (N,)"""
    if reference_cls.shape[1] == 0 or reference_cls.shape[2] == 0:
        return np.full(len(cls), np.nan, dtype=np.float32)
    similarity = np.einsum("nd,nld->nl", cls, reference_cls)
    best = np.max(np.where(np.isfinite(similarity), similarity, -np.inf), axis=1)
    return np.where(np.isfinite(best), 1.0 - best, np.nan).astype(np.float32)


def _detrended(values: Float32Array) -> Float32Array:
    finite = values[np.isfinite(values)]
    if len(finite) < DETREND_MIN_TILES:
        return values.astype(np.float32)
    return (values - np.median(finite)).astype(np.float32)


def _robust(values: Float32Array, part: str) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, SCALE_FLOORS[part]
    centre = float(np.median(finite))
    # 1.4826 × the median absolute deviation is the standard deviation of a normal distribution.
    spread = 1.4826 * float(np.median(np.abs(finite - centre)))
    return centre, max(spread, SCALE_FLOORS[part])


def _standard(values: Float32Array, scale: tuple[float, float]) -> Float32Array:
    centre, spread = scale
    return ((values - centre) / spread).astype(np.float32)
