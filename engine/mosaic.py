"""Tiles of one scene put back together on the grid: for pictures and heat maps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.errors import InputMismatch
from engine.tiles import Float32Array, Tile

MAX_PIXELS = 100_000_000
"""A mosaic larger than this is refused: it is a picture, and would fill the memory."""


@dataclass
class Mosaic:
    """Collects (C, H, W) pieces of tiles of one zone and pixel size."""

    _pieces: list[tuple[Tile, Float32Array]] = field(default_factory=list)

    def add(self, tile: Tile, piece: Float32Array) -> None:
        """Take the values of one tile.  (C, H, W)

        Raises:
            InputMismatch: the tile is of another zone, pixel size or number of bands than the first.
        """
        if self._pieces:
            first, values = self._pieces[0]
            same = (first.crs, first.transform[0], values.shape) == (tile.crs, tile.transform[0], piece.shape)
            if not same:
                raise InputMismatch(
                    f"tile {tile.cell_id} of shape {piece.shape} does not join {first.cell_id} of shape {values.shape}"
                )
        self._pieces.append((tile, piece))

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def crs(self) -> str:
        """CRS of the tiles."""
        return self._pieces[0][0].crs

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine a..f of the array's upper left corner."""
        a, b, _, d, e, _ = self._pieces[0][0].transform
        west = min(tile.transform[2] for tile, _ in self._pieces)
        north = max(tile.transform[5] for tile, _ in self._pieces)
        return (a, b, west, d, e, north)

    def array(self) -> Float32Array:
        """The whole, NaN where no tile is.  (C, rows, columns)

        Raises:
            InputMismatch: there is no tile, or the whole is larger than :data:`MAX_PIXELS`.
        """
        if not self._pieces:
            raise InputMismatch("a mosaic of no tiles has no array")
        gsd_m, _, west, _, _, north = self.transform
        channels = self._pieces[0][1].shape[0]
        at = [
            (round((north - tile.transform[5]) / gsd_m), round((tile.transform[2] - west) / gsd_m), piece)
            for tile, piece in self._pieces
        ]
        rows = max(row + piece.shape[1] for row, _, piece in at)
        columns = max(column + piece.shape[2] for _, column, piece in at)
        if rows * columns > MAX_PIXELS:
            raise InputMismatch(
                f"a mosaic of {columns} x {rows} pixels is larger than {MAX_PIXELS}; choose a smaller area"
            )
        whole = np.full((channels, rows, columns), np.nan, dtype=np.float32)
        for row, column, piece in at:
            whole[:, row : row + piece.shape[1], column : column + piece.shape[2]] = piece
        return whole
