"""From a reading plan to batches of tiles on the cell grid, a block of neighbouring cells at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import RasterCorrupt, RasterRefused, RasterTimeout
from engine.grid import Cell, cells_over_utm, gsd_of_level, level_for_gsd, to_utm
from engine.masks import CLEAR, CODES, CodeArray, classify, grow, main_reason, pixels_of
from engine.raster.file import RasterFile
from engine.raster.gdal import shown
from engine.raster.window import GridWindow
from engine.read_plan import BandSource, ReadLimits, ReadPlan, ReadReport
from engine.scaling import OffsetEvidence
from engine.tiles import Float32Array, Tile, TileBatch

BLOCK_PX = 1024
"""Side of the square of ground that is read at once, grid pixels: a few internal tiles of a COG, a few megabytes."""

_DARK_BANDS = ("nir", "nir08", "swir16", "swir22")


@dataclass(frozen=True, kw_only=True)
class _Grid:
    epsg: int
    level: int
    cells: tuple[Cell, ...]
    resampled: bool


class TileReader:
    """A scene's tiles, in batches. Iterate it; afterwards :attr:`report` says what became of each cell.

    Each iteration opens the files, reads from north to south, and closes them. Memory is bounded by one block of
    :data:`BLOCK_PX` squared pixels per band and one batch, whatever the size of the scene. One thread at a time.
    """

    def __init__(
        self,
        plan: ReadPlan,
        areas: Sequence[BaseGeometry] | None,
        *,
        tile_px: int = 64,
        min_valid_ratio: float = 0.7,
        batch_size: int = 64,
        limits: ReadLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """See :func:`read_tiles`."""
        if not plan.bands:
            raise ValueError("a reading plan without bands")
        if tile_px < 1 or batch_size < 1:
            raise ValueError(f"tile_px {tile_px} and batch_size {batch_size} must be at least 1")
        self._plan = plan
        self._areas = areas
        self._tile_px = tile_px
        self._min_valid_ratio = min_valid_ratio
        self._batch_size = batch_size
        self._limits = limits or ReadLimits()
        self._monotonic = monotonic
        self.report = ReadReport()
        """Complete once the iteration is."""

    def __iter__(self) -> Iterator[TileBatch]:
        self.report = report = ReadReport()
        evidence = self._new_evidence()
        with ExitStack() as stack:
            with self._on_the_clock():
                files = self._open(stack)
                grid = self._grid(files)
                report.total = len(grid.cells)
                report.epsg, report.gsd_m, report.resampled = grid.epsg, gsd_of_level(grid.level), grid.resampled
            tiles: list[Tile] = []
            arrays: list[tuple[Float32Array, CodeArray]] = []
            for block in _blocks(grid.cells, self._tile_px):
                with self._on_the_clock():
                    for tile, pixels, codes in self._read_block(files, block, evidence):
                        tiles.append(tile)
                        arrays.append((pixels, codes))
                while len(tiles) >= self._batch_size:
                    yield self._batch(tiles[: self._batch_size], arrays[: self._batch_size])
                    del tiles[: self._batch_size], arrays[: self._batch_size]
            if tiles:
                yield self._batch(tiles, arrays)
        report.warnings = tuple(self._warnings(evidence))

    def _open(self, stack: ExitStack) -> dict[str, RasterFile]:
        sources = [(band.href, band.index) for band in self._plan.bands]
        if self._plan.mask is not None:
            sources.append((self._plan.mask.href, self._plan.mask.index))
        files: dict[str, RasterFile] = {}
        for href, index in sources:
            if href not in files:
                files[href] = stack.enter_context(RasterFile.open(href, self._limits, remaining_s=self._remaining_s()))
            if not 1 <= index <= files[href].count:
                raise RasterCorrupt(
                    f"file {shown(href)} has {files[href].count} bands; band {index} is said to be in it"
                )
        return files

    def _grid(self, files: dict[str, RasterFile]) -> _Grid:
        """The zone by the finest file, the level nearest to its pixel size, and the cells that areas and file share."""
        sensor = self._plan.sensor
        sizes = {href: files[href].gsd_m() for href in dict.fromkeys(band.href for band in self._plan.bands)}
        finest = min(sizes, key=lambda href: sizes[href])
        gsd_m, (low_m, high_m) = sizes[finest], sensor.gsd_range_m
        if gsd_m > high_m * math.sqrt(2.0):
            raise RasterRefused(
                f"file {shown(finest)} has pixels of {gsd_m:.3g} m; sensor {sensor.name} is read at {low_m:g} to "
                f"{high_m:g} m. Nothing finer can be made of it: choose another sensor, or the full-resolution file"
            )
        level, epsg = level_for_gsd(max(gsd_m, low_m)), files[finest].zone()
        ground: BaseGeometry = files[finest].footprint(epsg)
        if self._areas is not None:
            wanted = shapely.union_all([to_utm(area, epsg) for area in self._areas])
            ground = ground.intersection(wanted)
        try:
            cells = cells_over_utm(ground, epsg, level, self._tile_px)
        except ValueError as error:
            raise RasterRefused(f"{self._plan.name or shown(finest)}: {error}") from error
        resampled = not all(files[href].on_grid(epsg, gsd_of_level(level)) for href in sizes)
        return _Grid(epsg=epsg, level=level, cells=cells, resampled=resampled)

    def _read_block(
        self, files: dict[str, RasterFile], cells: Sequence[Cell], evidence: dict[str, OffsetEvidence]
    ) -> Iterator[tuple[Tile, Float32Array, CodeArray]]:
        size, gsd_m = self._tile_px, cells[0].gsd_m
        mask, sensor = self._plan.mask, self._plan.sensor
        cloud_px = pixels_of(mask.spec.grow_m, gsd_m) if mask is not None else 0
        edge_px = pixels_of(sensor.edge_m, gsd_m)
        # Cloud beyond the block's edge reaches into it: a halo is read with it and cut off again.
        halo = max(cloud_px, edge_px)
        col0, row0 = min(cell.col for cell in cells), min(cell.row for cell in cells)
        window = GridWindow(
            epsg=cells[0].epsg,
            gsd_m=gsd_m,
            west=col0 * size - halo,
            south=row0 * size - halo,
            width=(max(cell.col for cell in cells) + 1 - col0) * size + 2 * halo,
            height=(max(cell.row for cell in cells) + 1 - row0) * size + 2 * halo,
        )
        dn = self._read_bands(files, window)  # (C, H, W)
        codes = np.where(np.isnan(dn).any(axis=0), CODES["nodata"], CLEAR).astype(np.uint8)  # (H, W)
        if mask is not None:
            values = files[mask.href].read([mask.index], window, nearest=True, remaining_s=self._remaining_s())[0]
            codes = np.where(codes == CLEAR, classify(values, mask.spec), codes)
        codes = grow(codes, cloud_px=cloud_px, edge_px=edge_px)
        inner = (slice(halo, window.height - halo), slice(halo, window.width - halo))
        self._ask(evidence, dn[:, *inner], codes[inner])
        pixels = self._reflectance(dn, codes)

        for cell in cells:
            left = (cell.col * size) - window.west
            top = window.north - (cell.row + 1) * size
            square = (slice(top, top + size), slice(left, left + size))
            own = codes[square]
            ratio = float(np.count_nonzero(own == CLEAR)) / own.size
            if ratio < self._min_valid_ratio or ratio == 0.0:
                self.report.skipped[main_reason(own)] += 1
                continue
            self.report.read += 1
            yield self._tile(cell, ratio), pixels[:, *square].copy(), own.copy()

    def _read_bands(self, files: dict[str, RasterFile], window: GridWindow) -> Float32Array:
        """All bands, DN, NaN where there is nothing; bands of one file in one read.  (C, H, W)"""
        bands = self._plan.bands
        dn = np.empty((len(bands), window.height, window.width), np.float32)
        together: dict[tuple[str, float | None], list[tuple[int, BandSource]]] = {}
        for position, band in enumerate(bands):
            together.setdefault((band.href, band.nodata), []).append((position, band))
        for (href, nodata), members in together.items():
            dn[[position for position, _ in members]] = files[href].read(
                [band.index for _, band in members],
                window,
                nodata=nodata,
                joint=self._plan.sensor.level == "dn8",
                remaining_s=self._remaining_s(),
            )
        return dn

    def _ask(self, evidence: dict[str, OffsetEvidence], dn: Float32Array, codes: CodeArray) -> None:
        """Show the clear pixels of a block, DN, to who doubts the offset."""
        if evidence:
            clear = codes == CLEAR
            for values, band in zip(dn, self._plan.bands, strict=True):
                if band.band in evidence:
                    evidence[band.band].add(values[clear])

    def _reflectance(self, dn: Float32Array, codes: CodeArray) -> Float32Array:
        """DN to reflectance 0..1, 0 where not clear, in place.  (C, H, W)"""
        for values, band in zip(dn, self._plan.bands, strict=True):
            values *= np.float32(band.scale)
            values += np.float32(band.offset)
            np.clip(values, 0.0, 1.0, out=values)
            values[codes != CLEAR] = 0.0
        return dn

    def _tile(self, cell: Cell, valid_ratio: float) -> Tile:
        return Tile(
            cell_id=cell.id,
            row=cell.row,
            col=cell.col,
            crs=cell.crs,
            transform=cell.transform,
            size_px=cell.tile_px,
            valid_ratio=valid_ratio,
        )

    def _batch(self, tiles: Sequence[Tile], arrays: Sequence[tuple[Float32Array, CodeArray]]) -> TileBatch:
        return TileBatch(
            tiles=tuple(tiles),
            pixels=np.stack([pixels for pixels, _ in arrays]),
            valid=np.stack([codes == CLEAR for _, codes in arrays]),
            bands=tuple(band.band for band in self._plan.bands),
            gsd_m=self.report.gsd_m,
        )

    def _new_evidence(self) -> dict[str, OffsetEvidence]:
        if self._plan.sensor.level == "dn8":
            return {}
        return {
            band.band: OffsetEvidence(offset=band.offset, scale=band.scale)
            for band in self._plan.bands
            if band.band in _DARK_BANDS
        }

    def _warnings(self, evidence: dict[str, OffsetEvidence]) -> Iterator[str]:
        offsets = {band.band: band.offset for band in self._plan.bands}
        for name, found in evidence.items():
            if found.verdict in ("already applied", "not applied"):
                yield (
                    f"band {name}: dark pixels say that the offset of Sentinel-2 baseline 04.00 is {found.verdict}, "
                    f"while the metadata gave {offsets[name]:g}; reflectances may be 0.1 wrong"
                )

    @contextmanager
    def _on_the_clock(self) -> Iterator[None]:
        self._remaining_s()
        start = self._monotonic()
        try:
            yield
        finally:
            self.report.seconds += self._monotonic() - start

    def _remaining_s(self) -> float:
        left = self._limits.timeout_s - self.report.seconds
        if left <= 0:
            raise RasterTimeout(
                f"reading {self._plan.name or shown(self._plan.bands[0].href)} took over {self._limits.timeout_s:g} s "
                f"({self.report.read} of {self.report.total} tiles read); it is tried again later"
            )
        return left


def read_tiles(
    plan: ReadPlan,
    areas: Sequence[BaseGeometry] | None,
    *,
    tile_px: int = 64,
    min_valid_ratio: float = 0.7,
    batch_size: int = 64,
    limits: ReadLimits | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> TileReader:
    """The tiles of a scene over some areas, as an iterable of batches with a report.

    Args:
        plan: files, bands and mask.
        areas: lon/lat polygons; overlaps are read once. None: the whole scene.
        tile_px: side of a tile, grid pixels.
        min_valid_ratio: tiles with less clear ground than this share are skipped and counted.
        batch_size: tiles of a batch at most.
        limits: what the read may cost.
        monotonic: seconds since any origin.

    Raises (on iteration):
        RasterRefused: a file breaks a limit, or is too coarse for its sensor.
        RasterCorrupt: a file is damaged, not georeferenced, or lacks a band that is said to be in it.
        RasterUnavailable: a server failed.
        RasterTimeout: reading took longer than allowed.
    """
    return TileReader(
        plan,
        areas,
        tile_px=tile_px,
        min_valid_ratio=min_valid_ratio,
        batch_size=batch_size,
        limits=limits,
        monotonic=monotonic,
    )


def _blocks(cells: Sequence[Cell], tile_px: int) -> Iterator[list[Cell]]:
    """Cells in squares of about :data:`BLOCK_PX` pixels, from north to south and west to east."""
    side = max(1, BLOCK_PX // tile_px)

    def block_of(cell: Cell) -> tuple[int, int]:
        return -(cell.row // side), cell.col // side

    for _, members in groupby(sorted(cells, key=block_of), key=block_of):
        yield list(members)
