"""The tiles of one scene, read as the daemon reads scenes and written as shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from daemon.errors import HarvestInvalid
from daemon.harvest.choice import middles, squares
from daemon.harvest.order import Order
from daemon.scenes import Scene
from daemon.score.access import AccessPolicy
from daemon.score.reading import read_plan
from engine.grid import Cell, gsd_of_level, level_for_gsd
from engine.raster import RasterFile, read_tiles
from engine.read_plan import ReadLimits, ReadPlan, ReadReport
from engine.sensors import Sensor, named_sensor
from engine.shards import SUFFIX, ShardFacts, ShardRow, write_shard
from engine.tiles import TileBatch

SHARD_BYTES = 256 * 2**20
"""A scene's tiles are cut into files of about this size."""
BATCH_BYTES = 64 * 2**20
"""Tiles in memory at once, as float32."""

StoredArray = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a scene gave."""

    cells: tuple[str, ...]
    """Ids of the cells whose tiles were written."""
    files: tuple[str, ...]
    report: ReadReport


class SceneReader:
    """Reads one scene after another into one folder."""

    def __init__(
        self,
        order: Order,
        ground: BaseGeometry,
        *,
        policy: AccessPolicy,
        limits: ReadLimits,
        bands_of: Callable[[str], tuple[str, ...]],
        base_of: Callable[[str], str],
    ) -> None:
        """``ground``: where squares lie, lon/lat.

        ``bands_of``: a family's usual bands. ``base_of``: the root of a catalog, by its name.
        """
        self._order = order
        self._ground = ground
        self._policy = policy
        self._limits = limits
        self._bands_of = bands_of
        self._base_of = base_of

    def gather(self, scene: Scene, folder: Path, stem: str) -> Gathered:
        """Read a scene's clear tiles and write them to ``folder/stem-000.safetensors`` and so on.

        Raises:
            VigieError: the policy, the scene's assets or its files do not allow it, or the disk does not.
        """
        plan = self._plan(scene)
        epsg, level = self._grid(plan)
        chosen = squares(self._ground, epsg, self._order)
        tile_px = round(self._order.side_m / gsd_of_level(level))
        facts = ShardFacts(
            family=plan.sensor.family,
            bands=tuple(band.band for band in plan.bands),
            gain=(gain_of(plan.sensor),) * len(plan.bands),
            gsd_m=gsd_of_level(level),
            sensor=scene.collection,
            within_days=self._order.within_days,
        )
        reader = read_tiles(
            plan,
            middles(chosen),
            tile_px=tile_px,
            min_valid_ratio=self._order.min_clear,
            batch_size=max(1, BATCH_BYTES // (4 * len(plan.bands) * tile_px**2)),
            limits=self._limits,
        )
        if not chosen:
            return Gathered(cells=(), files=(), report=reader.report)
        files: list[str] = []
        cells: list[str] = []
        for tiles, ids in _parts(reader, plan.sensor):
            rows = [ShardRow(cell=Cell.parse(cell), sensed=scene.sensing_time, scene=scene.item_id) for cell in ids]
            if any(row.cell.side_m != self._order.side_m or row.cell.level != level for row in rows):
                raise HarvestInvalid(f"scene {scene.item_id} was read on another grid than its first band announced")
            name = f"{stem}-{len(files):03}{SUFFIX}"
            folder.mkdir(parents=True, exist_ok=True)
            write_shard(folder / name, tiles, facts, rows=rows)
            files.append(name)
            cells += ids
        return Gathered(cells=tuple(cells), files=tuple(files), report=reader.report)

    def _plan(self, scene: Scene) -> ReadPlan:
        named = self._order.bands.get(scene.collection)
        bands = named or self._bands_of(named_sensor(scene.sensor).family)
        return read_plan(scene, self._policy, bands=bands, base=self._base_of(scene.catalog))

    def _grid(self, plan: ReadPlan) -> tuple[int, int]:
        """Zone and level that a scene is read on: those of its finest band, as the reader has it."""
        sizes = {name: band.gsd_m for name in plan.sensor.band_names if (band := plan.sensor.band(name)) is not None}
        finest = min(plan.bands, key=lambda source: sizes[source.band])
        with RasterFile.open(finest.href, self._limits) as file:
            return file.zone(), level_for_gsd(max(file.gsd_m(), plan.sensor.gsd_range_m[0]))


def gain_of(sensor: Sensor) -> float:
    """Reflectance per stored number: 8-bit brightness stays what it was, the rest is kept to 1e-4."""
    return 1 / 255 if sensor.level == "dn8" else 1e-4


def stored(batch: TileBatch, sensor: Sensor) -> StoredArray:
    """A batch's reflectance as numbers of :func:`gain_of`, 0 in all bands where there is no clear ground.

    uint8 of 8-bit brightness, else uint16, (N, C, H, W). Ground that is black in all bands becomes 1.
    """
    numbers = np.rint(batch.pixels / gain_of(sensor))
    clear = batch.valid[:, None]  # (N, 1, H, W)
    black = clear & (numbers.max(axis=1, keepdims=True) < 1)
    numbers = np.where(black, 1, np.where(clear, numbers, 0))
    if sensor.level == "dn8":
        return numbers.astype(np.uint8)
    return numbers.astype(np.uint16)


def _parts(batches: Iterable[TileBatch], sensor: Sensor) -> Iterator[tuple[StoredArray, list[str]]]:
    """Batches joined to shards of at most about :data:`SHARD_BYTES`."""
    arrays: list[StoredArray] = []
    ids: list[str] = []
    for batch in batches:
        arrays.append(stored(batch, sensor))
        ids += [tile.cell_id for tile in batch.tiles]
        if sum(array.nbytes for array in arrays) >= SHARD_BYTES:
            yield np.concatenate(arrays), ids
            arrays, ids = [], []
    if arrays:
        yield np.concatenate(arrays), ids
