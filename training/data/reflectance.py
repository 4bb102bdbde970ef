"""Image files of any common kind to reflectance and to flood masks: what a pixel's number means is said here once.

WebP and PNG are read by Pillow, GeoTIFF by the engine. 1. A scale or offset that a GeoTIFF declares holds. 2. Else
8-bit numbers are multiplied by the gains that the caller assumes, 3. 16-bit numbers by 1e-4, as Sentinel-2 products
have them, and 4. floating point numbers are reflectance already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from training.errors import TrainingDataInvalid

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

SUFFIXES = (".webp", ".png", ".tif", ".tiff")
"""Kinds of files that are read, in lower case."""
SIXTEEN_BIT = 1e-4
"""Reflectance per number of 16-bit products."""


@dataclass(frozen=True, kw_only=True)
class PixelMeaning:
    """What an image's numbers are taken for."""

    gains: tuple[float, ...]
    """Reflectance per 8-bit number, one for each band that is wanted: an assumption."""
    bands: tuple[int, ...] | None = None
    """Which bands of the file, from 1, in the order wanted; None: the file has just these."""
    sixteen_bit_gains: tuple[float, ...] | None = None
    """Reflectance per 16-bit number where the file declares none; None: 1e-4."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A file's bands before they mean anything."""

    pixels: npt.NDArray[Any]
    """(B, H, W)"""
    valid: BoolArray
    """(B, H, W)"""
    alpha: int | None = None
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


def read_reflectance(path: Path, meaning: PixelMeaning) -> tuple[Float32Array, BoolArray]:
    """An image's reflectance, 0..1 and 0 where missing (C, H, W), and where there is ground at all (H, W).

    A pixel is missing where all bands are 0, or one is NaN, is the file's nodata value, or is transparent.

    Raises:
        TrainingDataInvalid: the file cannot be decoded, has other bands than are wanted, or numbers of another type.
        RasterCorrupt: a GeoTIFF is damaged.
    """
    stored = _stored(path)
    wanted = len(meaning.gains)
    count = len(stored.pixels)
    present = np.ones(stored.pixels.shape[1:], dtype=np.bool_)
    if meaning.bands is not None:
        if max(meaning.bands) > count or min(meaning.bands) < 1:
            raise TrainingDataInvalid(f"{path} has {count} bands; bands {meaning.bands} were asked for, counted from 1")
        rows = [band - 1 for band in meaning.bands]
    elif stored.alpha is not None and count == wanted + 1:
        rows = [i for i in range(count) if i != stored.alpha - 1]
    else:
        rows = list(range(count))
    if len(rows) != wanted:
        raise TrainingDataInvalid(f"{path} has {count} bands, {wanted} are wanted; say which ones (bands i,j,k from 1)")
    if stored.alpha is not None and stored.alpha - 1 not in rows:
        present &= stored.pixels[stored.alpha - 1] > 0
    pixels = stored.pixels[rows]
    present &= stored.valid[rows].all(axis=0) & (pixels != 0).any(axis=0)
    gains, offsets = _gains(path, stored, rows, meaning)
    values = np.where(present, pixels, 0).astype(np.float32)
    if pixels.dtype.kind == "f" and present.any() and np.median(values[:, present]) > 1.5:
        raise TrainingDataInvalid(
            f"{path} holds floating point numbers mostly above 1.5, which is no reflectance; divide them, or store "
            f"them as 16-bit numbers of {SIXTEEN_BIT:g}"
        )
    scaled = values * gains[:, None, None] + offsets[:, None, None]
    return np.where(present, np.clip(scaled, 0, 1), 0).astype(np.float32), present


def colour_bands(path: Path) -> tuple[int, ...]:
    """The bands of a file, from 1, without one that calls itself alpha.

    Raises:
        TrainingDataInvalid: the file cannot be decoded.
        RasterCorrupt: a GeoTIFF is damaged.
    """
    stored = _stored(path)
    return tuple(band for band in range(1, len(stored.pixels) + 1) if band != stored.alpha)


def read_flood(path: Path) -> tuple[BoolArray, BoolArray]:
    """Where a mask says flooded, and where it says anything.  (H, W) each

    Numbers above 0 are flooded and 0 is dry. Below 0, NaN, and a nodata value other than 0 say nothing. Of several
    bands the largest counts, and what is transparent is dry.

    Raises:
        TrainingDataInvalid: the file cannot be decoded.
        RasterCorrupt: a GeoTIFF is damaged.
    """
    stored = _stored(path, palette=False)
    rows = [i for i in range(len(stored.pixels)) if stored.alpha is None or i != stored.alpha - 1]
    values, said = stored.pixels[rows], stored.valid[rows].all(axis=0)
    largest = np.where(said, values.max(axis=0), 0)
    known = said & (largest >= 0)
    flooded = known & (largest > 0)
    if stored.alpha is not None:
        flooded &= stored.pixels[stored.alpha - 1] > 0
    return flooded, known


def _gains(
    path: Path, stored: _Stored, rows: Sequence[int], meaning: PixelMeaning
) -> tuple[Float32Array, Float32Array]:
    """Reflectance per number and at 0, by the precedence of this module's head.  (C,) each"""
    dtype = stored.pixels.dtype
    none = np.zeros(len(rows), dtype=np.float32)
    if stored.scales:
        scales = np.asarray([stored.scales[i] for i in rows], dtype=np.float32)
        offsets = np.asarray([stored.offsets[i] for i in rows], dtype=np.float32)
        if (scales != 1).any() or (offsets != 0).any():
            return scales, offsets
    if dtype == np.uint8:
        return np.asarray(meaning.gains, dtype=np.float32), none
    if dtype in (np.uint16, np.int16):
        return np.asarray(meaning.sixteen_bit_gains or (SIXTEEN_BIT,) * len(rows), dtype=np.float32), none
    if dtype.kind == "f":
        return np.ones(len(rows), dtype=np.float32), none
    raise TrainingDataInvalid(f"{path} holds {dtype} numbers; uint8, uint16, int16 and floating point are understood")


def _stored(path: Path, *, palette: bool = True) -> _Stored:
    if path.suffix.lower() in (".tif", ".tiff"):
        # rasterio stays out of machines that only train.
        from engine.raster.image import read_image

        image = read_image(path)
        return _Stored(
            pixels=image.pixels, valid=image.valid, alpha=image.alpha, scales=image.scales, offsets=image.offsets
        )
    try:
        with Image.open(path) as opened:
            picture: Image.Image = opened
            if _is_sixteen_bit_colour(path):
                raise TrainingDataInvalid(
                    f"{path} is a colour PNG of 16 bits, of which only 8 would be read; store it as a GeoTIFF"
                )
            if picture.mode == "P" and palette:
                picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            array = np.asarray(picture)
            alpha = array.shape[2] if picture.mode in ("RGBA", "LA") else None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise TrainingDataInvalid(f"{path} cannot be decoded ({error}); fetch it again or remove it") from error
    bands = array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)
    valid = np.isfinite(bands) if bands.dtype.kind == "f" else np.ones(bands.shape, dtype=np.bool_)
    return _Stored(pixels=bands, valid=valid, alpha=alpha)


def _is_sixteen_bit_colour(path: Path) -> bool:
    """By the PNG's header: bit depth in byte 24, colour type in byte 25, whose second bit says colour."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return head.startswith(b"\x89PNG") and head[24] == 16 and bool(head[25] & 2)
