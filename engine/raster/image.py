"""A whole GeoTIFF as one array, wherever it lies: images for evaluation need no place on Earth."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning

from engine.errors import RasterRefused
from engine.raster.gdal import gdal, gdal_name, translated
from engine.read_plan import ReadLimits
from engine.tiles import BoolArray


@dataclass(frozen=True, kw_only=True)
class RasterImage:
    """All pixels of a file as they are stored."""

    pixels: npt.NDArray[Any]
    """Numbers of the file's own type.  (B, H, W)"""
    valid: BoolArray
    """False where a band holds its nodata value, NaN, or is masked out by the file's internal mask.  (B, H, W)

    A nodata value of 0 is not applied: whether one dark band is data is for the caller to say.
    """
    scales: tuple[float, ...]
    """Declared worth of one number, per band; 1 where none is declared."""
    offsets: tuple[float, ...]
    """Declared value at 0, per band."""
    alpha: int | None
    """The band, from 1, that calls itself alpha."""


def read_image(path: Path, limits: ReadLimits | None = None) -> RasterImage:
    """Read a local GeoTIFF whole; it may lack a CRS.

    Raises:
        RasterRefused: over a limit, or no local TIFF.
        RasterCorrupt: empty, truncated, or not a TIFF.
        RasterUnavailable: it is not there.
    """
    bounds = limits or ReadLimits()
    href = str(path.absolute())
    name, _ = gdal_name(href, bounds, bounds.timeout_s)
    with gdal(bounds, bounds.timeout_s), translated(href, "reading"), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(name, driver="GTiff") as dataset:
            _check(href, dataset, bounds)
            pixels = dataset.read()
            valid = np.ones(pixels.shape, dtype=np.bool_)
            for i, nodata in enumerate(dataset.nodatavals):
                if nodata is not None and nodata != 0 and not math.isnan(nodata):
                    valid[i] &= pixels[i] != nodata
                flags = dataset.mask_flag_enums[i]
                if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
                    valid[i] &= dataset.read_masks(i + 1) > 0
            if pixels.dtype.kind == "f":
                valid &= np.isfinite(pixels)
            alpha = [i for i, what in enumerate(dataset.colorinterp, start=1) if what is ColorInterp.alpha]
            return RasterImage(
                pixels=pixels,
                valid=valid,
                scales=tuple(dataset.scales),
                offsets=tuple(dataset.offsets),
                alpha=alpha[0] if alpha else None,
            )


def _check(href: str, dataset: Any, limits: ReadLimits) -> None:
    size = dataset.width * dataset.height
    if size > limits.max_pixels or dataset.count > limits.max_bands:
        raise RasterRefused(
            f"file {href} has {dataset.width} x {dataset.height} pixels of {dataset.count} bands; the limits are "
            f"{limits.max_pixels} pixels and {limits.max_bands} bands: cut it into smaller files"
        )
    kinds = {np.dtype(dtype).kind for dtype in dataset.dtypes if not dtype.startswith("complex")}
    if not kinds or kinds - set("uif") or any(dtype.startswith("complex") for dtype in dataset.dtypes):
        raise RasterRefused(f"file {href} holds {dataset.dtypes[0]} numbers; real numbers are expected")
