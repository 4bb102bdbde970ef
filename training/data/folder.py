"""Any folder of images: PNG, WebP, JPEG and TIFF of 8 or 16 bits, at any depth of sub-folders.

Numbers are kept as stored; the preset's ``gains`` say what they are worth. All images of a folder must be of one depth.
Pillow decodes what it can decode without loss. 16-bit files of several bands it would cut to 8 bits, so GeoTIFFs of
that kind are read by :mod:`engine.raster`, on the ground grid at their own resolution, and PNGs of that kind refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from training.data.digests import digest_of_files
from training.data.geotiffs import read_own
from training.data.pool import PixelArray
from training.data.splits import held_out
from training.errors import TrainingDataInvalid

SUFFIXES = frozenset({".webp", ".png", ".tif", ".tiff", ".jpg", ".jpeg"})
BITS_PER_SAMPLE = 258
"""TIFF's tag."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """All images below one folder, sorted by name."""

    root: Path
    paths: tuple[Path, ...]

    @classmethod
    def open(cls, root: Path) -> ImageFolder:
        """List the images.

        Raises:
            TrainingDataInvalid: there is none.
        """
        found = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
        if not found:
            raise TrainingDataInvalid(f"no image below {root}; give a folder of {', '.join(sorted(SUFFIXES))}")
        return cls(root=root, paths=tuple(found))

    def split(self, share: float) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Images to train on, and the ``share`` that is held out, by a hash of the name below the root."""
        names = {path: path.relative_to(self.root).as_posix() for path in self.paths}
        train = tuple(path for path, name in names.items() if not held_out(name, share))
        return train, tuple(path for path, name in names.items() if held_out(name, share))

    def digest(self) -> str:
        """SHA-256 of every image file."""
        return digest_of_files(self.root, self.paths)


def read_images(paths: tuple[Path, ...], bands: int, least_px: int) -> list[PixelArray]:
    """The first ``bands`` bands of each image, (H, W, bands) of uint8 or of uint16.

    Raises:
        TrainingDataInvalid: a file is no image, has too few bands or a side below ``least_px``, or depths are mixed.
    """
    images: list[PixelArray] = []
    for path in paths:
        pixels = read_image(path)
        if pixels.shape[2] < bands:
            raise TrainingDataInvalid(f"{path} has {pixels.shape[2]} bands, and {bands} are asked for; remove it")
        if min(pixels.shape[:2]) < least_px:
            raise TrainingDataInvalid(
                f"{path} has {pixels.shape[1]}x{pixels.shape[0]} px and cannot hold a {least_px} px tile; remove it"
            )
        if images and pixels.dtype != images[0].dtype:
            raise TrainingDataInvalid(
                f"{path} is {pixels.dtype} and {paths[0]} is {images[0].dtype}: one gain cannot serve both; "
                "put them in two folders"
            )
        images.append(np.ascontiguousarray(pixels[:, :, :bands]))
    return images


def read_image(path: Path) -> PixelArray:
    """One image as stored.  uint8 or uint16 (H, W, C)

    Raises:
        TrainingDataInvalid: it cannot be decoded without loss.
    """
    if path.suffix.lower() == ".png" and _is_deep_colour_png(path):
        raise TrainingDataInvalid(f"{path} is a PNG of 16-bit colour, which would be cut to 8 bits; save it as GeoTIFF")
    try:
        with Image.open(path) as image:
            deep = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8 and len(image.getbands()) > 1
            if not deep:
                return _pixels(image)
    except UnidentifiedImageError as error:
        if path.suffix.lower() not in {".tif", ".tiff"}:
            raise TrainingDataInvalid(f"{path} is no image that can be read ({error}); remove it") from error
    except OSError as error:
        raise TrainingDataInvalid(f"{path} is damaged ({error}); remove it") from error
    return read_own(path)


def _pixels(image: Image.Image) -> PixelArray:
    if image.mode in {"I;16", "I;16B", "I;16L", "I"}:
        pixels = np.asarray(image)
        if pixels.max(initial=0) > np.iinfo(np.uint16).max or pixels.min(initial=0) < 0:
            raise TrainingDataInvalid(f"{getattr(image, 'filename', 'an image')} holds numbers beyond 16 bits")
        return pixels.astype(np.uint16)[:, :, None]
    if image.mode in {"1", "L"}:
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))


def _is_deep_colour_png(path: Path) -> bool:
    """By the header chunk, whose bit depth and colour type are bytes 24 and 25 of the file (PNG, section 11.2.1)."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return len(head) == 26 and head[12:16] == b"IHDR" and head[24] == 16 and head[25] in (2, 4, 6)
