"""Mean and deviation of more pixels than fit in memory, exact but for the rounding of 64-bit numbers.

Chan, Golub & LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*, COMPSTAT (1982):
blocks are measured about their own mean and then merged, so nothing is lost to the difference of two large sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.moments import Moments
from training.data.pool import PixelArray
from training.errors import TrainingDataInvalid

Float64Array = npt.NDArray[np.float64]
BLOCK_PX = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Pixels that were seen: how many, their mean, and the sum of squares about it, per band."""

    count: int
    mean: Float64Array
    """(C,)"""
    squares: Float64Array
    """(C,)"""

    @classmethod
    def of(cls, pixels: Float64Array) -> Tally:
        """Measure pixels (n, C), n above 0."""
        mean = pixels.mean(axis=0)
        return cls(count=len(pixels), mean=mean, squares=np.square(pixels - mean).sum(axis=0))

    @classmethod
    def none(cls, bands: int) -> Tally:
        """Nothing seen yet."""
        return cls(count=0, mean=np.zeros(bands), squares=np.zeros(bands))

    def merged(self, other: Tally) -> Tally:
        """Both together, by equations 2.1 of Chan et al.

        Raises:
            TrainingDataInvalid: they differ in bands.
        """
        if len(self.mean) != len(other.mean):
            raise TrainingDataInvalid(f"{len(self.mean)} and {len(other.mean)} bands cannot be measured together")
        count = self.count + other.count
        if count == 0:
            return self
        gap = other.mean - self.mean
        return Tally(
            count=count,
            mean=self.mean + gap * (other.count / count),
            squares=self.squares + other.squares + np.square(gap) * (self.count * other.count / count),
        )

    def moments(self) -> Moments:
        """Mean, and the standard deviation of the pixels themselves (divisor n, not n - 1).

        Raises:
            TrainingDataInvalid: nothing was seen.
        """
        if self.count == 0:
            raise TrainingDataInvalid("there is no pixel with ground to measure; check the images")
        return Moments(
            mean=tuple(self.mean.tolist()), std=tuple(np.sqrt(np.maximum(self.squares / self.count, 0)).tolist())
        )


def tally(image: PixelArray, gains: Sequence[float]) -> Tally:
    """The pixels of an image (H, W, C) times the gains, without missing ground (0 in all bands)."""
    found = Tally.none(len(gains))
    for block in _blocks(image):
        ground = block[block.max(axis=-1) > 0]
        if len(ground):
            found = found.merged(Tally.of(ground.astype(np.float64) * np.asarray(gains, dtype=np.float64)))
    return found


def _blocks(image: PixelArray) -> Iterator[PixelArray]:
    rows = max(1, BLOCK_PX // image.shape[1])
    for top in range(0, image.shape[0], rows):
        yield image[top : top + rows]
