"""Random tiles of ground that was seen twice and did not flood between: what a conditional denoiser learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.condition import condition_of
from training.data.pool import Augmentation, Float32Array, PixelArray, augment, random_window, to_reflectance, turn
from training.errors import TrainingDataInvalid

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SeenTwice:
    """Two looks at one ground, and where both show it unflooded."""

    first: PixelArray
    """(H, W, C)"""
    second: PixelArray
    """(H, W, C)"""
    dry: BoolArray
    """True where neither look lacks data and no mask says flood.  (H, W)"""


@dataclass(frozen=True, kw_only=True)
class PairPool:
    """Looks at the same ground at two times; ``gains`` (C,) turn their numbers into reflectance."""

    pairs: Sequence[SeenTwice]
    gains: tuple[float, ...]

    def tiles(
        self, rng: np.random.Generator, count: int, size_px: int, augmentation: Augmentation | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """``count`` tiles and the condition that the other look of the same ground makes.

        Which look is the tile and which the condition is drawn; turns, light and holes are common to both, but for
        each band's own gain and offset.

        Returns:
            tiles in [-1, 1], (count, C, size, size), and conditions, (count, C + 1, size, size).

        Raises:
            TrainingDataInvalid: 1,000 draws found no dry tile.
        """
        bands = len(self.gains)
        both = np.empty((count, 2 * bands, size_px, size_px), dtype=np.float32)
        for i in range(count):
            both[i] = self._tile(rng, size_px)
        if augmentation is not None:
            both = augment(rng, both, augmentation)
        # A hole that augmentation cut is 0 in every band; real ground never is, see _tile.
        known = both[:, bands:].max(axis=1) > 0
        return np.asarray(both[:, :bands] * 2 - 1, dtype=np.float32), condition_of(both[:, bands:], known)

    def _tile(self, rng: np.random.Generator, size_px: int) -> Float32Array:
        for _ in range(1000):
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            window = random_window(rng, pair.dry.shape, size_px)
            if pair.dry[window].all():
                which = int(rng.integers(8))
                looks = [turn(look[window], which) for look in (pair.first, pair.second)]
                if rng.integers(2):
                    looks.reverse()
                return np.concatenate([to_reflectance(look, self.gains) for look in looks])
        raise TrainingDataInvalid(f"1,000 draws found no dry {size_px} px tile seen twice; check the images and masks")
