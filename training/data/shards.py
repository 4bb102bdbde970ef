"""Folders of tile shards (:mod:`engine.shards`) as training images and pairs.

A folder that holds shards is one data set. ``vigie harvest`` writes a folder of such folders, one for each collection;
their tiles are paired where they show the same ground at nearly the same time.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import ShardInvalid
from engine.shards import SUFFIX, Shard, ShardFacts, ShardRow, read_shard
from training.data.digests import digest_of_files
from training.data.pool import PixelArray
from training.errors import TrainingDataInvalid

LEAST_PX = 8
"""A tile that lies in a larger one is paired with its part of it if that has at least so many pixels a side."""

Square = tuple[int, int, int, float]
"""Ground: EPSG code, column and row of a grid of squares, and their side in metres."""


@dataclass(frozen=True, kw_only=True)
class PlacedTile:
    """One tile and the ground that it shows."""

    row: ShardRow
    pixels: PixelArray
    """A view, (H, W, C)."""


@dataclass(frozen=True, kw_only=True)
class TilePair:
    """Two tiles that show the same ground, whole."""

    first: PlacedTile
    second: PlacedTile
    days: float
    """Time between them, days."""


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """All shards of one folder, sorted by name."""

    root: Path
    paths: tuple[Path, ...]
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, root: Path) -> ShardFolder:
        """Read the shards.

        Raises:
            TrainingDataInvalid: there is none, one is damaged, or they do not belong together.
        """
        paths = tuple(sorted(root.glob(f"*{SUFFIX}")))
        if not paths:
            raise TrainingDataInvalid(f"no tile shard (*{SUFFIX}) in {root}; give the folder that holds them")
        try:
            shards = tuple(read_shard(path) for path in paths)
        except ShardInvalid as error:
            raise TrainingDataInvalid(str(error)) from error
        for path, shard in zip(paths, shards, strict=True):
            if _kind(shard) != _kind(shards[0]):
                raise TrainingDataInvalid(
                    f"{path} holds {_kind(shard)}, and {paths[0]} {_kind(shards[0])}; put them in two folders"
                )
        return cls(root=root, paths=paths, shards=shards)

    @property
    def facts(self) -> ShardFacts:
        """What all shards say of their tiles."""
        return self.shards[0].facts

    @property
    def sensor(self) -> str:
        """What took the tiles, as training names it: the collection, else the family."""
        return (self.facts.sensor or self.facts.family).replace(".", "-")

    def images(self) -> list[PixelArray]:
        """All tiles, views of (H, W, C)."""
        return _each([shard.tiles for shard in self.shards])

    def placed(self) -> list[PlacedTile]:
        """The tiles whose ground is known."""
        return [
            PlacedTile(row=row, pixels=tile)
            for shard in self.shards
            if shard.rows
            for row, tile in zip(shard.rows, _each([shard.tiles]), strict=True)
        ]

    def pairs(self) -> list[tuple[PixelArray, PixelArray]]:
        """Tiles that have an earlier look, and that look, views of (H, W, C).

        The earlier look is the shard's own ``earlier``, or else the last tile of the same cell that was sensed before.
        """
        both = [(shard.tiles, shard.earlier) for shard in self.shards if shard.earlier is not None]
        told = list(zip(_each([now for now, _ in both]), _each([before for _, before in both]), strict=True))
        places: dict[str, list[PlacedTile]] = defaultdict(list)
        for tile in self.placed():
            places[tile.row.cell.id].append(tile)
        for looks in places.values():
            looks.sort(key=lambda tile: (tile.row.sensed, tile.row.scene))
            told += [(now.pixels, before.pixels) for before, now in itertools.pairwise(looks)]
        return told

    def digest(self) -> str:
        """SHA-256 of every shard."""
        return digest_of_files(self.root, self.paths)


def open_harvest(root: Path) -> list[ShardFolder]:
    """The data sets of a harvest: the folder itself if it holds shards, else each sub-folder that does.

    Raises:
        TrainingDataInvalid: there is none, or one is damaged.
    """
    if any(root.glob(f"*{SUFFIX}")) or not root.is_dir():
        return [ShardFolder.open(root)]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and any(path.glob(f"*{SUFFIX}")))
    if not folders:
        raise TrainingDataInvalid(f"no tile shard (*{SUFFIX}) in {root} or a folder below it; see `vigie harvest`")
    return [ShardFolder.open(folder) for folder in folders]


def tile_pairs(first: ShardFolder, second: ShardFolder) -> list[TilePair]:
    """Every two tiles of two data sets that show the same ground, no further apart in time than both allow.

    Where one tile's cell lies in another's, it is paired with its part of the larger tile.
    """
    limits = [one.facts.within_days for one in (first, second) if one.facts.within_days is not None]
    limit = min(limits, default=None)
    ours, theirs = first.placed(), second.placed()
    if not ours or not theirs:
        return []
    sides = {tile.row.cell.side_m for tile in theirs}
    there = _by_square(theirs)
    own_sides = {tile.row.cell.side_m for tile in ours}
    pairs: list[TilePair] = []
    for one in ours:
        for side in sides:
            if side >= one.row.cell.side_m:
                pairs += _pairs_within(one, there.get(_square(one, side), ()), limit)
    here = _by_square(ours)
    for other in theirs:
        for side in own_sides:
            if side > other.row.cell.side_m:
                found = _pairs_within(other, here.get(_square(other, side), ()), limit)
                pairs += [TilePair(first=pair.second, second=pair.first, days=pair.days) for pair in found]
    return pairs


def _pairs_within(small: PlacedTile, large: Sequence[PlacedTile], limit: float | None) -> list[TilePair]:
    """A tile beside its part of each of some tiles that hold it."""
    pairs: list[TilePair] = []
    for other in large:
        days = abs((other.row.sensed - small.row.sensed).total_seconds()) / 86400
        part = _part(small, other)
        if part is not None and (limit is None or days <= limit):
            pairs.append(TilePair(first=small, second=part, days=days))
    return pairs


def _part(small: PlacedTile, large: PlacedTile) -> PlacedTile | None:
    """The part of a tile that shows a smaller one's ground; None where it has too few pixels."""
    west, _, _, north = small.row.cell.bounds
    left_m, _, _, top_m = large.row.cell.bounds
    gsd_m = large.row.cell.gsd_m
    side = small.row.cell.side_m / gsd_m
    if side < LEAST_PX or side != int(side):
        return None
    left, top, px = round((west - left_m) / gsd_m), round((top_m - north) / gsd_m), int(side)
    return PlacedTile(row=large.row, pixels=large.pixels[top : top + px, left : left + px])


def _by_square(tiles: Sequence[PlacedTile]) -> Mapping[Square | None, Sequence[PlacedTile]]:
    found: dict[Square | None, list[PlacedTile]] = defaultdict(list)
    for tile in tiles:
        found[_square(tile, tile.row.cell.side_m)].append(tile)
    return found


def _square(tile: PlacedTile, side_m: float) -> Square | None:
    """The square of a side that the tile lies in; None where that is no multiple of the tile's own."""
    cell = tile.row.cell
    if side_m % cell.side_m:
        return None
    west, south, _, _ = cell.bounds
    return cell.epsg, int(west // side_m), int(south // side_m), side_m


def _kind(shard: Shard) -> str:
    return f"{shard.tiles.dtype} tiles of {shard.facts}"


def _each(arrays: Sequence[PixelArray]) -> list[PixelArray]:
    return [tile for array in arrays for tile in array.transpose(0, 2, 3, 1)]


def time_apart(pairs: Sequence[TilePair]) -> str:
    """For people: how far apart in time the looks of some pairs are."""
    days = np.array([pair.days for pair in pairs])
    return f"{days.min():.1f} to {days.max():.1f} days apart, half of them at most {np.median(days):.1f}"
