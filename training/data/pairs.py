"""Co-located tiles of two sensors: what MSAD aligns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from training.data.classfolder import ClassImage
from training.data.ombria import OmbriaImage, read_mask, read_rgb
from training.data.pool import Augmentation, area_downsample, augment, random_window, to_reflectance, turn
from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


class PairSource(Protocol):
    """Draws pairs of tiles of the same ground, on one token grid; not augmented, but both turned alike."""

    @property
    def sensors(self) -> tuple[str, str]:
        """Names of sensor a and sensor b: each name has its own projection head."""

    def pairs(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array]:
        """``count`` pairs, each (count, C, size, size) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class ColocatedImages:
    """Images of the same ground and pixel grid by two sensors, and where both are to be believed."""

    sensors: tuple[str, str]
    first: Sequence[UInt8Array]
    second: Sequence[UInt8Array]
    usable: Sequence[BoolArray]
    """True where both images show the same ground in the same state.  (H, W) each"""
    first_gains: tuple[float, ...]
    second_gains: tuple[float, ...]

    def pairs(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array]:
        """Windows in which every pixel is usable.

        Raises:
            TrainingDataInvalid: no such window was found in 5,000 draws.
        """
        a: list[Float32Array] = []
        b: list[Float32Array] = []
        for _ in range(5000):
            if len(a) == count:
                return _normalised(a), _normalised(b)
            i = int(rng.integers(len(self.first)))
            window = random_window(rng, self.usable[i].shape, size_px)
            if self.usable[i][window].all():
                which = int(rng.integers(8))
                a.append(to_reflectance(turn(self.first[i][window], which), self.first_gains))
                b.append(to_reflectance(turn(self.second[i][window], which), self.second_gains))
        raise TrainingDataInvalid(f"5,000 draws found fewer than {count} usable pairs of {self.sensors}")


@dataclass(frozen=True, kw_only=True)
class SimulatedCoarse:
    """An aerial image beside what a sensor 2 to 4 times coarser would see of it: simulated, and to be called so."""

    images: Sequence[UInt8Array]
    gains: tuple[float, ...]
    factors: tuple[int, ...] = (2, 4)
    radiometry: Augmentation = field(
        default_factory=lambda: Augmentation(gain=0.2, band_gain=0.06, offset=0.03, hole_probability=0.0)
    )
    """How the coarse sensor's light differs."""
    sensors: tuple[str, str] = ("aerial", "aerial-coarse")

    def pairs(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array]:
        """The coarse tile is brought back to the fine pixel grid, so a token covers the same ground in both."""
        a: list[Float32Array] = []
        b: list[Float32Array] = []
        for _ in range(count):
            image = self.images[int(rng.integers(len(self.images)))]
            window = random_window(rng, image.shape[:2], size_px)
            fine = np.ascontiguousarray(turn(image[window], int(rng.integers(8))), dtype=np.uint8)
            factor = int(rng.choice(self.factors))
            coarse = enlarge(area_downsample(fine, size_px // factor), size_px)
            a.append(to_reflectance(fine, self.gains))
            b.append(to_reflectance(coarse, self.gains))
        return _normalised(a), _normalised(list(augment(rng, np.stack(b), self.radiometry)))


def before_and_dry_after(images: Sequence[OmbriaImage], gains: tuple[float, ...]) -> ColocatedImages:
    """Before and after images where the mask shows no flood: another date, season and light."""
    first = [read_rgb(image.before) for image in images]
    second = [read_rgb(image.after) for image in images]
    usable = [
        (a.max(axis=-1) > 0) & (b.max(axis=-1) > 0) & ~read_mask(image.mask)
        for a, b, image in zip(first, second, images, strict=True)
    ]
    return ColocatedImages(
        sensors=("sentinel-2", "sentinel-2-later"),
        first=first,
        second=second,
        usable=usable,
        first_gains=gains,
        second_gains=gains,
    )


def radar_and_optical(
    images: Sequence[OmbriaImage], gains: tuple[float, ...], radar_gains: tuple[float, ...]
) -> ColocatedImages:
    """Sentinel-1 (grey in three channels) and Sentinel-2, both before the flood, where there is a radar image."""
    both = [image for image in images if image.s1_before is not None]
    first = [read_rgb(image.s1_before) for image in both if image.s1_before is not None]
    second = [read_rgb(image.before) for image in both]
    return ColocatedImages(
        sensors=("sentinel-1", "sentinel-2"),
        first=first,
        second=second,
        usable=[(a.max(axis=-1) > 0) & (b.max(axis=-1) > 0) for a, b in zip(first, second, strict=True)],
        first_gains=radar_gains,
        second_gains=gains,
    )


def fine_and_coarse(images: Sequence[ClassImage], gains: tuple[float, ...]) -> SimulatedCoarse:
    """Aerial tiles and their simulated coarse twins."""
    return SimulatedCoarse(images=[read_rgb(image.path) for image in images], gains=gains)


def enlarge(image: UInt8Array, side_px: int) -> UInt8Array:
    """A square image (H, H, C) interpolated to ``side_px``."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BILINEAR), dtype=np.uint8)


def _normalised(tiles: list[Float32Array]) -> Float32Array:
    return np.asarray(np.stack(tiles) * 2 - 1, dtype=np.float32)
