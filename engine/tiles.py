"""Tiles: squares of a scene on the cell grid, and the batches that the engine eats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One square of a scene on its native projected grid."""

    cell_id: str
    """Global identity of the ground it covers, e.g. ``32629-0-64-812-9120``: see :mod:`engine.grid`."""
    row: int
    """Row of the cell on the global grid of its UTM zone, counted northwards from northing 0."""
    col: int
    """Column of the cell on the global grid of its UTM zone, counted eastwards from easting 0."""
    crs: str
    """Projected CRS, ``EPSG:326xx`` or ``EPSG:327xx``."""
    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a, b, c, d, e, f from (column, row) in pixels to (easting, northing) in metres."""
    size_px: int
    """Side in pixels."""
    valid_ratio: float
    """Share of pixels that are valid ground, 0..1."""


@dataclass(frozen=True, kw_only=True)
class TileBatch:
    """Tiles of one scene with their pixels: what the engine eats."""

    tiles: tuple[Tile, ...]
    """The N tiles, in the order of ``pixels``."""
    pixels: Float32Array
    """Reflectance 0..1, finite everywhere, 0 where not valid.  (N, C, H, W)"""
    valid: BoolArray
    """True where a pixel is cloud-free ground.  (N, H, W)"""
    bands: tuple[str, ...]
    """Common names of the C bands (STAC ``eo:common_name``)."""
    gsd_m: float
    """Pixel size on the cell grid, metres."""

    def __post_init__(self) -> None:
        n, c, h, w = _shape4(self.pixels)
        if self.pixels.dtype != np.float32:
            raise InputMismatch(f"tile pixels are {self.pixels.dtype}; float32 is expected")
        if self.valid.shape != (n, h, w) or self.valid.dtype != np.bool_:
            raise InputMismatch(
                f"valid mask is {self.valid.dtype}{self.valid.shape}; bool{(n, h, w)} belongs to these pixels"
            )
        if len(self.bands) != c:
            raise InputMismatch(f"{c} bands of pixels but {len(self.bands)} band names {self.bands}")
        if len(self.tiles) != n:
            raise InputMismatch(f"{n} tiles of pixels but {len(self.tiles)} tile descriptions")

    def __len__(self) -> int:
        return len(self.tiles)

    def band(self, name: str) -> Float32Array:
        """Pixels of one band.  (N, H, W)

        Raises:
            InputMismatch: the batch has no such band.
        """
        if name not in self.bands:
            raise InputMismatch(f"no band {name!r} among {self.bands}")
        return self.pixels[:, self.bands.index(name)]

    def select(self, bands: Sequence[str]) -> Float32Array:
        """Pixels of the named bands, in that order.  (N, len(bands), H, W)

        Raises:
            InputMismatch: the batch lacks one of them.
        """
        missing = [name for name in bands if name not in self.bands]
        if missing:
            raise InputMismatch(f"bands {missing} are not among {self.bands}")
        return self.pixels[:, [self.bands.index(name) for name in bands]]

    def subset(self, indices: Sequence[int]) -> TileBatch:
        """The batch of the tiles at ``indices``."""
        take = list(indices)
        return replace(
            self,
            tiles=tuple(self.tiles[i] for i in take),
            pixels=self.pixels[take],
            valid=self.valid[take],
        )


def _shape4(pixels: Float32Array) -> tuple[int, int, int, int]:
    if pixels.ndim != 4:
        raise InputMismatch(f"tile pixels have shape {pixels.shape}; (N, C, H, W) is expected")
    n, c, h, w = pixels.shape
    return n, c, h, w
