"""Flood maps from frozen tokens: intersection over union with the mask, beside pixels alone and the water index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.heldout import FloodTiles
from training.data.ombria import OmbriaImage
from training.evaluate.bootstrap import interval
from training.evaluate.encoders.linear import Logistic
from training.evaluate.encoders.resampling import unit_weights
from training.evaluate.record import rounded

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SWIR, NIR, RED = 0, 1, 2
"""Bands of OMBRIA's images."""
THRESHOLDS = 99
"""Quantiles of the train maps that are tried as thresholds."""
PIXELS = 40_000
"""Train pixels that the logistic regression is fitted on, and that thresholds are chosen on."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Counts of each tile's known pixels.  (n,) each"""

    both: Float64Array
    """Called flooded, and flooded in the mask."""
    either: Float64Array
    neither: Float64Array
    all: Float64Array

    @classmethod
    def of(cls, called: BoolArray, flooded: BoolArray, known: BoolArray) -> Overlap:
        """From maps (n, H, W)."""

        def count(where: BoolArray) -> Float64Array:
            return np.asarray((where & known).sum(axis=(1, 2)), dtype=np.float64)

        return cls(
            both=count(called & flooded),
            either=count(called | flooded),
            neither=count(~called & ~flooded),
            all=count(known),
        )

    def iou(self) -> float | None:
        """Intersection over union of flooded pixels, all tiles' counts together; None without any."""
        return float(self.both.sum() / self.either.sum()) if self.either.sum() else None

    def mean_iou(self) -> float | None:
        """The mean of the flooded and the dry class' IoU."""
        # A pixel is in the union of dry unless both say flooded.
        dry = float(self.all.sum() - self.both.sum())
        flooded = self.iou()
        return None if flooded is None or not dry else (flooded + float(self.neither.sum()) / dry) / 2

    def drawn(self, weights: Float64Array) -> Float64Array:
        """The flooded IoU of each draw of tiles; NaN without flooded pixels.  (draws, n) to (draws,)"""
        total = weights @ self.either
        out = np.full(len(weights), np.nan)
        np.divide(weights @ self.both, total, out=out, where=total > 0)
        return out


def chosen_images(images: Sequence[OmbriaImage], count: int, seed: int) -> tuple[OmbriaImage, ...]:
    """At most ``count`` images, evenly over events, in random order within each."""
    rng = np.random.default_rng((seed, 0x1A6))
    by_event: dict[str, list[OmbriaImage]] = {}
    for number in rng.permutation(len(images)):
        by_event.setdefault(images[number].event, []).append(images[number])
    found: list[OmbriaImage] = []
    while len(found) < min(count, len(images)):
        for event in sorted(by_event):
            if by_event[event] and len(found) < count:
                found.append(by_event[event].pop())
    return tuple(sorted(found, key=lambda image: image.id))


def water_index(tiles: Float32Array) -> Float32Array:
    """(red - SWIR) / (red + SWIR) of each pixel, 0 without light.  (n, C, H, W) to (n, H, W)"""
    red, swir = tiles[:, RED], tiles[:, SWIR]
    total = red + swir
    index = np.zeros_like(total)
    np.divide(red - swir, total, out=index, where=total > 0)
    return index


def pixel_features(tiles: Float32Array) -> Float32Array:
    """Each pixel's reflectances and water index.  (n, C, H, W) to (n, H, W, C + 1)"""
    return np.concatenate([tiles.transpose(0, 2, 3, 1), water_index(tiles)[..., None]], axis=3)


def pixel_logits(train: FloodTiles, test: Float32Array, seed: int) -> tuple[Float32Array, Float32Array]:
    """Logistic regression on single pixels of the train tiles: its maps of train and test tiles.  (n, H, W) each"""
    rows = _some_pixels(train.known, seed)
    x = pixel_features(train.after)
    fitted = Logistic.fit(x[rows], train.mask[rows].astype(np.int64), 2, 1e-4)

    def logits(features: Float32Array) -> Float32Array:
        both = fitted.logits(features.reshape(-1, features.shape[-1]))
        return (both[:, 1] - both[:, 0]).reshape(features.shape[:3]).astype(np.float32)

    return logits(x), logits(pixel_features(test))


def best_threshold(scores: Float32Array, flooded: BoolArray, known: BoolArray, seed: int) -> float:
    """The quantile of the train maps above which pixels are called flooded with the best IoU.  (n, H, W) each"""
    rows = _some_pixels(known, seed)
    values, wanted = scores[rows].astype(np.float64), flooded[rows]
    tried = np.quantile(values, np.linspace(0.01, 0.99, THRESHOLDS))
    called = values[None] > tried[:, None]
    both = (called & wanted).sum(axis=1)
    return float(tried[(both / np.maximum((called | wanted).sum(axis=1), 1)).argmax()])


def segment_row(
    subject: str, kind: str, head: str, overlap: Overlap, tiles: FloodTiles, draws: int, seed: int
) -> dict[str, Any]:
    """What a map comes to, with the middle 95 % of drawn events."""
    names = sorted(set(tiles.events))
    units = np.array([names.index(event) for event in tiles.events])
    between = interval(overlap.drawn(unit_weights(np.random.default_rng((seed, 0x10)), units, draws)), len(names))
    return {
        "subject": subject,
        "kind": kind,
        "head": head,
        "iou": rounded(overlap.iou()),
        "low": rounded(between.low),
        "high": rounded(between.high),
        "mean_iou": rounded(overlap.mean_iou()),
        "tiles": len(tiles),
        "events": len(names),
    }


def event_row(subject: str, head: str, overlap: Overlap, tiles: FloodTiles) -> dict[str, Any]:
    """The IoU of each event alone."""
    events = np.array(tiles.events)
    return {
        "subject": subject,
        "head": head,
        **{
            event: rounded(
                Overlap(
                    both=overlap.both[events == event],
                    either=overlap.either[events == event],
                    neither=overlap.neither[events == event],
                    all=overlap.all[events == event],
                ).iou()
            )
            for event in sorted(set(tiles.events))
        },
    }


def _some_pixels(known: BoolArray, seed: int) -> tuple[npt.NDArray[np.intp], ...]:
    where = np.flatnonzero(known)
    some = np.sort(np.random.default_rng((seed, 0x9E)).permutation(len(where))[:PIXELS])
    return np.unravel_index(where[some], known.shape)
