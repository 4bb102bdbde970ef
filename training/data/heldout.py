"""Tiles that no network was trained on: what calibrates scores and judges them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from training.data.classfolder import ClassImage
from training.data.ombria import read_rgb
from training.data.pool import area_downsample, random_window, to_reflectance
from training.data.reflectance import PixelMeaning
from training.data.triples import Triple, TripleImage, read_triple
from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

LEAST_KNOWN = 0.75
"""Share of a tile that its mask must speak of; of less ground nobody can say that it is dry."""


@dataclass(frozen=True, kw_only=True)
class FloodTiles:
    """Non-overlapping tiles of co-located before and after images, without missing ground in either."""

    before: Float32Array
    """Reflectance.  (n, C, H, W)"""
    after: Float32Array
    """Reflectance of the same ground.  (n, C, H, W)"""
    flooded: Float32Array
    """Share of each after-tile's known ground that the mask calls flooded, 0..1.  (n,)"""
    mask: BoolArray
    """Where the mask says flooded.  (n, H, W)"""
    known: BoolArray
    """Where the mask says anything.  (n, H, W)"""
    events: tuple[str, ...]
    """Event block of each tile."""

    def __len__(self) -> int:
        return len(self.flooded)

    def take(self, rows: npt.NDArray[np.int64]) -> FloodTiles:
        """The tiles at ``rows``."""
        return FloodTiles(
            before=self.before[rows],
            after=self.after[rows],
            flooded=self.flooded[rows],
            mask=self.mask[rows],
            known=self.known[rows],
            events=tuple(self.events[i] for i in rows),
        )

    def sample(self, rng: np.random.Generator, *, dry: int, flooded: int, at_least: float = 0.25) -> FloodTiles:
        """At most ``dry`` tiles with no flood and ``flooded`` with a share of ``at_least``, dry ones first."""
        none = np.flatnonzero(self.flooded == 0)
        much = np.flatnonzero(self.flooded >= at_least)
        rows = [np.sort(rng.permutation(of)[:count]) for of, count in ((none, dry), (much, flooded))]
        return self.take(np.concatenate(rows))


def tiles_of(image: TripleImage, meaning: PixelMeaning, tile_px: int) -> FloodTiles:
    """The whole tiles of one triple, row by row, without those that lack ground or of which the mask knows too little.

    Raises:
        TrainingDataInvalid: a file cannot be understood, or the three differ in size.
        RasterCorrupt: a GeoTIFF is damaged.
    """
    triple = read_triple(image, meaning)
    found = [
        window
        for window in windows(triple.present.shape, tile_px)
        if triple.present[window].all() and triple.known[window].mean() >= LEAST_KNOWN
    ]
    return _cut(triple, image.event, found, tile_px)


