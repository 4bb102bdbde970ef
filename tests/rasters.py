"""GeoTIFFs made from arrays at test time, good and bad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from engine.raster import BandSource, MaskSource, ReadPlan
from engine.sensors import SENSORS, MaskSpec

ORIGIN = (476_160.0, 5_867_520.0)
"""A corner of a level-0 cell of 64 px in EPSG:32629 (Lahinch, Ireland): 744 x 640, 9168 x 640."""


def transform_at(gsd_m: float, origin: tuple[float, float] = ORIGIN) -> Affine:
    """North-up, with its north-west corner at ``origin``."""
    return Affine(gsd_m, 0.0, origin[0], 0.0, -gsd_m, origin[1])


def write_plain(
    path: Path,
    array: npt.NDArray[Any],
    *,
    crs: str | None = "EPSG:32629",
    transform: Affine | None = None,
    gsd_m: float = 10.0,
    strips: bool = False,
    **profile: Any,
) -> Path:
    """An ordinary tiled GeoTIFF, written by rasterio alone (the peer of :func:`engine.raster.write_geotiff`)."""
    bands = array[np.newaxis] if array.ndim == 2 else array
    options: dict[str, Any] = {
        "driver": "GTiff",
        **({} if strips else {"tiled": True, "blockxsize": 64, "blockysize": 64}),
        "compress": "deflate",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype.name,
        "transform": transform if transform is not None else transform_at(gsd_m),
        **profile,
    }
    if crs is not None:
        options["crs"] = crs
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(bands)
    return path


def sentinel_plan(
    files: dict[str, Path | str], *, scl: Path | str | None = None, offset: float = 0.0, nodata: float | None = 0.0
) -> ReadPlan:
    """A plan of one file per band, as Sentinel-2 comes."""
    sensor = SENSORS["sentinel-2-l2a"]
    return ReadPlan(
        sensor=sensor,
        bands=tuple(
            BandSource(band=name, href=str(path), index=1, scale=1e-4, offset=offset, nodata=nodata)
            for name, path in files.items()
        ),
        mask=None if scl is None else MaskSource(href=str(scl), index=1, spec=sensor.masks[0]),
        name="test scene",
    )


def aerial_plan(
    path: Path | str, bands: Sequence[str] = ("red", "green", "blue"), alpha: int | None = None
) -> ReadPlan:
    """A plan of one 8-bit file."""
    return ReadPlan(
        sensor=SENSORS["aerial-rgb"],
        bands=tuple(
            BandSource(band=name, href=str(path), index=index, scale=1 / 255, offset=0.0)
            for index, name in enumerate(bands, start=1)
        ),
        mask=None if alpha is None else MaskSource(href=str(path), index=alpha, spec=MaskSpec(kind="alpha")),
        name="test image",
    )
