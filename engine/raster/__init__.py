"""GeoTIFFs in and out: the only place where rasterio is used.

It opens what it is handed, with the GTiff driver alone; which files and hosts may be handed to it is the daemon's
decision (:mod:`daemon.score.access`).
"""

from engine.raster.file import RasterFile, describe
from engine.raster.geotiff import write_geotiff
from engine.raster.reader import TileReader, read_tiles
from engine.read_plan import (
    BandSource,
    MaskSource,
    RasterInfo,
    ReadLimits,
    ReadPlan,
    ReadReport,
    plan_of_file,
)

__all__ = [
    "BandSource",
    "MaskSource",
    "RasterFile",
    "RasterInfo",
    "ReadLimits",
    "ReadPlan",
    "ReadReport",
    "TileReader",
    "describe",
    "plan_of_file",
    "read_tiles",
    "write_geotiff",
]
