"""Normal tiles of one family: what its denoiser is trained on, and their moments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.classfolder import ClassFolder
from training.data.ombria import OmbriaFolder, OmbriaImage, has_data, read_mask, read_rgb
from training.data.pool import Float32Array, ImagePool, area_downsample
from training.data.seen_twice import PairPool, SeenTwice
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset


@dataclass(frozen=True, kw_only=True)
class NormalTiles:
    """Random tiles of ground on which nothing had happened, some with the same ground's other look as condition."""

    preset: DenoiserPreset
    pool: ImagePool
    pairs: PairPool | None
    """None for a denoiser that takes no condition."""
    digest: str
    """SHA-256 of the folder's files."""

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


def open_tiles(preset: DenoiserPreset, data: Path) -> NormalTiles:
    """The images of a folder in the preset's layout.

    ``ombria``: the *before* images of the events that are not held out, and, as pairs, their before and after images
    where the mask says that it stayed dry. ``classes``: the first half of each class, at each of the preset's sides.

    Raises:
        TrainingDataInvalid: the folder is not of the preset's layout, or nothing is left to train on.
    """
    pairs: PairPool | None = None
    if preset.layout == "ombria":
        folder = OmbriaFolder.open(data)
        chosen = folder.of_events(event for event in folder.events if event not in preset.held_out_events)
        images = [read_rgb(image.before) for image in chosen]
        if preset.unet.cond_chans:
            pairs = PairPool(pairs=[_seen_twice(image) for image in chosen], gains=preset.gains)
        digest = folder.digest()
    elif preset.layout == "classes":
        classes = ClassFolder.open(data)
        train, _ = classes.halves()
        full = [read_rgb(image.path) for image in train]
        images = (
            [area_downsample(image, side) for image in full for side in preset.sides_px] if preset.sides_px else full
        )
        digest = classes.digest()
    else:
        raise TrainingDataInvalid(f"preset {preset.name!r} asks for the unknown layout {preset.layout!r}")
    if not images:
        raise TrainingDataInvalid(f"{data} holds only held-out images; nothing is left to train on")
    return NormalTiles(preset=preset, pool=ImagePool(images=images, gains=preset.gains), pairs=pairs, digest=digest)


def _seen_twice(image: OmbriaImage) -> SeenTwice:
    before, after = read_rgb(image.before), read_rgb(image.after)
    return SeenTwice(first=before, second=after, dry=has_data(before) & has_data(after) & ~read_mask(image.mask))


@dataclass(frozen=True, kw_only=True)
class DataMoments:
    """Mean and spread of normalised training tiles."""

    mean: tuple[float, ...]
    """Of each band, in [-1, 1]."""
    sigma: float
    """σ_data: standard deviation about each band's mean, pooled over the bands.

    The bands' means are left out: a denoiser learns them as a bias, and noise of their size hides all structure.
    """


def measure(pool: ImagePool, tile_px: int, seed: int, *, tiles: int = 512) -> DataMoments:
    """Moments of random tiles that are not augmented."""
    rng = np.random.default_rng((seed, 0x5D))
    sample = pool.tiles(rng, tiles, tile_px).astype(np.float64)
    return DataMoments(
        mean=tuple(float(m) for m in sample.mean(axis=(0, 2, 3))),
        sigma=float(np.sqrt(sample.var(axis=(0, 2, 3)).mean())),
    )
