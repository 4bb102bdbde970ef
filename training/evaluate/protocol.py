"""What is held against what: the three protocols by which flood detectors are judged.

- ``flooded-vs-dry``: flooded tiles against dry tiles of the after-images; same light, same season, often one image.
- ``after-vs-before``: flooded tiles after the flood against the same ground before. A paired score sees both looks, so
  s(after | before) stands against s(before | after); a symmetric one gives both the same and is not judged here.
- ``pixel``: pixels of the after-images, the mask against the score's map.

A tile is flooded from a share of 25 % of its known ground on, and dry at 0; what lies between is judged by pixel only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Protocol = Literal["flooded-vs-dry", "after-vs-before", "pixel"]
PROTOCOLS: tuple[Protocol, ...] = ("flooded-vs-dry", "after-vs-before", "pixel")
TILE_PROTOCOLS: tuple[Protocol, ...] = ("flooded-vs-dry", "after-vs-before")

FLOODED_FROM = 0.25
"""Share of a tile's known ground."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What is known of T tiles beside their scores."""

    events: tuple[str, ...]
    """Names; the numbers below count into them."""
    images: tuple[str, ...]
    event: IntArray
    """(T,)"""
    image: IntArray
    """(T,)"""
    share: Float32Array
    """Flooded share of the known ground, 0..1.  (T,)"""
    pixel_flooded: BoolArray
    """Whether K chosen pixels of each tile are flooded.  (T, K)"""
    pixel_known: BoolArray
    """Whether the mask says anything there.  (T, K)"""

    def __len__(self) -> int:
        return len(self.share)

    @property
    def flooded(self) -> BoolArray:
        """Tiles that count as flooded.  (T,)"""
        return np.asarray(self.share >= FLOODED_FROM)

    @property
    def dry(self) -> BoolArray:
        """Tiles that count as dry.  (T,)"""
        return np.asarray(self.share == 0)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One scorer's scores of T tiles, NaN where a tile was not scored."""

    now: Float32Array
    """Of the after-tile; of a paired scorer s(after | before).  (T,)"""
    earlier: Float32Array
    """Of the before-tile; of a paired scorer s(before | after).  (T,)"""
    pixels: Float32Array | None
    """Its map of the after-tile at the chosen pixels, if it has one.  (T, K)"""
    ms_per_tile: float | None
    """Measured; None if nothing was scored."""

    def log(self) -> Scores:
        """Logarithms of the tile scores, for scores that are above 0 and spread over orders of magnitude."""
        now, earlier = (np.log(np.maximum(values, 1e-30)).astype(np.float32) for values in (self.now, self.earlier))
        return Scores(now=now, earlier=earlier, pixels=self.pixels, ms_per_tile=self.ms_per_tile)

    def usable(self, protocol: Protocol) -> BoolArray:
        """Tiles of which the protocol has all that it needs.  (T,)"""
        if protocol == "pixel":
            none = np.zeros(len(self.now), dtype=np.bool_)
            return none if self.pixels is None else np.asarray(~np.isnan(self.pixels).any(axis=1))
        there = ~np.isnan(self.now)
        return np.asarray(there & ~np.isnan(self.earlier) if protocol == "after-vs-before" else there)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Positives and negatives of one protocol, with the events and images that they come from."""

    positive: FloatArray
    negative: FloatArray
    positive_event: IntArray
    negative_event: IntArray
    positive_image: IntArray
    negative_image: IntArray

    @property
    def complete(self) -> bool:
        """Whether there are both kinds."""
        return len(self.positive) > 0 and len(self.negative) > 0

    def with_scores(self, both: FloatArray) -> Sides:
        """The same sides with other scores, positives first.  (P + N,)"""
        return Sides(
            positive=both[: len(self.positive)],
            negative=both[len(self.positive) :],
            positive_event=self.positive_event,
            negative_event=self.negative_event,
            positive_image=self.positive_image,
            negative_image=self.negative_image,
        )

    @property
    def both(self) -> FloatArray:
        """All scores, positives first.  (P + N,)"""
        return np.concatenate([self.positive, self.negative])


def sides_of(protocol: Protocol, ground: Ground, scores: Scores, rows: BoolArray) -> Sides:
    """The two sides of a protocol among the tiles at ``rows`` (T,), which must be usable."""
    if protocol == "pixel":
        return _pixels(ground, scores, rows)
    positive = ground.flooded & rows
    if protocol == "flooded-vs-dry":
        negative, against = ground.dry & rows, scores.now
    else:
        negative, against = positive, scores.earlier
    return Sides(
        positive=scores.now[positive],
        negative=against[negative],
        positive_event=ground.event[positive],
        negative_event=ground.event[negative],
        positive_image=ground.image[positive],
        negative_image=ground.image[negative],
    )


def _pixels(ground: Ground, scores: Scores, rows: BoolArray) -> Sides:
    values = np.empty((0, 0), np.float32) if scores.pixels is None else scores.pixels[rows]
    flooded, known = ground.pixel_flooded[rows], ground.pixel_known[rows]
    if scores.pixels is None:
        flooded, known = flooded[:0, :0], known[:0, :0]
    events, images = (
        np.broadcast_to(codes[rows][: len(values), None], values.shape) for codes in (ground.event, ground.image)
    )
    wet, dry = known & flooded, known & ~flooded
    return Sides(
        positive=values[wet],
        negative=values[dry],
        positive_event=events[wet],
        negative_event=events[dry],
        positive_image=images[wet],
        negative_image=images[dry],
    )
