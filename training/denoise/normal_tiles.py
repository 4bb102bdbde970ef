"""Normal tiles of one family: what its denoiser is trained on, and their moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from training.data.pool import Augmentation, Float32Array
from training.data.seen_twice import PairPool
from training.denoise.layouts import JOINT, open_ground
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset


class TilePool(Protocol):
    """Images that random tiles are cut from, such as :class:`training.data.pool.ImagePool`."""

    def __len__(self) -> int:
        """Number of images."""

    def tiles(
        self, rng: np.random.Generator, count: int, size_px: int, augmentation: Augmentation | None = None
    ) -> Float32Array:
        """Random tiles in [-1, 1].  (count, C, size, size)"""


class TileSource(Protocol):
    """What a denoiser is trained on: :class:`NormalTiles`, or :class:`training.denoise.joint.JointTiles`."""

    @property
    def preset(self) -> DenoiserPreset:
        """The preset, with what the data themselves say."""

    @property
    def pool(self) -> TilePool:
        """The images, to measure."""

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each folder's files, by layout."""

    def draw(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array | None]:
        """Tiles in [-1, 1] (count, C, size, size), and their conditions (count, cond_chans, size, size) or None."""

    def nothing_known(self, cond: Float32Array) -> Float32Array:
        """Conditions with all taken out that is not always known."""


@dataclass(frozen=True, kw_only=True)
class NormalTiles:
    """Random tiles of ground on which nothing had happened, some with the same ground's other look as condition."""

    preset: DenoiserPreset
    pool: TilePool
    pairs: PairPool | None
    """None for a denoiser that takes no condition."""
    digests: Mapping[str, str]
    """SHA-256 of the folder's files, by layout."""

    def draw(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array | None]:
        """Tiles in [-1, 1] (count, C, size, size), and their conditions (count, C + 1, size, size) or None.

        The preset's share ``conditioned`` of the tiles has a condition; the others are told that nothing is known.
        """
        how = self.preset.augmentation
        if self.pairs is None:
            return self.pool.tiles(rng, count, size_px, how), None
        seen = round(count * self.preset.conditioned)
        tiles, cond = self.pairs.tiles(rng, seen, size_px, how)
        alone = self.pool.tiles(rng, count - seen, size_px, how)
        nothing = np.zeros((count - seen, *cond.shape[1:]), dtype=np.float32)
        return np.concatenate([tiles, alone]), np.concatenate([cond, nothing])

    def nothing_known(self, cond: Float32Array) -> Float32Array:
        """No earlier look: zeros (:mod:`engine.condition`)."""
        return np.zeros_like(cond)


def open_tiles(preset: DenoiserPreset, data: Path | Sequence[Path]) -> TileSource:
    """The images of a folder in the preset's layout; of one folder for each part where that is ``joint``.

    Raises:
        TrainingDataInvalid: there is no such layout, a folder is not of it, their number is wrong, or nothing is left
            to train on.
    """
    folders = [data] if isinstance(data, Path) else list(data)
    if preset.layout == JOINT:
        # Joint tiles are made of this module's.
        from training.denoise.joint import open_joint

        return open_joint(preset, folders)
    if len(folders) != 1:
        raise TrainingDataInvalid(f"layout {preset.layout!r} takes one folder of data; {len(folders)} are given")
    ground = open_ground(preset, folders[0])
    return NormalTiles(
        preset=ground.preset, pool=ground.pool, pairs=ground.pairs, digests={preset.layout: ground.digest}
    )


@dataclass(frozen=True, kw_only=True)
class DataMoments:
    """Mean and spread of normalised training tiles."""

    mean: tuple[float, ...]
    """Of each band, in [-1, 1]."""
    sigma: float
    """σ_data: standard deviation about each band's mean, pooled over the bands.

    The bands' means are left out: a denoiser learns them as a bias, and noise of their size hides all structure.
    """


def measure(pool: TilePool, tile_px: int, seed: int, *, tiles: int = 512) -> DataMoments:
    """Moments of random tiles that are not augmented."""
    rng = np.random.default_rng((seed, 0x5D))
    sample = pool.tiles(rng, tiles, tile_px).astype(np.float64)
    return DataMoments(
        mean=tuple(float(m) for m in sample.mean(axis=(0, 2, 3))),
        sigma=float(np.sqrt(sample.var(axis=(0, 2, 3)).mean())),
    )
