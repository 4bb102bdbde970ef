"""GeoTIFFs as training images: on the ground grid, numbers as stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.errors import RasterCorrupt, RasterRefused, RasterUnavailable
from engine.read_plan import ReadLimits
from training.data.pool import PixelArray
from training.errors import TrainingDataInvalid

if TYPE_CHECKING:
    # Imported where a file is opened: machines that train on other layouts have no GDAL.
    from engine.raster import RasterFile
    from engine.raster.window import GridWindow

KINDS = ("uint8", "uint16")


def read_own(path: Path) -> PixelArray:
    """All bands of a file at its own pixel size, north up in its UTM zone.  uint8 or uint16 (H, W, C)

    A file in UTM whose pixels fit the grid is copied, any other is warped (bilinear).

    Raises:
        TrainingDataInvalid: it is not a georeferenced GeoTIFF of 8 or 16 bits.
    """
    return read_on(path, window_of(path, shrink=1))


def window_of(path: Path, *, shrink: int) -> GridWindow:
    """The rectangle of ground that holds a file, in pixels ``shrink`` times the file's own.

    Raises:
        TrainingDataInvalid: it is not a georeferenced GeoTIFF.
    """
    from engine.raster.window import GridWindow

    with _opened(path) as file:
        epsg, gsd_m = file.zone(), file.gsd_m() * shrink
        west, south, east, north = (bound / gsd_m for bound in file.footprint(epsg).bounds)
    # A thousandth of a pixel is rounding, not ground.
    left, low = math.floor(west + 1e-3), math.floor(south + 1e-3)
    return GridWindow(
        epsg=epsg,
        gsd_m=gsd_m,
        west=left,
        south=low,
        width=math.ceil(east - 1e-3) - left,
        height=math.ceil(north - 1e-3) - low,
    )


def read_on(path: Path, window: GridWindow) -> PixelArray:
    """All bands of a file on a rectangle of ground, 0 in all bands where there is none.  uint8 or uint16 (H, W, C)

    Several file pixels to a grid pixel are averaged.

    Raises:
        TrainingDataInvalid: it is not a georeferenced GeoTIFF of 8 or 16 bits.
    """
    with _opened(path) as file:
        kind = np.dtype(file.info().dtypes[0])
        if kind.name not in KINDS:
            raise TrainingDataInvalid(f"{path} holds {kind} numbers; {' and '.join(KINDS)} are read")
        values = file.read(range(1, file.count + 1), window, joint=True, remaining_s=ReadLimits().timeout_s)
    return _stored(values, kind)


def _stored(values: npt.NDArray[np.float32], kind: np.dtype[np.generic]) -> PixelArray:
    ground = np.isfinite(values).all(axis=0)
    numbers = np.where(ground, np.rint(np.nan_to_num(values)), 0)  # (C, H, W)
    return np.ascontiguousarray(numbers.transpose(1, 2, 0)).astype(kind)


@contextmanager
def _opened(path: Path) -> Iterator[RasterFile]:
    from engine.raster import RasterFile

    try:
        with RasterFile.open(str(path.resolve()), ReadLimits()) as file:
            yield file
    except (RasterCorrupt, RasterRefused, RasterUnavailable) as error:
        raise TrainingDataInvalid(f"{path} cannot be read as a training image: {error}") from error
