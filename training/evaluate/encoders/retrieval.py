"""Cross-sensor retrieval: is a tile's nearest neighbour in another sensor's gallery the same ground?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.embed import unit_rows
from training.data.classfolder import ClassImage
from training.data.heldout import windows
from training.data.ombria import OmbriaImage, read_rgb
from training.data.pairs import ColocatedImages, SimulatedCoarse, before_and_dry_after, enlarge, radar_and_optical
from training.data.pool import area_downsample, augment, to_reflectance
from training.evaluate.encoders.preprocessing import GAINS
from training.evaluate.encoders.resampling import mean_interval
from training.evaluate.record import rounded

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TIE = 1e-9
"""Similarities are sums of float32 products in float64: a difference below this is rounding, and counts as a tie."""
CHUNK = 512
"""Queries whose similarities are in memory together."""


@dataclass(frozen=True, kw_only=True)
class PairTiles:
    """Tiles of two sensors; row i of both is the same ground."""

    task: str
    sensors: tuple[str, str]
    """Names as the training has them: each has its own projection head."""
    first: Float32Array
    """Reflectance.  (n, C, H, W)"""
    second: Float32Array
    """(n, C, H, W)"""
    units: IntArray
    """Number of the event, or of the class, from 0.  (n,)"""
    images: IntArray
    """Number of the image that a tile was cut from, from 0.  (n,)"""
    unit_names: tuple[str, ...]
    simulated: bool = False

    def __len__(self) -> int:
        return len(self.first)


def ranks(queries: Float32Array, gallery: Float32Array) -> IntArray:
    """Place of each query's own row among the gallery by cosine, 1 for the first.  (m, D), (m, D) to (m,)

    Ties count against the query: a constant embedding has recall 0 and all ranks m.
    """
    a, b = (unit_rows(rows).astype(np.float64) for rows in (queries, gallery))
    own = np.einsum("md,md->m", a, b)
    found = np.empty(len(a), dtype=np.int64)
    for start in range(0, len(a), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = (a[part] @ b.T >= own[part, None] - TIE).sum(axis=1)
    return found


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What the ranks of one direction come to."""

    gallery: int
    events: int
    """Drawn by the bootstrap: events of satellite pairs, classes' images of aerial ones."""
    recall_at_1: float
    low: float | None
    """Middle 95 % of recall@1 over drawn units; the gallery stays whole."""
    high: float | None
    recall_at_5: float
    low_at_5: float | None
    high_at_5: float | None
    median_rank: float
    times_chance: float
    """recall@1 over 1 / gallery."""

    @classmethod
    def of(cls, found: IntArray, weights: Float64Array, units: int) -> Recall:
        """From ranks (m,) and the bootstrap's weights (draws, m)."""
        one, five = ((found <= k).astype(np.float64) for k in (1, 5))
        at_1, at_5 = (mean_interval(hits, weights, units) for hits in (one, five))
        return cls(
            gallery=len(found),
            events=units,
            recall_at_1=float(one.mean()),
            low=at_1.low,
            high=at_1.high,
            recall_at_5=float(five.mean()),
            low_at_5=at_5.low,
            high_at_5=at_5.high,
            median_rank=float(np.median(found)),
            times_chance=float(one.mean() * len(found)),
        )

    @classmethod
    def by_chance(cls, gallery: int, units: int) -> Recall:
        """What guessing comes to, exactly."""
        at_5 = min(5, gallery) / gallery
        return cls(
            gallery=gallery,
            events=units,
            recall_at_1=1 / gallery,
            low=None,
            high=None,
            recall_at_5=at_5,
            low_at_5=None,
            high_at_5=None,
            median_rank=(gallery + 1) / 2,
            times_chance=1.0,
        )

    def to_row(self) -> dict[str, Any]:
        """As it is told."""
        return {
            "recall_at_1": rounded(self.recall_at_1),
            "low": rounded(self.low),
            "high": rounded(self.high),
            "recall_at_5": rounded(self.recall_at_5),
            "low_at_5": rounded(self.low_at_5),
            "high_at_5": rounded(self.high_at_5),
            "median_rank": self.median_rank,
            "gallery": self.gallery,
            "times_chance": rounded(self.times_chance, 3),
            "units": self.events,
        }


def radar_to_optical(images: Sequence[OmbriaImage], tile_px: int) -> PairTiles | None:
    """Sentinel-1 beside Sentinel-2, both before the flood; None where there is no such tile."""
    both = [image for image in images if image.s1_before is not None]
    source = radar_and_optical(both, GAINS["sentinel-2"], GAINS["sentinel-1"])
    return _cut("Sentinel-1 and Sentinel-2 before the flood", source, both, tile_px)


def before_to_later(images: Sequence[OmbriaImage], tile_px: int) -> PairTiles | None:
    """Sentinel-2 before the flood beside dry ground of the later image; None where there is no such tile."""
    source = before_and_dry_after(images, GAINS["sentinel-2"])
    return _cut("Sentinel-2 before and dry after", source, images, tile_px)


def coarse_to_fine(images: Sequence[ClassImage], tile_px: int, factor: int, seed: int) -> PairTiles:
    """The middle of each aerial image beside what a sensor ``factor`` times coarser would see of it, in other light.

    The coarse tile is brought back to the fine pixel grid, as in training.
    """
    gains = GAINS["aerial"]
    how = SimulatedCoarse(images=(), gains=gains)
    fine: list[Float32Array] = []
    coarse: list[Float32Array] = []
    for image in images:
        pixels = read_rgb(image.path)
        row, col = ((side - tile_px) // 2 for side in pixels.shape[:2])
        middle = np.ascontiguousarray(pixels[row : row + tile_px, col : col + tile_px])
        fine.append(to_reflectance(middle, gains))
        coarse.append(to_reflectance(enlarge(area_downsample(middle, tile_px // factor), tile_px), gains))
    names = tuple(sorted({image.label for image in images}))
    rng = np.random.default_rng((seed, factor, 0xC0A))
    return PairTiles(
        task=f"aerial {factor} times coarser and fine (simulated)",
        sensors=("aerial-coarse", "aerial"),
        first=augment(rng, np.stack(coarse), how.radiometry),
        second=np.stack(fine),
        units=np.array([names.index(image.label) for image in images]),
        images=np.arange(len(images)),
        unit_names=names,
        simulated=True,
    )


def turned_round(pairs: PairTiles) -> PairTiles:
    """The other direction: the second sensor asks, the first one answers."""
    return replace(pairs, sensors=pairs.sensors[::-1], first=pairs.second, second=pairs.first)


def direction(pairs: PairTiles) -> str:
    """Who asks whom."""
    return " → ".join(pairs.sensors)


def _cut(task: str, source: ColocatedImages, images: Sequence[OmbriaImage], tile_px: int) -> PairTiles | None:
    names = tuple(sorted({image.event for image in images}))
    first: list[Float32Array] = []
    second: list[Float32Array] = []
    found: list[int] = []
    for number, usable in enumerate(source.usable):
        for window in windows(usable.shape, tile_px):
            if usable[window].all():
                first.append(to_reflectance(source.first[number][window], source.first_gains))
                second.append(to_reflectance(source.second[number][window], source.second_gains))
                found.append(number)
    if not found:
        return None
    there = sorted({images[number].event for number in found}, key=names.index)
    return PairTiles(
        task=task,
        sensors=source.sensors,
        first=np.stack(first),
        second=np.stack(second),
        units=np.array([there.index(images[number].event) for number in found]),
        images=np.unique(found, return_inverse=True)[1],
        unit_names=tuple(there),
    )
