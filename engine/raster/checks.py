"""What a file must be before one of its pixels is read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.errors import RasterCorrupt, RasterRefused
from engine.raster.gdal import shown
from engine.read_plan import ReadLimits


def check(href: str, dataset: Any, limits: ReadLimits) -> None:
    """Refuse an open rasterio dataset that is too large, or that nobody could place on Earth.

    Raises:
        RasterRefused: over a limit, or of a kind that is never read.
        RasterCorrupt: without CRS or geotransform.
    """
    name = shown(href)
    pixels = dataset.width * dataset.height
    if pixels > limits.max_pixels:
        raise RasterRefused(
            f"file {name} has {dataset.width} x {dataset.height} pixels; the limit is {limits.max_pixels}"
        )
    if dataset.count > limits.max_bands:
        raise RasterRefused(f"file {name} has {dataset.count} bands; the limit is {limits.max_bands}")
    for dtype, (rows, cols) in zip(dataset.dtypes, dataset.block_shapes, strict=True):
        kind = np.dtype(dtype) if not dtype.startswith("complex_") else np.dtype(np.complex64)
        if kind.kind not in "uif":
            raise RasterRefused(f"file {name} holds {dtype} numbers; real numbers are expected")
        interleaved = dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
        size = rows * cols * kind.itemsize * interleaved
        if size > limits.max_block_bytes:
            raise RasterRefused(
                f"file {name} is packed in blocks of {rows} x {cols} pixels, {size} bytes each; the limit is "
                f"{limits.max_block_bytes}. Rewrite it as a tiled (cloud optimised) GeoTIFF"
            )
    if not dataset.crs:
        raise RasterCorrupt(f"file without CRS: {name}; give it one, e.g. with gdal_edit.py -a_srs")
    if dataset.transform.is_identity or not dataset.transform.determinant:
        raise RasterCorrupt(f"file without geotransform: {name}; it is not georeferenced")
    if not all(math.isfinite(value) for value in dataset.transform):
        raise RasterCorrupt(f"file with a geotransform that is not finite: {name}")
