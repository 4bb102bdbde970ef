"""One GeoTIFF: opened within limits, described, and read onto the cell grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
import shapely
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject, transform, transform_bounds
from rasterio.windows import Window

from engine.errors import RasterCorrupt, RasterRefused
from engine.grid import is_utm, utm_epsg_for
from engine.raster.checks import check
from engine.raster.gdal import gdal, gdal_name, shown, translated
from engine.raster.window import GridWindow, Lattice, apply, part_of
from engine.read_plan import RasterInfo, ReadLimits
from engine.tiles import Float32Array


class RasterFile:
    """An open GeoTIFF. A context manager; one thread at a time (GDAL handles are not shared)."""

    def __init__(self, href: str, dataset: Any, limits: ReadLimits, size: int | None) -> None:
        self.href = href
        self._size = size
        self._dataset = dataset
        self._limits = limits
        self._sound: set[tuple[int, int, int]] = set()

    @classmethod
    def open(cls, href: str, limits: ReadLimits, *, remaining_s: float | None = None) -> Self:
        """Open a file and check all that can be checked before a pixel is read.

        Raises:
            RasterRefused: over a limit, or of a kind that is never opened.
            RasterCorrupt: empty, not a GeoTIFF, without CRS or geotransform.
            RasterUnavailable: its server failed, or it is not there.
        """
        left_s = remaining_s or limits.timeout_s
        name, size = gdal_name(href, limits, left_s)
        with gdal(limits, left_s), translated(href, "opening"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # Reported below as the error that it is.
            dataset = rasterio.open(name, driver="GTiff")
        try:
            check(href, dataset, limits)
        except BaseException:
            dataset.close()
            raise
        return cls(href, dataset, limits, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._dataset.close()

    @property
    def epsg(self) -> int | None:
        """EPSG code of the CRS, where it has one."""
        code: int | None = self._dataset.crs.to_epsg()
        return code

    @property
    def count(self) -> int:
        """Bands."""
        return int(self._dataset.count)

    def centre_lonlat(self) -> tuple[float, float]:
        """The middle of the file, EPSG:4326."""
        x, y = apply(self._dataset.transform, self._dataset.width / 2, self._dataset.height / 2)
        lon, lat = transform(self._dataset.crs, "EPSG:4326", [x], [y])
        if not (math.isfinite(lon[0]) and math.isfinite(lat[0])):
            raise RasterCorrupt(f"file {shown(self.href)} lies nowhere on Earth by its own CRS and geotransform")
        return lon[0], lat[0]

    def zone(self) -> int:
        """The zone of the grid that it is read on: its own where it is in WGS 84 / UTM, else that of its centre.

        Raises:
            RasterRefused: it lies beyond UTM.
        """
        own = self.epsg
        if own is not None and is_utm(own):
            return own
        try:
            return utm_epsg_for(*self.centre_lonlat())
        except ValueError as error:
            raise RasterRefused(f"file {shown(self.href)} cannot be put on the cell grid: {error}") from error

    def footprint(self, epsg: int) -> shapely.Polygon:
        """Its outline in metres of a zone, edges followed closely."""
        width, height = self._dataset.width, self._dataset.height
        steps = 1 if self._lattice_crs(epsg) else 32
        t = np.linspace(0.0, 1.0, steps, endpoint=False)
        cols = np.concatenate([t * width, np.full(steps, width), (1 - t) * width, np.zeros(steps)])
        rows = np.concatenate([np.zeros(steps), t * height, np.full(steps, height), (1 - t) * height])
        xs, ys = apply(self._dataset.transform, cols, rows)
        if steps > 1:
            xs, ys = transform(self._dataset.crs, f"EPSG:{epsg}", xs.tolist(), ys.tolist())
        return shapely.Polygon(np.stack([xs, ys], axis=1))

    def gsd_m(self) -> float:
        """Pixel size at the centre, metres: the side of a square of the pixel's area."""
        epsg = utm_epsg_for(*self.centre_lonlat()) if self._dataset.crs.is_geographic else self.zone()
        col, row = self._dataset.width / 2, self._dataset.height / 2
        corners = [apply(self._dataset.transform, *point) for point in ((col, row), (col + 1, row), (col, row + 1))]
        xs, ys = transform(self._dataset.crs, f"EPSG:{epsg}", [x for x, _ in corners], [y for _, y in corners])
        area = (xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0])
        return math.sqrt(abs(area))

    def info(self) -> RasterInfo:
        """What the file says of itself."""
        dataset = self._dataset
        epsg = self.epsg
        return RasterInfo(
            path=self.href,
            crs=f"EPSG:{epsg}" if epsg else dataset.crs.to_wkt(),
            transform=tuple(dataset.transform[:6]),
            shape=dataset.shape,
            count=dataset.count,
            dtypes=tuple(dataset.dtypes),
            nodata=tuple(dataset.nodatavals),
            descriptions=tuple(dataset.descriptions),
            scales=tuple(dataset.scales),
            offsets=tuple(dataset.offsets),
            alpha=self._alpha(),
            gsd_m=self.gsd_m(),
            bounds_lonlat=transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds),
        )

    def on_grid(self, epsg: int, gsd_m: float) -> bool:
        """Whether its pixels are the grid's, or whole groups of them: then reading resamples nothing."""
        return self._lattice(epsg, gsd_m) is not None

    def read(
        self,
        indexes: Sequence[int],
        window: GridWindow,
        *,
        nodata: float | None = None,
        joint: bool = False,
        nearest: bool = False,
        remaining_s: float,
    ) -> Float32Array:
        """Bands on a window of the grid, NaN where there is nothing.  (len(indexes), window.height, window.width)

        A file on the grid's lattice is copied pixel by pixel, coarser pixels repeated; any other is warped.

        Args:
            indexes: bands, from 1.
            window: what to read; parts outside the file are NaN.
            nodata: value that is no data beside the declared one.
            joint: a pixel is no data only where all of ``indexes`` are (8-bit imagery, where 0 is also a dark colour).
            nearest: warp by nearest neighbour (classes), not bilinear.
            remaining_s: time left for the scene, seconds.

        Raises:
            RasterCorrupt: a block is damaged or absent.
            RasterUnavailable: the server failed.
        """
        lattice = self._lattice(window.epsg, window.gsd_m)
        with gdal(self._limits, remaining_s), translated(self.href, "reading"):
            if lattice is not None:
                return self._copy(indexes, window, lattice, nodata=nodata, joint=joint)
            return self._warp(indexes, window, nodata=nodata, joint=joint, nearest=nearest)

    def _copy(
        self, indexes: Sequence[int], window: GridWindow, lattice: Lattice, *, nodata: float | None, joint: bool
    ) -> Float32Array:
        q = lattice.ratio
        col0, col1 = (window.west - lattice.west) // q, -((lattice.west - window.west - window.width) // q)
        row0, row1 = (lattice.north - window.north) // q, -((window.south - lattice.north) // q)
        coarse = np.full((len(indexes), row1 - row0, col1 - col0), np.nan, np.float32)
        left, right = max(col0, 0), min(col1, self._dataset.width)
        top, bottom = max(row0, 0), min(row1, self._dataset.height)
        if left < right and top < bottom:
            inside = Window(left, top, right - left, bottom - top)
            coarse[:, top - row0 : bottom - row0, left - col0 : right - col0] = self._values(
                indexes, inside, nodata=nodata, joint=joint
            )
        fine = coarse.repeat(q, axis=1).repeat(q, axis=2) if q > 1 else coarse
        x = window.west - (lattice.west + col0 * q)
        y = (lattice.north - row0 * q) - window.north
        return fine[:, y : y + window.height, x : x + window.width]

    def _warp(
        self, indexes: Sequence[int], window: GridWindow, *, nodata: float | None, joint: bool, nearest: bool
    ) -> Float32Array:
        result = np.full((len(indexes), window.height, window.width), np.nan, np.float32)
        crs = f"EPSG:{window.epsg}"
        bounds = transform_bounds(crs, self._dataset.crs, *window.bounds, densify_pts=21)
        if not all(math.isfinite(value) for value in bounds):
            return result
        corners = [apply(~self._dataset.transform, x, y) for x in bounds[::2] for y in bounds[1::2]]
        # How many file pixels make a grid pixel; from two on, overviews (or averages) are read in their place.
        shrink = max(1, int(window.gsd_m / self.gsd_m() + 1e-6)) if not nearest and nodata is None else 1
        pad = 4 * shrink
        left = max(0, math.floor(min(c for c, _ in corners)) - pad)
        right = min(self._dataset.width, math.ceil(max(c for c, _ in corners)) + pad)
        top = max(0, math.floor(min(r for _, r in corners)) - pad)
        bottom = min(self._dataset.height, math.ceil(max(r for _, r in corners)) + pad)
        if left >= right or top >= bottom:
            return result
        inside = Window(left, top, right - left, bottom - top)
        values = self._values(indexes, inside, nodata=nodata, joint=joint, shrink=shrink)
        _, rows, cols = values.shape
        place = part_of(self._dataset.transform, left, top, (right - left) / cols, (bottom - top) / rows)
        reproject(
            values,
            result,
            src_transform=place,
            src_crs=self._dataset.crs,
            src_nodata=np.nan,
            dst_transform=window.transform,
            dst_crs=crs,
            dst_nodata=np.nan,
            resampling=Resampling.nearest if nearest else Resampling.bilinear,
        )
        return result

    def _values(
        self, indexes: Sequence[int], inside: Window, *, nodata: float | None, joint: bool, shrink: int = 1
    ) -> Float32Array:
        """File pixels as float32, NaN where there is no data.  (len(indexes), rows, cols)"""
        bands = list(indexes)
        shape = (len(bands), max(1, round(inside.height / shrink)), max(1, round(inside.width / shrink)))
        dataset = self._dataset
        if shrink == 1:
            self._require_blocks(bands, inside, nodata)
        raw = dataset.read(bands, window=inside, out_shape=shape, resampling=Resampling.average)
        values: Float32Array = raw.astype(np.float32)
        empty = ~np.isfinite(values)
        for i, index in enumerate(bands):
            for mark in {dataset.nodatavals[index - 1], nodata} - {None}:
                if not math.isnan(mark):
                    empty[i] |= raw[i] == mark
            if self._has_mask(index):
                empty[i] |= dataset.read_masks(index, window=inside, out_shape=shape[1:]) == 0
        if joint:
            empty = np.broadcast_to(empty.all(axis=0), empty.shape)
        values[empty] = np.nan
        return values

    def _require_blocks(self, bands: Sequence[int], inside: Window, nodata: float | None) -> None:
        """Every block of a window is in the file.

        A block that was never written reads as zeros, which without a nodata value would pass for data; one that lies
        beyond the file's end is known to be cut off before the server is asked for it.

        Raises:
            RasterCorrupt: a block is absent and the file declares no nodata, or is cut off.
        """
        dataset = self._dataset
        for index in bands if dataset.interleaving is None or dataset.interleaving.name == "band" else bands[:1]:
            may_lack = dataset.nodatavals[index - 1] is not None or nodata is not None or self._has_mask(index)
            rows, cols = dataset.block_shapes[index - 1]
            for by in range(inside.row_off // rows, -(-(inside.row_off + inside.height) // rows)):
                for bx in range(inside.col_off // cols, -(-(inside.col_off + inside.width) // cols)):
                    if (index, bx, by) not in self._sound:
                        self._require_block(index, bx, by, may_lack=may_lack)
                        self._sound.add((index, bx, by))

    def _require_block(self, index: int, bx: int, by: int, *, may_lack: bool) -> None:
        offset = self._dataset.get_tag_item(f"BLOCK_OFFSET_{bx}_{by}", "TIFF", bidx=index)
        if offset is None:
            if may_lack:
                return
            raise RasterCorrupt(
                f"block ({bx}, {by}) of band {index} of {shown(self.href)} was never written, and the file declares no "
                "nodata value; write the file again, or declare one"
            )
        length = self._dataset.get_tag_item(f"BLOCK_SIZE_{bx}_{by}", "TIFF", bidx=index)
        if self._size is not None and int(offset) + int(length or 0) > self._size:
            raise RasterCorrupt(
                f"file {shown(self.href)} is truncated: block ({bx}, {by}) of band {index} ends at byte "
                f"{int(offset) + int(length or 0)} of {self._size}"
            )

    def _has_mask(self, index: int) -> bool:
        """Whether the file carries an internal mask, as JPEG-compressed imagery does; an alpha band is none."""
        flags = self._dataset.mask_flag_enums[index - 1]
        return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags

    def _alpha(self) -> int | None:
        dataset = self._dataset
        for index, meaning in enumerate(dataset.colorinterp, start=1):
            if meaning is ColorInterp.alpha and dataset.dtypes[index - 1] == "uint8":
                shape = (min(256, dataset.height), min(256, dataset.width))
                with gdal(self._limits, self._limits.timeout_s), translated(self.href, "reading"):
                    sample = dataset.read(index, out_shape=shape)
                return index if np.isin(sample, (0, 255)).all() else None
        return None

    def _lattice_crs(self, epsg: int) -> bool:
        own = self._dataset.transform
        return self.epsg == epsg and own.b == own.d == 0 and own.a > 0 and own.e < 0

    def _lattice(self, epsg: int, gsd_m: float) -> Lattice | None:
        if not self._lattice_crs(epsg):
            return None
        own = self._dataset.transform
        ratio, west, north = own.a / gsd_m, own.c / gsd_m, own.f / gsd_m
        whole = round(ratio)
        # A thousandth of a pixel over the whole file is less than any georeferencing.
        reach = max(self._dataset.width, self._dataset.height)
        square = abs(own.a + own.e) * reach < 1e-3 * gsd_m and whole >= 1 and abs(ratio - whole) * reach < 1e-3
        if not square or abs(west - round(west)) > 1e-3 or abs(north - round(north)) > 1e-3:
            return None
        return Lattice(ratio=whole, west=round(west), north=round(north))


def describe(path: str | Path, limits: ReadLimits | None = None) -> RasterInfo:
    """What a file says of itself; see :meth:`RasterFile.open` for what it raises."""
    href = str(path) if str(path).startswith(("http://", "https://")) else str(Path(path).absolute())
    with RasterFile.open(href, limits or ReadLimits()) as raster:
        return raster.info()
