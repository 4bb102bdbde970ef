"""Writing cloud-optimised GeoTIFFs, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def write_geotiff(
    path: str | Path,
    array: npt.NDArray[Any],
    crs: str | int,
    transform: Sequence[float],
    *,
    nodata: float | None = None,
    scales: Sequence[float] | None = None,
    offsets: Sequence[float] | None = None,
    descriptions: Sequence[str] | None = None,
    block_px: int = 256,
    overview_resampling: str = "average",
) -> Path:
    """Write an array as a cloud-optimised GeoTIFF: tiled, deflated, with overviews.

    The file appears under its name only when it is complete.

    Args:
        path: where; its folder must exist.
        array: (C, H, W), or (H, W) for one band; uint8, uint16, int16 or float32.
        crs: ``EPSG:n``, or n.
        transform: affine a, b, c, d, e, f from (column, row) to coordinates of the CRS.
        nodata: value that means no data.
        scales: what one DN is worth, per band.
        offsets: value at DN 0, per band.
        descriptions: name of each band.
        block_px: side of the internal tiles, a multiple of 16.
        overview_resampling: GDAL's name; ``nearest`` or ``mode`` for classes.

    Returns:
        ``path``.

    Raises:
        ValueError: shapes or types do not fit.
        OSError: the folder cannot be written.
    """
    bands = array[np.newaxis] if array.ndim == 2 else array
    if bands.ndim != 3 or 0 in bands.shape:
        raise ValueError(f"an array of shape {array.shape} is not (bands, rows, columns)")
    if bands.dtype.name not in {"uint8", "uint16", "int16", "float32"}:
        raise ValueError(f"{bands.dtype} is not written; uint8, uint16, int16 and float32 are")
    count, height, width = bands.shape
    for name, given in (("scales", scales), ("offsets", offsets), ("descriptions", descriptions)):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {name} for {count} bands")
    target = Path(path)
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": bands.dtype.name,
        "crs": f"EPSG:{crs}" if isinstance(crs, int) else crs,
        "transform": Affine(*transform[:6]),
        "nodata": nodata,
        "photometric": "rgb" if bands.dtype == np.uint8 and count in (3, 4) else "minisblack",
        # Else a fourth band would call itself alpha, as NAIP's near infrared does, and viewers hide what is dark in it.
        "alpha": "no",
    }
    handle, unfinished = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tif", dir=target.parent)
    os.close(handle)
    try:
        with rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(bands)
                if profile["photometric"] == "rgb":
                    dataset.colorinterp = (*_COLOURS, *[ColorInterp.undefined] * (count - 3))
                if scales is not None:
                    dataset.scales = tuple(scales)
                if offsets is not None:
                    dataset.offsets = tuple(offsets)
                for index, text in enumerate(descriptions or (), start=1):
                    dataset.set_band_description(index, text)
            with memory.open() as dataset:
                rasterio.shutil.copy(
                    dataset,
                    unfinished,
                    driver="COG",
                    compress="DEFLATE",
                    predictor="YES",
                    blocksize=block_px,
                    overview_resampling=overview_resampling,
                )
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(target)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return target
