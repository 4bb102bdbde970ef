"""Tiles of two families for one network, each with two constant planes that say what it is.

The planes are the family, +1 for the first part (satellite) and -1 for the second (aerial), and the pixel size,
``log2(gsd / 10 m) / 8``: 0 at 10 m, -0.63 at 0.3 m. Both are always known, unlike an earlier look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.data.pool import Augmentation, Float32Array, ImagePool, area_downsample
from training.denoise.layouts import open_ground
from training.errors import TrainingDataInvalid
from training.presets import DenoiserPreset, denoiser_preset

SIGNS = (1.0, -1.0)
PLANES = 2


def planes(sign: float, gsd_m: float, count: int, size_px: int) -> Float32Array:
    """The condition of ``count`` tiles of one family and pixel size.  (count, 2, size, size)"""
    out = np.empty((count, PLANES, size_px, size_px), dtype=np.float32)
    out[:, 0], out[:, 1] = sign, math.log2(gsd_m / 10.0) / 8
    return out


@dataclass(frozen=True, kw_only=True)
class JointPart:
    """Images of one family, by pixel size."""

    preset: DenoiserPreset
    sign: float
    pools: Sequence[tuple[float, ImagePool]]
    """Pixel size, metres, and the images of that size."""
    digest: str

    def draw(
        self, rng: np.random.Generator, count: int, size_px: int, how: Augmentation | None
    ) -> tuple[Float32Array, Float32Array]:
        """Tiles in [-1, 1] (count, C, size, size) and their planes (count, 2, size, size); sizes come up equally."""
        which = rng.integers(len(self.pools), size=count)
        tiles: list[Float32Array] = []
        told: list[Float32Array] = []
        for index, (gsd_m, pool) in enumerate(self.pools):
            here = int((which == index).sum())
            tiles.append(pool.tiles(rng, here, size_px, how))
            told.append(planes(self.sign, gsd_m, here, size_px))
        return np.concatenate(tiles), np.concatenate(told)


@dataclass(frozen=True, kw_only=True)
class JointPool:
    """The images of all parts; half of the tiles are of each."""

    parts: Sequence[JointPart]

    def __len__(self) -> int:
        return sum(len(pool) for part in self.parts for _, pool in part.pools)

    def tiles(
        self, rng: np.random.Generator, count: int, size_px: int, augmentation: Augmentation | None = None
    ) -> Float32Array:
        """Random tiles of all parts in turn.  (count, C, size, size)"""
        shares = _shares(count, len(self.parts))
        return np.concatenate(
            [part.draw(rng, share, size_px, augmentation)[0] for part, share in zip(self.parts, shares, strict=True)]
        )


@dataclass(frozen=True, kw_only=True)
class JointTiles:
    """Normal tiles of two families; a :class:`training.denoise.normal_tiles.TileSource`."""

    preset: DenoiserPreset
    parts: Sequence[JointPart]

    @property
    def pool(self) -> JointPool:
        """The images of both families."""
        return JointPool(parts=self.parts)

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each folder's files, by the preset that reads it."""
        return {part.preset.name: part.digest for part in self.parts}

    def draw(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array]:
        """Tiles in [-1, 1] (count, C, size, size), the first half satellite, and their planes (count, 2, size, size).

        Each part's own augmentation applies.
        """
        shares = _shares(count, len(self.parts))
        drawn = [
            part.draw(rng, share, size_px, part.preset.augmentation)
            for part, share in zip(self.parts, shares, strict=True)
        ]
        return np.concatenate([tiles for tiles, _ in drawn]), np.concatenate([told for _, told in drawn])

    def nothing_known(self, cond: Float32Array) -> Float32Array:
        """The planes as they are: family and pixel size are always known."""
        return cond


def open_joint(preset: DenoiserPreset, folders: Sequence[Path]) -> JointTiles:
    """The images of one folder for each of the preset's parts.

    Raises:
        TrainingDataInvalid: another number of folders than of parts, parts or bands that do not fit the network, or a
            folder that is not of its part's layout.
    """
    if len(preset.parts) != len(SIGNS) or preset.unet.cond_chans != PLANES:
        raise TrainingDataInvalid(
            f"joint preset {preset.name!r} has {len(preset.parts)} parts and {preset.unet.cond_chans} condition "
            f"channels; {len(SIGNS)} and {PLANES} are expected"
        )
    if len(folders) != len(preset.parts):
        raise TrainingDataInvalid(
            f"{len(folders)} folders of data are given; preset {preset.name!r} takes one for each of "
            f"{', '.join(preset.parts)}, in that order"
        )
    parts = [
        _part(denoiser_preset(name), sign, folder)
        for name, sign, folder in zip(preset.parts, SIGNS, folders, strict=True)
    ]
    for part in parts:
        if len(part.preset.gains) != preset.unet.in_chans:
            raise TrainingDataInvalid(
                f"part {part.preset.name!r} has {len(part.preset.gains)} bands and the network {preset.unet.in_chans}"
            )
    return JointTiles(preset=preset, parts=parts)


def _part(preset: DenoiserPreset, sign: float, folder: Path) -> JointPart:
    # Earlier looks are not read: a joint network is told family and pixel size alone.
    alone = replace(preset, unet=replace(preset.unet, cond_chans=0), sides_px=())
    ground = open_ground(alone, folder)
    pools = [(ground.preset.image_gsd_m, ground.pool)]
    if preset.sides_px:
        pools = [_at_side(ground.pool, side, ground.preset.image_gsd_m) for side in preset.sides_px]
    return JointPart(
        preset=replace(ground.preset, sides_px=preset.sides_px), sign=sign, pools=pools, digest=ground.digest
    )


def _at_side(pool: ImagePool, side_px: int, gsd_m: float) -> tuple[float, ImagePool]:
    stored_px = pool.images[0].shape[0]
    images = [area_downsample(image, side_px) for image in pool.images]
    return gsd_m * stored_px / side_px, ImagePool(images=images, gains=pool.gains)


def _shares(count: int, parts: int) -> list[int]:
    """``count`` in as equal parts as there can be, larger ones first."""
    return [count // parts + (part < count % parts) for part in range(parts)]
