"""Rectangles of the cell grid, and files whose pixels fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from affine import Affine


@dataclass(frozen=True, kw_only=True)
class GridWindow:
    """A rectangle of pixels on the cell grid of one zone."""

    epsg: int
    """Zone."""
    gsd_m: float
    """Pixel size, metres."""
    west: int
    """First column of pixels, counted eastwards from easting 0."""
    south: int
    """First row of pixels, counted northwards from northing 0."""
    width: int
    """Columns."""
    height: int
    """Rows."""

    @property
    def north(self) -> int:
        """The row beyond the last, counted northwards."""
        return self.south + self.height

    @property
    def transform(self) -> Affine:
        """From (column, row), origin north-west, to metres."""
        return Affine(self.gsd_m, 0.0, self.west * self.gsd_m, 0.0, -self.gsd_m, self.north * self.gsd_m)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north, metres."""
        gsd_m = self.gsd_m
        return self.west * gsd_m, self.south * gsd_m, (self.west + self.width) * gsd_m, self.north * gsd_m


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """A file whose pixels are whole groups of grid pixels: it is read without resampling."""

    ratio: int
    """Grid pixels along a side of a file pixel."""
    west: int
    """Grid column of the file's west edge."""
    north: int
    """Grid row of the file's north edge."""


def apply(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Coordinates of pixel positions, numbers or arrays. (affine changes its operators between versions.)"""
    a, b, c, d, e, f = transform[:6]
    return a * col + b * row + c, d * col + e * row + f


def part_of(transform: Affine, col: float, row: float, width: float, height: float) -> Affine:
    """The transform of a window that begins at (col, row), with pixels of ``width`` by ``height`` of the file's."""
    a, b, _, d, e, _ = transform[:6]
    x, y = apply(transform, col, row)
    return Affine(a * width, b * height, x, d * width, e * height, y)