def flood_tiles(images: Sequence[TripleImage], gains: Sequence[float], tile_px: int) -> FloodTiles:
    """All such tiles of some images (:func:`tiles_of`), held in memory together.

    Raises:
        TrainingDataInvalid: there is none.
    """
    meaning = PixelMeaning(gains=tuple(gains))
    parts = [part for part in (tiles_of(image, meaning, tile_px) for image in images) if len(part)]
    if not parts:
        raise TrainingDataInvalid(f"{len(images)} held-out images hold no complete {tile_px} px tile")
    return FloodTiles(
        before=np.concatenate([part.before for part in parts]),
        after=np.concatenate([part.after for part in parts]),
        flooded=np.concatenate([part.flooded for part in parts]),
        mask=np.concatenate([part.mask for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        events=tuple(event for part in parts for event in part.events),
    )


def _cut(triple: Triple, event: str, found: Sequence[tuple[slice, slice]], tile_px: int) -> FloodTiles:
    def stacked(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        return (
            np.stack([array[..., rows, cols] for rows, cols in found]) if found else np.empty((0, *shape), array.dtype)
        )

    bands = len(triple.before)
    mask, known = (stacked(array, (tile_px, tile_px)).astype(np.bool_) for array in (triple.flooded, triple.known))
    return FloodTiles(
        before=stacked(triple.before, (bands, tile_px, tile_px)).astype(np.float32),
        after=stacked(triple.after, (bands, tile_px, tile_px)).astype(np.float32),
        flooded=np.asarray(mask.sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1), dtype=np.float32),
        mask=mask,
        known=known,
        events=(event,) * len(found),
    )


def class_tiles(
    rng: np.random.Generator,
    images: Sequence[ClassImage],
    gains: Sequence[float],
    tile_px: int,
    sides_px: Sequence[int],
    count: int,
) -> Float32Array:
    """Reflectance of ``count`` non-overlapping tiles (or all there are), evenly over the sides.  (n, C, H, W)

    Raises:
        TrainingDataInvalid: there is none.
    """
    tiles: list[Float32Array] = []
    for side in sides_px:
        share: list[Float32Array] = []
        wanted = -(-count // len(sides_px))
        for i in rng.permutation(len(images)):
            image = area_downsample(read_rgb(images[i].path), side)
            share += [to_reflectance(image[window], gains) for window in windows(image.shape[:2], tile_px)]
            if len(share) >= wanted:
                break
        tiles += share[:wanted]
    if not tiles:
        raise TrainingDataInvalid(f"{len(images)} held-out images hold no {tile_px} px tile")
    return np.stack(tiles)[:count]


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """How a second pass over unchanged ground differs: simulated, and to be called so."""

    gain: float = 0.2
    """Half width of the log-gain common to all bands."""
    band_gain: float = 0.06
    offset: float = 0.03
    gamma: float = 0.15
    """Half width of the log of the exponent."""
    blur_px: float = 1.0
    """Largest radius of a Gaussian blur."""
    shift_px: int = 2
    """Largest misregistration along rows and columns."""

    def of(
        self, rng: np.random.Generator, image: UInt8Array, gains: Sequence[float], tile_px: int
    ) -> tuple[Float32Array, Float32Array]:
        """A random tile of an 8-bit image (H, W, C), and the same ground seen again; reflectance (C, H, W) each."""
        margin = self.shift_px
        rows, cols = random_window(rng, (image.shape[0] - 2 * margin, image.shape[1] - 2 * margin), tile_px)
        dr, dc = (int(v) + margin for v in rng.integers(-margin, margin + 1, 2))
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0, self.blur_px)))
        first = to_reflectance(image[_moved(rows, margin), _moved(cols, margin)], gains)
        again = to_reflectance(np.asarray(blurred)[_moved(rows, dr), _moved(cols, dc)], gains)
        bands = again.shape[0]
        log_gain = rng.uniform(-self.gain, self.gain) + rng.uniform(-self.band_gain, self.band_gain, (bands, 1, 1))
        gamma = np.exp(rng.uniform(-self.gamma, self.gamma))
        offset = rng.uniform(-self.offset, self.offset, (bands, 1, 1))
        relit = np.clip(again**gamma * np.exp(log_gain) + offset, 0, 1)
        return first, np.asarray(relit, dtype=np.float32)


def second_looks(
    rng: np.random.Generator,
    images: Sequence[ClassImage],
    gains: Sequence[float],
    tile_px: int,
    sides_px: Sequence[int],
    count: int,
    how: SecondLook,
) -> tuple[Float32Array, Float32Array]:
    """``count`` simulated pairs of random images, sides large enough for the misregistration.  (n, C, H, W) each"""
    room = tile_px + 2 * how.shift_px
    sides = [side for side in sides_px if side >= room]
    first: list[Float32Array] = []
    again: list[Float32Array] = []
    for k in range(count):
        image = images[int(rng.integers(len(images)))]
        pixels = area_downsample(read_rgb(image.path), sides[k % len(sides)])
        a, b = how.of(rng, pixels, gains, tile_px)
        first.append(a)
        again.append(b)
    return np.stack(first), np.stack(again)


def windows(shape: tuple[int, ...], tile_px: int) -> Iterable[tuple[slice, slice]]:
    """The whole tiles of an image of ``shape`` (H, W), row by row from its first corner."""
    for row in range(0, shape[0] - tile_px + 1, tile_px):
        for col in range(0, shape[1] - tile_px + 1, tile_px):
            yield slice(row, row + tile_px), slice(col, col + tile_px)


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
