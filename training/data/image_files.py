"""Image files as arrays that are decoded when they are asked for: a data set may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from training.data.pool import PixelArray

KEEP_BYTES = 2 * 2**30
"""How much of one sensor's decoded images stays in memory."""


class ImageFiles(Sequence[PixelArray]):
    """Images (H, W, C) of some files. What the decoder has room for is decoded once, what it has not, each time."""

    def __init__(self, paths: Sequence[Path], decoder: Decoder) -> None:
        self.paths = tuple(paths)
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> PixelArray: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> PixelArray | ImageFiles:
        """One image, read-only, or some of the images.

        Raises:
            TrainingDataInvalid: the file cannot be decoded.
        """
        if isinstance(index, slice):
            return self.of(self.paths[index])
        return self._decoder.image(self.paths[index])

    def of(self, paths: Sequence[Path]) -> ImageFiles:
        """Some of the images, in the order given; what is decoded is kept once for both."""
        return ImageFiles(paths, self._decoder)


class Decoder:
    """Decodes files and keeps what fits."""

    def __init__(self, read: Callable[[Path], PixelArray], *, keep_bytes: int = KEEP_BYTES) -> None:
        self._read = read
        self._left = keep_bytes
        self._kept: dict[Path, PixelArray] = {}

    def image(self, path: Path) -> PixelArray:
        """One image, read-only.  (H, W, C)

        Raises:
            TrainingDataInvalid: the file cannot be decoded.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        pixels = self._read(path)
        pixels.flags.writeable = False
        if pixels.nbytes <= self._left:
            self._left -= pixels.nbytes
            self._kept[path] = pixels
        return pixels
