"""Pairs from images that cover the same ground at different pixel sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.data.pairs import Float32Array
from training.data.pool import PixelArray, to_reflectance, turn
from training.data.resample import Box, resampled, touched
from training.errors import TrainingDataInvalid

LEAST_COARSE = 4
"""The coarser sensor's part of a tile is enlarged by at most this factor: with less to see there is little to align."""
ASPECT_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class CoveringPairs:
    """Images by two sensors; the i-th of both show the same ground, whole, at any two pixel sizes.

    Both tiles of a pair show one square of ground and have as many pixels, so a token covers the same ground in both.
    How large the square is varies, log-uniform, between what makes a tile of the finer sensor's own pixels and what
    makes one of the coarser's; but the coarser's are enlarged at most ``LEAST_COARSE`` times, and the images have ends.
    """

    sensors: tuple[str, str]
    first: Sequence[PixelArray]
    second: Sequence[PixelArray]
    first_gains: tuple[float, ...]
    second_gains: tuple[float, ...]
    names: Sequence[str]
    """What the i-th images are called in messages."""

    def pairs(self, rng: np.random.Generator, count: int, size_px: int) -> tuple[Float32Array, Float32Array]:
        """Windows in which both images have ground everywhere; see :class:`training.data.pairs.PairSource`.

        Raises:
            TrainingDataInvalid: 1,000 draws in a row found no such window, or two images differ in shape of ground.
        """
        a: list[Float32Array] = []
        b: list[Float32Array] = []
        for _ in range(count):
            one, other = self._pair(rng, size_px)
            a.append(one)
            b.append(other)
        return np.stack(a) * np.float32(2) - 1, np.stack(b) * np.float32(2) - 1

    def _pair(self, rng: np.random.Generator, size_px: int) -> tuple[Float32Array, Float32Array]:
        for _ in range(1000):
            i = int(rng.integers(len(self.first)))
            first, second = self.first[i], self.second[i]
            self._check(i, first.shape, second.shape)
            boxes = same_ground(rng, first.shape, second.shape, size_px)
            looks = list(zip((first, second), boxes, strict=True))
            if all(touched(image, box, size_px).max(axis=-1).min() > 0 for image, box in looks):
                which = int(rng.integers(8))
                tiles = [turn(resampled(image, box, size_px), which) for image, box in looks]
                return to_reflectance(tiles[0], self.first_gains), to_reflectance(tiles[1], self.second_gains)
        raise TrainingDataInvalid(
            f"1,000 draws found no {size_px} px window of {self.sensors} without missing ground; check the images"
        )

    def _check(self, i: int, first: tuple[int, ...], second: tuple[int, ...]) -> None:
        aspect = (first[0] * second[1]) / (first[1] * second[0])
        if abs(math.log(aspect)) > ASPECT_TOLERANCE:
            raise TrainingDataInvalid(
                f"{self.names[i]} has {first[1]}x{first[0]} px by {self.sensors[0]} and {second[1]}x{second[0]} px by "
                f"{self.sensors[1]}: that is not the same ground; cut both to it"
            )


def same_ground(
    rng: np.random.Generator, first: tuple[int, ...], second: tuple[int, ...], size_px: int
) -> tuple[Box, Box]:
    """One random square of ground in two images of shapes (H, W, ...) that cover the same ground."""
    swapped = first[0] < second[0]
    fine, coarse = (second, first) if swapped else (first, second)
    ratio = fine[0] / coarse[0]
    largest = min(fine[:2])
    low = min(size_px * max(1.0, ratio / LEAST_COARSE), largest)
    high = min(size_px * ratio, largest)
    side = float(np.exp(rng.uniform(math.log(low), math.log(high)))) if high > low else float(low)
    side = min(side, largest)
    if ratio == 1:
        side = float(round(side))
        top, left = (float(rng.integers(n - round(side) + 1)) for n in fine[:2])
    else:
        top, left = (float(rng.uniform(0, n - side)) for n in fine[:2])
    box = Box(top=top, left=left, height=side, width=side)
    other = box.of(coarse[0] / fine[0], coarse[1] / fine[1])
    return (other, box) if swapped else (box, other)
